"""The translation recipe as it is used: from any file, with any kind of model, to a folder that anyone loads."""

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import transformers

from hftrain import text
from hftrain.config import ConfigError, parse
from hftrain.data.examples import Examples
from hftrain.data.rows import fingerprint
from hftrain.predict import predict
from hftrain.tasks import translation
from hftrain.tasks.translation import TranslateConfig
from hftrain.tasks.translation.report import describe
from recipes import translate as recipe
from tests import ROOT, tiny
from tests.old_folders import without_the_key
from tests.programs import launcher, run

RECIPE = ROOT / "recipes" / "translate.py"
WORDS = {"one": "eins", "two": "zwei", "three": "drei", "red": "rot", "blue": "blau"}
WORDS |= {"dog": "Hund", "cat": "Katze", "house": "Haus", "tree": "Baum"}
PAIRS = [(f"{a} {b}", f"{WORDS[a]} {WORDS[b]}") for a in WORDS for b in WORDS]
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_encoder_layers": 1, "num_decoder_layers": 1}
SHAPE |= {"num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The pairs in every form that the README names."""
    folder = tmp_path_factory.mktemp("pairs")
    write = {name: (folder / name).write_text for name in ("pairs.jsonl", "pairs.csv", "pairs.tsv", "pairs.txt")}
    write["pairs.jsonl"]("".join(json.dumps({"en": en, "de": de}) + "\n" for en, de in PAIRS))
    write["pairs.csv"]("en,de\n" + "".join(f'"{en}",{de}\n' for en, de in PAIRS))
    write["pairs.tsv"]("en\tde\n" + "".join(f"{en}\t{de}\n" for en, de in PAIRS))
    write["pairs.txt"]("".join(f"{en}\t{de}\n" for en, de in PAIRS))
    for side, language in enumerate(("en", "de")):
        with gzip.open(folder / f"pairs.{language}.gz", "wt", encoding="utf-8") as file:
            file.writelines(pair[side] + "\n" for pair in PAIRS)
    rows = datasets.Dataset.from_dict(dict(zip(("en", "de"), zip(*PAIRS, strict=True), strict=True)))
    rows.to_parquet(folder / "pairs.parquet")
    rows.save_to_disk(folder / "saved")
    datasets.Dataset.from_dict({"translation": [{"en": en, "de": de} for en, de in PAIRS]}).save_to_disk(
        folder / "nested"
    )
    return folder


def configured(folder: Path, output_dir: Path, **settings: Any) -> Any:
    """A run of two steps on the pairs."""
    defaults: dict[str, Any] = {"train_file": folder / "pairs.jsonl", "source_column": "en", "target_column": "de"}
    defaults |= {"max_steps": 2, "eval_steps": 0, "save_steps": 0, "logging_steps": 1, "max_target_length": 12}
    defaults |= {"vocab_size": 300, "num_beams": 2, "output_dir": output_dir}
    defaults |= {"validation_split": 0.05, "test_split": 0.05, "global_batch_tokens": 2048}
    if "model_name_or_path" not in settings:
        defaults["model_config"] = SHAPE
    return recipe.TranslateConfig(**defaults | settings)


LANGUAGES = {"nllb": {"source_lang": "deu_Latn", "target_lang": "eng_Latn"}}  # not the order it was built with
LANGUAGES |= {kind: {"source_lang": "en_XX", "target_lang": "de_DE"} for kind in ("mbart", "mbart50")}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    base = tmp_path_factory.mktemp("pretrained")
    return lambda kind: base / kind if (base / kind).exists() else tiny.translator(kind, base / kind, PAIRS)


@pytest.fixture(scope="module")
def own(folder, tmp_path_factory) -> Path:
    """A finished run of our own model."""
    output = tmp_path_factory.mktemp("own") / "out"
    recipe.main(configured(folder, output, predict_with_generate=True, label_smoothing_factor=0.1, max_target_length=6,
                           metric_for_best_model="sacrebleu", greater_is_better=True,
                           test_file=folder / "pairs.csv"))  # fmt: skip
    return output


# ---- from data


@pytest.mark.parametrize(
    "source",
    ["pairs.csv", "pairs.tsv", "pairs.txt", "pairs.parquet", "pairs.{lang}.gz", "saved", "nested"],
)
def test_every_form_of_data_gives_the_same_rows(folder, tmp_path, source):
    columns = {"source_column": "translation.en", "target_column": "translation.de"} if source == "nested" else {}
    where: dict[str, Any] = {"train_file": folder / source}
    if source in ("saved", "nested"):
        where = {"train_file": None, "dataset_name": str(folder / source)}
    expected = translation.load_pairs(configured(folder, tmp_path), seed=1)
    found = translation.load_pairs(configured(folder, tmp_path, **where, **columns), seed=1)
    assert {name: len(rows) for name, rows in found.items()} == {"train": 73, "validation": 4, "test": 4}
    assert all(fingerprint(found[name]) == fingerprint(expected[name]) for name in expected)


def test_at_most_500_rows_spread_evenly_are_translated_at_each_evaluation(folder, tmp_path):
    rows = translation.load_pairs(configured(folder, tmp_path), seed=1)["train"]
    many = rows.select([number % 73 for number in range(1501)])
    examples = Examples(many["source"][:], np.arange(1501))
    few, references = translation.spread(examples, many)
    assert len(few) == len(references) == 500 and few[499] == many["source"][1500]
    assert few.lengths[:, 0].tolist() == np.linspace(0, 1500, 500).astype(int).tolist()
    assert references == [many["target"][place] for place in few.lengths[:, 0]]
    few, references = translation.spread(Examples(rows["source"][:], np.ones(73)), rows)
    assert list(few) == rows["source"][:] and references == rows["target"][:]


def test_columns_that_nothing_reads_are_named(folder, tmp_path, caplog):
    rows = [{**json.loads(line), "context": "c"} for line in (folder / "pairs.jsonl").read_text().splitlines()]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    translation.load_pairs(configured(folder, tmp_path, train_file=file), seed=1)
    (said,) = [record.message for record in caplog.records if "not read" in record.message]
    named = f"columns that are not read: context ({len(rows)} rows) in {file}"
    assert said == f"{named}. source_column and target_column choose the columns"


def test_data_in_report_is_what_was_left_out_leaked_and_cut(folder, tmp_path, caplog):
    bad = tmp_path / "bad.jsonl"
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    lines[3:3] = ['{"en": null, "de": "x"}', "{"]
    bad.write_text("\n".join(lines))
    half = tmp_path / "half.tsv"  # of four rows, one stands in the training rows, and of another the source does
    half.write_text("en\tde\none two\teins zwei\none dog\tfalsch\nnew\tneu\nsome other words and more\tx\n")
    config = configured(
        folder, tmp_path, train_file=bad, test_file=half, max_bad_rows=2, max_source_length=6, validation_split=10
    )
    rows = translation.load_pairs(config, seed=1)
    tokenizer = text.train_tokenizer(text.texts_of(rows["train"]), 300)
    examples = {name: translation.tokenize(split, tokenizer, config) for name, split in rows.items()}
    said = {name: describe(split, examples[name]) for name, split in rows.items()}
    assert said["train"]["unusable rows left out"] == "2 (2.7 %)" and said["test"]["unusable rows left out"] == "0"
    assert said["test"]["rows that are also in train"] == "1 (25.0 %)"
    assert said["test"]["sources that are also in train"] == "2 (50.0 %)"
    assert (
        said["validation"]["rows that are also in train"] == "0" and said["train"]["rows that are also in train"] == ""
    )
    whole = [len(ids) for ids in tokenizer(rows["test"]["source"][:])["input_ids"]]
    cut = sum(length > 6 for length in whole)
    assert (
        cut
        and said["test"]["sources truncated"] == f"{cut} ({25 * cut}.0 %)"
        and examples["test"].lengths[:, 0].max() == 6
    )
    messages = caplog.text
    assert f"left out: {bad}, line 4: column 'en' is null" in messages and f"{bad}, line 5: " in messages
    assert "leak: 1 of 4 test rows are in the training rows too, 1 more share only the en" in messages
    assert f"test: {cut} of 4 rows" in messages and "max_source_length = 6 and are truncated" in messages


@pytest.mark.slow
def test_built_in_data_in_other_locales(folder, tmp_path):
    settings: dict[str, Any] = {"train_file": None, "dataset_name": "cldr", "source_lang": "fr", "target_lang": "pt-BR"}
    rows = translation.load_pairs(configured(folder, tmp_path, **settings), seed=1)
    assert {name: len(split) for name, split in rows.items()} == {"train": 24_000, "validation": 500, "test": 500}
    assert rows["test"].leaks[:2] == (0, 0)
    assert any(" de " in text for text in rows["test"]["target"])


# ---- what a run leaves


def test_results_log_report_and_card_agree(own):
    results = json.loads((own / "all_results.json").read_text())
    log = [json.loads(line) for line in (own / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in log if "loss" in line]
    evaluations = [line for line in log if "eval_loss" in line]
    assert [line["step"] for line in steps] == [1, 2] and results["total_steps"] == 2
    assert results["train_loss"] == pytest.approx(sum(line["loss"] for line in steps) / 2)
    assert results["samples_seen"] == 2 * (81 - 4) and results["epoch"] == 2.0  # a step holds all training rows
    kept = next(line for line in evaluations if line["step"] == results["best_step"])
    for name in ("loss", "sacrebleu", "chrf"):
        assert results[f"eval_{name}"] == kept[f"eval_{name}"]
    assert re.match(r"nrefs:1\|.*\|tok:13a\|", results["test_sacrebleu_signature"])
    card, page = (own / "README.md").read_text(), (own / "report.html").read_text()
    for shown in (card, page):
        assert "targets truncated" in shown and "rows that are also in train" in shown
        assert re.search(r"77 \\?\(95.1 %\\?\)", shown)
    assert "Trained from scratch" in card and f"value: {round(results['test_chrf'], 4)}" in card
    assert {path.name for path in own.iterdir()} >= {"model.safetensors", "tokenizer.json", "generation_config.json"}


def test_saved_folder_scores_what_was_reported(own):
    """The weights, the tokenizer and the search that were saved are those that were scored."""
    again = predict(own, [en for en, _ in PAIRS])
    results = json.loads((own / "all_results.json").read_text())
    scored = translation.score(again, [de for _, de in PAIRS])
    for name in ("sacrebleu", "chrf", "exact_match"):
        assert scored[name] == pytest.approx(results[f"test_{name}"])


def test_goes_on_from_its_own_folder(folder, own, tmp_path):
    results = recipe.main(configured(folder, tmp_path / "on", model_name_or_path=str(own), learning_rate=1e-3))
    before = json.loads((own / "all_results.json").read_text())
    assert results["train_loss"] < before["train_loss"]
    assert (tmp_path / "on" / "tokenizer.json").read_bytes() == (own / "tokenizer.json").read_bytes()
    with_tokenizer = recipe.main(configured(folder, tmp_path / "new", tokenizer_name_or_path=str(own)))
    assert with_tokenizer["train_loss"] > results["train_loss"]


# ---- pretrained models


KINDS = ["marian", "t5", "mbart", "mbart50", "nllb"]
ADAPTED = [pytest.param(kind, True, marks=() if kind in ("t5", "nllb") else pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize(("kind", "use_peft"), [*((kind, False) for kind in KINDS), *ADAPTED])
def test_pretrained(folder, pretrained, tmp_path, kind, use_peft):
    """Trains, is saved, reopens, and writes from the very tokens that training had the decoder read first."""
    base, out = pretrained(kind), tmp_path / "out"
    prefix = "one: " if kind == "t5" else ""
    settings = LANGUAGES.get(kind, {}) | {"source_prefix": prefix, "use_peft": use_peft, "learning_rate": 1e-2}
    config = configured(folder, out, model_name_or_path=str(base), **settings)
    before = transformers.AutoModelForSeq2SeqLM.from_pretrained(base)
    recipe.main(config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    if use_peft:
        import peft

        model = peft.AutoPeftModelForSeq2SeqLM.from_pretrained(out)
        assert any(parameter.abs().max() > 0 for name, parameter in model.named_parameters() if "lora_B" in name)
        assert not (out / "model.safetensors").exists()
        model = model.merge_and_unload()
        model.generation_config = transformers.GenerationConfig.from_pretrained(out)
    else:
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(out)
    changed = [
        name
        for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True)
        if (new != old).any()
    ]
    assert changed
    rows = datasets.Dataset.from_dict({"source": ["one dog"], "target": ["eins Hund"]})
    (example,) = translation.tokenize(rows, tokenizer, config)
    batch = translation.pair_collator(tokenizer, model)([example])
    generated = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=4)[0]
    language = text.language_id(tokenizer, config.target_lang)
    given = 1 if language is None or kind == "mbart" else 2  # what is not the model's to choose: a start, a language
    assert generated[:given].tolist() == batch["decoder_input_ids"][0, :given].tolist()
    if language is not None:
        assert generated[given - 1] == language
        assert tokenizer.src_lang == config.source_lang  # a reader need not set it again
        assert tokenizer("dog").input_ids == tokenizer("dog", text_target="Hund").input_ids
    said = predict(out, ["one dog"], max_new_tokens=4)  # with the prefix of the training
    assert said == predict(out, [prefix + "one dog"], source_prefix="", max_new_tokens=4)
    if prefix:
        assert said == predict(without_the_key(out, tmp_path / "old"), ["one dog"], max_new_tokens=4)
    assert said == [text.decode(tokenizer, generated[None])[0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_name_or_path": "{nllb}"}, r"no language 'en'; perhaps eng_Latn"),
        ({"model_name_or_path": "{t5}", "model_config": {"dmodel": 8}}, r"t5 has no 'dmodel'; did you mean 'd_model'"),
        (
            {"model_name_or_path": "{t5}", "tokenizer_name_or_path": "{own}"},
            r"has 300 tokens, but .* choose the model's own",
        ),
        ({"model_name_or_path": "{marian}", "max_source_length": 2000}, r"max_source_length=2000, .* only 1024 tokens"),
        ({"model_config": {"position_embedding_type": "learned", "max_position_embeddings": 9}}, "for only 9 tokens"),
        ({"source_column": "eng"}, r"pairs.jsonl, line 1: no column 'eng'; there are 'en', 'de'; did you mean 'en'"),
        ({"train_file": "{folder}/pair.jsonl"}, r"no file .*; did you mean 'pairs.jsonl'"),
        ({"train_file": None, "dataset_name": "cldr", "target_lang": "dee"}, "no locale 'dee'"),
        ({"validation_split": 0}, "no validation rows: set validation_file, or validation_split above 0"),
    ],
)
def test_mistakes_are_named(folder, pretrained, own, tmp_path, settings, message):
    def filled(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        kinds = {kind: str(pretrained(kind)) for kind in ("nllb", "t5", "marian") if f"{{{kind}}}" in value}
        return value.format(own=own, folder=folder, **kinds)

    settings = {name: filled(value) for name, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        recipe.main(configured(folder, tmp_path, **settings))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model_config:\n  dropout: 0\n  hiden_size: 3\n",
            r"run.yaml:3: .*no 'hiden_size'; did you mean 'hidden_size'",
        ),
        ("use_peft: true\n", r"run.yaml:1, .*adapters need a pretrained model"),
        (
            "metric_for_best_model: chrf\npredict_with_generate: false",
            r"predict_with_generate: without .* only loss is",
        ),
    ],
)
def test_mistakes_in_yaml_have_file_and_line(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse(recipe.TranslateConfig, ["--config", str(tmp_path / "run.yaml")])


# ---- as commands


@pytest.mark.slow
def test_cards_python_runs_where_hftrain_is_not(folder, pretrained, own, tmp_path):
    """Pasted from the card, in a process that cannot import hftrain: our own model, and adapters with languages."""
    adapters = tmp_path / "adapters"
    config = configured(
        folder, adapters, model_name_or_path=str(pretrained("nllb")), use_peft=True, **LANGUAGES["nllb"]
    )
    recipe.main(config)
    codes = []
    for out in (own, adapters):
        codes += re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert len(codes) == 2
    checked = "\nassert model.generation_config.forced_bos_token_id == tokenizer.convert_tokens_to_ids('eng_Latn')\n"
    code = "import sys\nsys.modules['hftrain'] = None\n" + "\nprint('---')\n".join(codes) + checked
    ran = run(sys.executable, "-c", code, PYTHONPATH="", HF_MODULES_CACHE=str(tmp_path / "modules"))
    first = ran.stdout.partition("---")[0].strip()
    source = re.search(r"tokenizer\('(.*?)', return_tensors", codes[0]).group(1)
    assert first == predict(own, [source])[0]


def test_the_built_in_pairs_are_described():
    config = TranslateConfig()
    rows = translation.load_pairs(config, seed=1)
    tokenizer = text.train_tokenizer(text.texts_of(rows["test"]), 300)
    described = describe(rows["test"], translation.tokenize(rows["test"], tokenizer, config))
    assert described["unusable rows left out"] == "0" and described["rows"] == len(rows["test"])


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(folder, tmp_path):
    """The line of the issue, and what the user sees of it: everything once."""
    words = ["--train_file", folder / "pairs.tsv", "--source_column", "en", "--target_column", "de"]
    words += ["--test_file", folder / "pairs.jsonl", "--max_steps", 6, "--global_batch_size", 12]
    words += ["--micro_batch_size", 5, "--logging_steps", 1, "--vocab_size", 300, "--num_beams", 1]
    words += ["--eval_steps", 3, "--save_steps", 0, "--max_target_length", 12, "--predict_with_generate"]
    words += [word for name, value in SHAPE.items() for word in (f"--model_config.{name}", value)]
    words += ["--model_config.dropout", 0]
    two = run(*launcher(), RECIPE, *words, "--output_dir", tmp_path / "two")
    one = run(sys.executable, RECIPE, *words, "--output_dir", tmp_path / "one")
    logs = []
    for name in ("one", "two"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        kept = ("step", "loss", "grad_norm", "eval_loss", "eval_sacrebleu", "eval_chrf")
        logs.append([{key: line[key] for key in kept if key in line} for line in lines])
    assert len(logs[0]) == len(logs[1]) == 8 and sum("grad_norm" in line for line in logs[0]) == 6
    for alone, together in zip(*logs, strict=True):
        assert together == pytest.approx(alone, rel=1e-5)
    results = [json.loads((tmp_path / name / "all_results.json").read_text()) for name in ("one", "two")]
    for key in ("train_loss", "samples_seen", "tokens_seen", "epoch", "test_sacrebleu", "test_chrf", "eval_loss"):
        assert results[1][key] == pytest.approx(results[0][key], rel=1e-5)
    for ran in (one, two):  # on the terminal, once, and nothing else
        assert len(re.findall(r"leak: \d+ of 81 test rows are in the training rows too", ran.stderr)) == 1
        assert ran.stdout.count("step 6/6  loss") == 1
        assert "Warning" not in ran.stderr, ran.stderr
