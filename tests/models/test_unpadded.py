"""Without padding, a model gives the loss, the gradients and the random numbers of the padded batch."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from hftrain import Examples, TrainConfig, causal_language_model, fit, sequence_to_sequence, text
from hftrain.data.plan import seed_all
from hftrain.labels.losses import classification
from hftrain.models import TransformerConfig
from hftrain.models.places import similar
from hftrain.models.unpadded import CAUSAL, FULL, OTHER, kind_of, places_of, stacks_of, unpadded
from hftrain.tasks.preference import PreferenceRecipeConfig, preference_loss
from hftrain.tasks.preference.examples import collate_preferences
from hftrain.text.causal import collate_causal
from hftrain.train.trials import padding, without_padding
from tests.train.resume_worker import BrokenOff, break_off

pytestmark = pytest.mark.unit
SIZE = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
OWN = {"num_encoder_layers": 2, "num_decoder_layers": 2, "dropout": 0.1, "attention_dropout": 0.1}
OWN |= {name: size for name, size in SIZE.items() if name != "num_hidden_layers"}
LENGTHS = (3, 17, 1, 9, 12, 5, 9)


def ids(lengths, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(3, 97, n) for n in lengths]


def texts():
    rows = ids(LENGTHS)
    batch = {"input_ids": text.pad(rows, 0), "attention_mask": text.attention_mask(rows)}
    return batch | {"labels": torch.arange(len(rows)) % 3}


def pairs():
    rows = zip(ids(LENGTHS), ids((5, 14, 2, 9, 17, 1, 8), 1), strict=True)
    rows = [{"input_ids": source, "labels": target} for source, target in rows]
    return text.collate_pairs(rows, pad_token_id=0, decoder_start_token_id=1)


def documents():
    return collate_causal([{"input_ids": row} for row in ids(LENGTHS)], pad_token_id=0)


def preferences():
    rows = zip(ids(LENGTHS), ids((5, 14, 2, 9, 17, 1, 8), 1), strict=True)
    rows = [
        {"first_input_ids": one, "first_labels": one, "second_input_ids": two, "second_labels": two}
        for one, two in ((np.append(3, one), np.append(3, two)) for one, two in rows)
    ]
    return collate_preferences(rows, pad_token_id=0) | {"reference": torch.zeros(len(rows), 2)}


def classifier(name, **changes):
    config = transformers.AutoConfig.for_model(name, **SIZE | changes, num_labels=3, pad_token_id=0)
    return transformers.AutoModelForSequenceClassification.from_config(config)


def decoder(name, **changes):
    config = transformers.AutoConfig.for_model(name, **SIZE | changes, attention_dropout=0.1, pad_token_id=0)
    return AutoModelForCausalLM.from_config(config)


def marian(**changes):
    size = {"vocab_size": 97, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48}
    heads = {"decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "pad_token_id": 0}
    config = transformers.MarianConfig(**size | heads | changes, decoder_start_token_id=1, attention_dropout=0.1)
    return AutoModelForSeq2SeqLM.from_config(config)


def own(kind, **changes):
    config = TransformerConfig(**OWN | changes, position_embedding_type=kind, pad_token_id=0, decoder_start_token_id=1)
    return AutoModelForSeq2SeqLM.from_config(config)


CASES = {
    "bert": lambda: (classifier("bert"), texts()),
    "distilbert": lambda: (classifier("distilbert", dim=32, n_heads=4, n_layers=2, hidden_dim=48), texts()),
    "roberta": lambda: (classifier("roberta"), texts()),
    "modernbert": lambda: (classifier("modernbert", global_attn_every_n_layers=2, local_attention=6), texts()),
    "marian": lambda: (marian(), pairs()),
    "own, sinusoidal": lambda: (own("sinusoidal"), pairs()),
    "own, rotary": lambda: (own("rotary", num_key_value_heads=2), pairs()),
    "own, t5": lambda: (own("t5"), pairs()),
    "llama": lambda: (decoder("llama", num_key_value_heads=2), documents()),
    "pairs of answers": lambda: (decoder("llama"), preferences()),
    "mistral": lambda: (decoder("mistral", num_key_value_heads=2, sliding_window=6), documents()),
}


def loss_of(model):
    if model.config.is_encoder_decoder:
        return sequence_to_sequence()
    return causal_language_model() if hasattr(model, "lm_head") else classification("single_label_classification")


def dpo():
    config = PreferenceRecipeConfig(model_name_or_path="none", train_file=["none"], output_dir="none")
    return preference_loss(Accelerator(cpu=True), config)


def passed(model, batch, worth, **settings):
    """Loss, gradients and the state of the random generator after a pass."""
    model.zero_grad()
    seed_all(7)
    with unpadded(model, batch, worth, **settings):
        value = (dpo() if "reference" in batch else loss_of(model)).summed(model, batch)
    value.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return float(value.detach()), gradients, torch.get_rng_state()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_it_gives_what_the_padded_batch_gives(name, mode):
    torch.manual_seed(0)
    model, batch = CASES[name]()
    model.train(mode == "train")
    sizes: list[int] = []
    layers, _ = stacks_of(model)[0]
    linear = next(module for module in layers.modules() if isinstance(module, torch.nn.Linear))
    linear.register_forward_hook(lambda module, args, output: sizes.append(args[0].shape[:2].numel()))
    expected, padded_gradients, after = passed(model, batch, 1.0)
    value, gradients, state = passed(model, batch, 0.1)
    assert value == pytest.approx(expected, rel=1e-6) and torch.equal(state, after)
    assert sizes[-1] == int(batch["attention_mask"].sum()) < sizes[0] == batch["attention_mask"].numel()
    largest = max(float(gradient.abs().max()) for gradient in padded_gradients.values())
    for parameter, gradient in padded_gradients.items():
        torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-4, atol=2e-6 * largest, msg=parameter)
    assert not any("forward" in vars(module) for module in model.modules())  # nothing stays behind


@pytest.mark.parametrize("name", CASES)
def test_dropout_for_tokens_only(name):
    """Without dropout the loss is that of the padded batch; with it, it is that of the same distribution."""
    torch.manual_seed(0)
    model, batch = CASES[name]()
    model.eval()
    expected, padded_gradients, _ = passed(model, batch, 1.0)
    value, gradients, _ = passed(model, batch, 0.1, exact=False)
    assert value == pytest.approx(expected, rel=1e-6) and gradients.keys() == padded_gradients.keys()
    model.train()
    dropped, again = (passed(model, batch, 0.1, exact=False)[0] for _ in "ab")
    assert dropped == again == pytest.approx(value, rel=0.2)
    assert (dropped == value) == (name == "modernbert")  # which has no dropout by default


def test_kinds_of_masks():
    """A kernel of rows is exact where each row sees all its tokens, or those before."""
    keep = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    rows, causal = keep[:, None, None].expand(3, 1, 4, 4), torch.ones(4, 4, dtype=torch.bool).tril()
    assert kind_of(rows, keep, keep) == kind_of(keep[:, None, None], keep, keep) == FULL
    assert kind_of(rows & causal, keep, keep) == CAUSAL
    assert kind_of(rows & causal.triu(-1), keep, keep) == OTHER  # a window of two tokens
    assert kind_of(torch.zeros(3, 1, 4, 4), keep, keep) == OTHER  # a bias of positions
    assert kind_of(rows[:, :, :2], keep[:, :2], keep) == FULL  # another side


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel runs on GPUs only")
@pytest.mark.parametrize("name", ["roberta", "marian", "llama"])
def test_one_kernel_for_all_rows(name):
    torch.manual_seed(0)
    model, batch = CASES[name]()
    model.eval().to("cuda")
    batch = {key: value.to("cuda") for key, value in batch.items()}
    with torch.autocast("cuda", torch.bfloat16):
        (expected, *_), (value, *_) = passed(model, batch, 1.0), passed(model, batch, 0.1, exact=False)
    assert value == pytest.approx(expected, rel=1e-2)


def test_a_batch_with_little_padding_stays_as_it_is():
    model = classifier("bert")
    rows = ids((9, 9, 9, 8))
    batch = {"input_ids": text.pad(rows, 0), "attention_mask": text.attention_mask(rows)}
    assert places_of(model, batch) is None and places_of(model, batch, 0.0) is not None
    assert places_of(model, {"input_ids": batch["input_ids"]}) is None


def test_rows_of_similar_length_are_a_group():
    lengths = np.array([*LENGTHS, 9, 1])
    assert [lengths[rows].tolist() for rows in similar(lengths, 200)] == [[17, 12], [9, 9, 9, 5, 3], [1, 1]]
    assert [set(lengths[rows]) for rows in similar(lengths, 0)] == [{17}, {12}, {9}, {5}, {3}, {1}]
    assert similar(lengths, 1e4)[0].tolist() == np.argsort(-lengths, kind="stable").tolist()
    model = classifier("bert")
    model.config.hidden_size = 5000
    places, _ = places_of(model, texts())
    assert [[LENGTHS[row] for row in group.rows] for group in places.groups] == [[17, 12], [9, 9, 5, 3], [1]]
    assert [group.shape for group in places.groups] == [(2, 17), (4, 9), (1, 1)]
    tokens = torch.randn(1, 2, sum(LENGTHS), 3)
    assert torch.equal(places.from_groups(places.in_groups(tokens)), tokens)


def rows_of(lengths):
    return [{"input_ids": row, "labels": int(row[0]) % 3} for row in ids(lengths)]


def collate(rows):
    inputs = [row["input_ids"] for row in rows]
    batch = {"input_ids": text.pad(inputs, 0), "attention_mask": text.attention_mask(inputs)}
    return batch | {"labels": torch.tensor([row["labels"] for row in rows])}


def collate_same(rows):
    inputs = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in rows]
    return text.collate_pairs(inputs, pad_token_id=0, decoder_start_token_id=1)


@pytest.mark.parametrize(
    ("model", "collate"),
    [
        (lambda: own("shaw", hidden_size=96), collate_same),  # distances of a row, for each place
        (lambda: classifier("deberta-v2", hidden_size=96, relative_attention=True), collate),  # an attention of its own
        (lambda: classifier("albert", hidden_size=96), collate),  # its layers are not a stack
        (lambda: classifier("bert", hidden_size=64), collate),  # narrow
        (lambda: marian(d_model=96, encoder_layerdrop=0.1), collate_same),
    ],
)
def test_other_models_keep_their_padding(model, collate, tmp_path):
    model = model()
    lengths = (3, 4, 9, 8)
    examples = Examples(rows_of(lengths), np.array(lengths)[:, None])
    config, loss = TrainConfig(output_dir=str(tmp_path)), loss_of(model)
    assert without_padding(Accelerator(cpu=True), model, examples, config, collate=collate, loss=loss) is loss


@pytest.mark.parametrize(
    ("model", "changes", "reason"),
    [
        (lambda: classifier("albert"), {}, "has no stack of layers"),
        (lambda: classifier("bert"), {"activation_checkpointing": True}, "activation_checkpointing is on"),
        (lambda: own("shaw"), {}, "without it, it fails"),
    ],
)
def test_padding_free_is_refused(model, changes, reason, tmp_path):
    model, lengths = model(), (3, 4, 9, 8)
    examples = Examples(rows_of(lengths), np.array(lengths)[:, None])
    config = TrainConfig(output_dir=str(tmp_path), padding_free=True, **changes)
    batches = collate_same if model.config.is_encoder_decoder else collate
    with pytest.raises(ValueError, match=reason):
        without_padding(Accelerator(cpu=True), model, examples, config, collate=batches, loss=loss_of(model))


def test_padding_free_narrow_models(tmp_path):
    model, lengths = classifier("bert"), (3, 4, 9, 8)
    examples = Examples(rows_of(lengths), np.array(lengths)[:, None])
    config = TrainConfig(output_dir=str(tmp_path), padding_free=True)
    loss = without_padding(Accelerator(cpu=True), model, examples, config, collate=collate, loss=loss_of(model))
    linear, sizes = model.bert.encoder.layer[0].intermediate.dense, []
    linear.register_forward_hook(lambda module, args, output: sizes.append(args[0].shape[:2].numel()))
    loss.summed(model, collate(examples[:]))
    assert sizes == [sum(lengths)]


def test_fit_trains_without_padding(tmp_path):
    """A step at once, which pads, and row by row, which cannot, have the same losses."""
    lengths = (3, 17, 2, 9, 12, 5, 9, 4) * 2
    examples = Examples(rows_of(lengths), np.array(lengths)[:, None])
    weights = []
    for size in (None, 1):
        torch.manual_seed(0)
        changes = {"hidden_size": 96, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = classifier("bert", **changes)
        sizes: list[int] = []
        linear = model.bert.encoder.layer[0].intermediate.dense
        linear.register_forward_hook(lambda module, args, output, sizes=sizes: sizes.append(args[0].shape[:2].numel()))
        config = TrainConfig(
            output_dir=str(tmp_path / str(size)), max_steps=4, global_batch_size=8, micro_batch_size=size, save_steps=0,
            learning_rate=1e-3, adam_epsilon=1e-3,
        )  # fmt: skip
        loss = classification("single_label_classification")
        fit(Accelerator(cpu=True), model, examples, config, collate=collate, loss=loss)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        if size is None:
            assert sum(sizes[-4:]) == 2 * sum(lengths)  # two epochs of two steps
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def weights_of(folder, *, stop=None, resume=None, **settings):
    """The weights after 4 steps of a model with dropout, and the configuration."""
    lengths = (3, 17, 2, 9, 12, 5, 9, 4) * 2
    examples = Examples(rows_of(lengths), np.array(lengths)[:, None])
    torch.manual_seed(0)
    model = classifier("bert", hidden_size=96)
    config = TrainConfig(
        output_dir=str(folder), max_steps=4, global_batch_size=8, save_steps=2, learning_rate=1e-3,
        resume_from_checkpoint=resume, **settings,
    )  # fmt: skip
    loss, after = classification("single_label_classification"), break_off(stop) if stop else None
    with pytest.raises(BrokenOff) if stop else nullcontext():
        fit(Accelerator(cpu=True), model, examples, config, collate=collate, loss=loss, after_step=after)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), config


def test_a_model_with_dropout_draws_for_tokens_only_and_a_resume_keeps_what_its_run_did(tmp_path, monkeypatch):
    chosen, config = weights_of(tmp_path / "chosen")
    assert config.padding_free is True and config.chosen["padding_free"].reason == "dropout draws for tokens only"
    weights_of(tmp_path / "stopped", stop=3)
    resumed, config = weights_of(tmp_path / "stopped", resume="auto")
    assert torch.equal(resumed, chosen) and config.chosen["padding_free"].reason == "as the checkpoint has it"
    changed = {"resume": "auto", "activation_checkpointing": True}
    weights_of(tmp_path / "changed", stop=3)
    with pytest.raises(ValueError, match="cannot go on so: activation_checkpointing is on"):
        weights_of(tmp_path / "changed", **changed)
    assert weights_of(tmp_path / "changed", **changed, resume_allow=["padding_free"])[1].padding_free is None
    monkeypatch.setattr(padding, "drops", lambda model: False)  # as older versions did
    older, config = weights_of(tmp_path / "older")
    assert config.padding_free is None and not torch.equal(older, chosen)
    weights_of(tmp_path / "stopped before", stop=3)
    monkeypatch.undo()
    resumed, config = weights_of(tmp_path / "stopped before", resume="auto")
    assert torch.equal(resumed, older) and config.padding_free is None


def test_what_an_earlier_fit_chose_is_chosen_anew(tmp_path):
    """A second fit of the same configuration, whose rows have no padding."""
    examples = Examples(rows_of((5,) * 8), np.full((8, 1), 5))
    config = TrainConfig(output_dir=str(tmp_path))
    config.choose("padding_free", True, "dropout draws for tokens only")
    model = classifier("bert", hidden_size=96)
    loss = loss_of(model)
    assert without_padding(Accelerator(cpu=True), model, examples, config, collate=collate, loss=loss) is loss
    assert config.padding_free is None and not config.chosen


def test_layers_that_see_frames_instead_of_samples_keep_their_padding(tmp_path):
    """The mask of a recording is of its samples, which are not what the layers of a model see."""
    config = transformers.Wav2Vec2Config(
        hidden_size=96, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, conv_dim=[8],
        conv_kernel=[10], conv_stride=[5], num_feat_extract_layers=1, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8, layerdrop=0.0, apply_spec_augment=False,
    )  # fmt: skip
    lengths = (400, 90, 300, 60)

    def recordings(rows):
        longest = max(row["length"] for row in rows)
        mask = torch.tensor([[place < row["length"] for place in range(longest)] for row in rows])
        return {"input_values": mask.float(), "attention_mask": mask.long(), "labels": torch.zeros(len(rows)).long()}

    examples = Examples([{"length": length} for length in lengths], np.array(lengths)[:, None])
    model, settings = transformers.Wav2Vec2ForSequenceClassification(config), TrainConfig(output_dir=str(tmp_path))
    loss = loss_of(model)
    assert without_padding(Accelerator(cpu=True), model, examples, settings, collate=recordings, loss=loss) is loss
    assert settings.padding_free is None
