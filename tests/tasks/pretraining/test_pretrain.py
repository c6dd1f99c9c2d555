"""The pretraining recipes as users run them: any architecture, packed or not, what is refused, and what it says."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hftrain.config import ConfigError, parse
from hftrain.data.noise import Noised
from hftrain.data.tokens import TokenFiles, blocks
from hftrain.models import TransformerConfig, new
from hftrain.tasks import pretraining
from hftrain.tasks.pretraining import denoising
from hftrain.tasks.pretraining.prepare import prepare
from hftrain.text import train_tokenizer
from hftrain.train.flops import count_parameters
from recipes import pretrain as PRETRAIN
from recipes import pretrain_mlm as MLM
from tests import ROOT

SMALL = ["--model_config.hidden_size", "32", "--model_config.num_hidden_layers", "2", "--vocab_size", "300"]
RUN = [
    "--max_steps",
    "4",
    "--global_batch_size",
    "8",
    "--micro_batch_size",
    "4",
    "--eval_steps",
    "0",
    "--save_steps",
    "0",
]
WORDS = ["the", "ship", "sails", "under", "a", "red", "sky", "and", "nobody", "sees", "it", "but", "birds"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Lines of random words, each a document."""
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(WORDS, random.integers(3, 30))) for _ in range(200)]
    path = tmp_path_factory.mktemp("texts") / "lines.txt"
    path.write_text("\n".join(lines))
    return path


def run(module, tmp_path, texts, *words, start=(*SMALL, *RUN)):
    config_class = {PRETRAIN: "PretrainConfig", MLM: "PretrainMlmConfig"}[module]
    argv = ["--train_file", str(texts), "--max_length", "48", "--output_dir", str(tmp_path / "out"), *start, *words]
    return module.main(parse(getattr(module, config_class), argv))


def test_a_causal_model_learns_packed_documents_and_can_be_used(tmp_path, texts, capsys):
    results = run(PRETRAIN, tmp_path, texts, "--model", "gpt2", "--sample_tokens", "99", "--learning_rate", "1e-2",
                  "--logging_steps", "10")  # fmt: skip
    assert results["eval_loss"] < math.log(300) - 0.3
    assert results["eval_perplexity"] == pytest.approx(math.exp(results["eval_loss"]))
    assert results["train_tflops"] > 0 and results["train_mfu"] == "unknown"
    logged = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert all("mfu" not in row for row in logged)
    assert [row["step"] for row in logged if "loss" in row] == [1, 4]
    report = (tmp_path / "out" / "report.html").read_text()
    assert f"trained from scratch · {results['parameters']:,} parameters · 20" in report
    assert "training loss, last" in report and results["trained_parameters"] == results["parameters"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "continuation" in card and "bits" in card and "validation split" in card
    code = card.split("```python\n")[1].split("```")[0]
    exec(code, {})
    assert "Once" in capsys.readouterr().out


@pytest.mark.parametrize(
    "model", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "qwen3")), "transformer"]
)
def test_any_architecture_from_scratch(model, tmp_path, texts):
    results = run(PRETRAIN, tmp_path, texts, "--model", model, "--sample_tokens", "0")
    assert results["eval_loss"] < 6.5


def test_packed_and_single_documents_are_the_same_training(tmp_path, texts):
    """One step over everything: the objective is a mean over tokens, so how they share rows cannot matter."""
    everything = ["--max_steps", "1", "--global_batch_size", "1000", "--eval_batch_size", "7", "--sample_tokens", "0"]
    one, other = (
        run(PRETRAIN, tmp_path / packing, texts, "--packing", packing, *everything, start=[*SMALL, *RUN[4:]])
        for packing in ("best_fit", "none")
    )
    assert other["samples_seen"] > 2 * one["samples_seen"]
    for name in ("train_loss", "eval_loss", "eval_bits_per_byte"):
        assert one[name] == pytest.approx(other[name], rel=1e-5)


@pytest.mark.slow
def test_prepared_tokens_and_rows_are_the_same_run_and_the_tokenizer_comes_along(tmp_path, texts):
    rows = run(PRETRAIN, tmp_path / "rows", texts, "--sample_tokens", "0")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rows" / "out")
    folder = prepare({"lines": str(texts)}, tokenizer, tmp_path / "tokens", validation_split=0.05)
    tokens = run(PRETRAIN, tmp_path / "prepared", folder, "--sample_tokens", "0", start=[*SMALL[:4], *RUN])
    assert tokens["eval_loss"] == rows["eval_loss"] and tokens["train_loss"] == rows["train_loss"]
    further = ["--model_name_or_path", str(tmp_path / "rows" / "out"), "--sample_tokens", "0"]
    better = run(PRETRAIN, tmp_path / "further", folder, *further, start=RUN)
    assert better["train_loss"] < rows["train_loss"]
    other = train_tokenizer(["a b c"], 262)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="another tokenizer"):
        run(PRETRAIN, tmp_path / "wrong", folder, "--tokenizer_name_or_path", str(tmp_path / "other"), start=RUN)


def test_bits_per_byte_counts_every_token_but_the_first_over_every_byte(tmp_path):
    file = tmp_path / "two.txt"
    file.write_text("ab cd\nefg\n")
    tokenizer = train_tokenizer(["x"], 260)
    files = TokenFiles(prepare({"two": str(file)}, tokenizer, tmp_path / "tokens"))
    found = pretraining.readings(2.0, blocks(files, 64), files)
    assert files.tokens == 6 + 4 + 2  # " ab cd" and " efg", a space before each; an end token after each
    assert found["bits_per_byte"] == pytest.approx(2.0 * (12 - 2) / math.log(2) / 8)
    assert pretraining.readings(2.0, blocks(files, 3, packing="none"), files) == pytest.approx(found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "lama"], "did you mean llama"),
        (["--model", "gpt2", "--model_config.n_layers", "3"], "did you mean 'n_layer'"),
        (["--model", "t5"], "AutoModelForCausalLM does not support 't5'"),
        (["--test_file", "x.txt"], "scored on the validation text"),
        (["--vocab_size", "400", "--tokenizer_name_or_path", "gpt2"], "applies only to a new tokenizer"),
        (["--packing", "best"], "best_fit"),
    ],
)
def test_settings_that_cannot_be(words, message):
    with pytest.raises(ConfigError, match=message):
        parse(PRETRAIN.PretrainConfig, ["--train_file", "x.txt", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "bert"], "is not a causal language model"),
        (["--model", "bloom"], "turn packing off"),
        (["--model", "gpt2", "--model_config.n_positions", "20"], "positions for only 20 tokens"),
        (["--model_config.vocab_size", "50"], "only 50 embeddings"),
        (["--model", "transformer", "--model_config.num_attention_heads", "5"], "model_config: hidden_size must be"),
    ],
)
def test_models_that_cannot_learn_this_way(words, message, tmp_path, texts):
    with pytest.raises(ValueError, match=message):
        run(PRETRAIN, tmp_path, texts, *words)


def test_text_is_read_as_far_as_it_is_needed(texts):
    words = ["--train_file", str(texts), "--vocab_size", "300", "--max_steps", "10", "--global_batch_tokens", "600"]
    config = parse(PRETRAIN.PretrainConfig, words)
    assert pretraining.max_tokens(config, pretraining.name_sources(["org/endless:train"]), 0.25) == 8000
    assert pretraining.max_tokens(config, pretraining.name_sources([str(texts)]), 0.25) is None
    _, files = pretraining.load_tokens(parse(PRETRAIN.PretrainConfig, [*words, "--max_train_tokens", "700"]))
    assert files["train"].manifest["made_from"]["settings"]["max_tokens"] == 700


def test_positions_that_roberta_keeps_for_padding_do_not_count(tmp_path, texts):
    with pytest.raises(ValueError, match=r"positions for only 4[0-9] tokens.*max_position_embeddings=(\d+)") as refused:
        run(MLM, tmp_path, texts, "--model", "roberta")
    enough = str(refused.value).split("max_position_embeddings=")[1].split()[0]
    run(MLM, tmp_path, texts, "--model", "roberta", "--model_config.max_position_embeddings", enough)


def test_what_a_new_shape_leaves_open_follows_from_what_it_says():
    vocabulary = {"vocab_size": 300, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    llama = new.new_shape("llama", {"hidden_size": 384}, vocabulary, 100)
    assert (llama.num_attention_heads, llama.head_dim, llama.num_key_value_heads) == (6, 64, 6)
    assert llama.intermediate_size == 1024 and llama.max_position_embeddings == 100 and llama.vocab_size == 300
    gpt2 = new.new_shape("gpt2", {"n_embd": 128, "hidden_size": 128, "n_layer": 3}, vocabulary, 64)
    assert (gpt2.n_embd, gpt2.n_head, gpt2.n_layer, gpt2.n_positions) == (128, 2, 3, 64)
    t5 = new.new_shape("t5", {"d_model": 128}, vocabulary, 64)
    assert (t5.d_model, t5.num_heads, t5.d_kv, t5.d_ff, t5.decoder_start_token_id) == (128, 2, 64, 512, 0)
    own = new.new_shape("transformer", {"hidden_size": 64}, vocabulary, 64, {"num_encoder_layers": 0})
    assert isinstance(own, TransformerConfig) and own.form == "decoder-only" and own.num_decoder_layers == 6
    padded = new.new_shape("llama", {"vocab_size": 320}, vocabulary, 64)
    assert padded.vocab_size == 320


@pytest.mark.parametrize(
    ("words", "chance"),
    [
        (["--model", "bert", "--whole_word_mask"], 300),
        pytest.param(["--model", "modernbert", "--packing", "none"], 300, marks=pytest.mark.slow),
        pytest.param(["--model", "transformer"], 300, marks=pytest.mark.slow),
        (["--objective", "span_corruption", "--model", "t5"], 400),
        pytest.param(["--objective", "span_corruption", "--model", "transformer"], 400, marks=pytest.mark.slow),
    ],
)
def test_denoising(words, chance, tmp_path, texts):
    start = [*SMALL[:-1], str(chance), *RUN]  # the vocabulary, with its marks
    results = run(MLM, tmp_path, texts, *words, "--learning_rate", "5e-3", start=start)
    assert results["eval_loss"] < math.log(chance)
    assert results["eval_perplexity"] == pytest.approx(math.exp(results["eval_loss"]))


@pytest.mark.slow
def test_the_usage_of_a_masked_language_model_runs(tmp_path, texts, capsys):
    run(MLM, tmp_path, texts)
    exec((tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0], {})
    assert "token_str" in capsys.readouterr().out


def test_what_is_hidden_does_not_depend_on_the_cut(tmp_path, texts):
    found = []
    for size in ("8", "2"):
        plain = ["--model_config.hidden_dropout_prob", "0", "--model_config.attention_probs_dropout_prob", "0"]
        start = [*SMALL, *RUN[:-5], size, *RUN[-4:], *plain]
        found.append(run(MLM, tmp_path / size, texts, "--model", "bert", start=start)["train_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_what_is_hidden_is_never_special_and_words_are_whole(texts, tmp_path):
    config = parse(MLM.PretrainMlmConfig, ["--train_file", str(texts), "--whole_word_mask", *SMALL[4:]])
    tokenizer, files = pretraining.load_tokens(config, denoising.MARKS["masked_tokens"])
    examples = pretraining.make_blocks(config, files, "concatenate")["train"]
    noise, starts = denoising.make_noise(config, tokenizer), denoising.word_starts(tokenizer)
    special = set(tokenizer.all_special_ids)
    hidden = 0
    for index in range(4):
        example, noised = examples[index], Noised(examples, noise, 0)[index]
        chosen = noised["labels"] != -100
        assert not special & set(example["input_ids"][chosen].tolist())
        for place in np.flatnonzero(chosen)[:-1]:  # a word's next token is hidden with it
            following = int(example["input_ids"][place + 1]) if place + 1 < len(chosen) else 0
            if not starts[following] and following not in special:
                assert chosen[place + 1]
        hidden += int(chosen.sum())
    assert hidden > 0 and len(tokenizer) == config.vocab_size == 300  # the mask is one of them
    assert str(tokenizer.convert_ids_to_tokens(int(np.flatnonzero(starts)[-1]))).startswith("Ġ")


def test_spans_are_batched_for_the_model_and_their_lengths_are_known(texts, tmp_path):
    words = ["--objective", "span_corruption", "--model", "t5", "--train_file", str(texts), "--vocab_size", "400"]
    config = parse(MLM.PretrainMlmConfig, words)
    tokenizer, files = pretraining.load_tokens(config, denoising.MARKS["span_corruption"])
    noise = denoising.make_noise(config, tokenizer)
    examples = pretraining.make_blocks(config, files, "none")["train"]
    lengths = denoising.measured(noise, config.objective, examples).lengths
    rows = [noise(examples[i]) for i in range(8)]
    for row, (source, target) in zip(rows, lengths, strict=False):
        assert len(row["input_ids"]) <= source and len(row["labels"]) <= target
        assert len(row["input_ids"]) >= source - 1


# ---- the configs of real sizes ----


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("pretrain-nanogpt-cpu", 0.83),
        ("pretrain-10m", 10.2),
        ("pretrain-124m", 124.5),
        ("pretrain-1b", 1100),
        ("pretrain-7b", 6738),
        ("pretrain-70b", 68977),
    ],
)
def test_the_configs_have_the_size_they_say(name, millions):
    path = ROOT / "recipes" / "configs" / f"{name}.yaml"
    config = parse(PRETRAIN.PretrainConfig, ["--config", str(path), "--train_file", "x.txt"])
    size = config.model_config.get("vocab_size", config.vocab_size)
    vocabulary = {"vocab_size": size, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    shape = new.new_shape(config.model, config.model_config, vocabulary, config.max_length)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, rel=0.01)
