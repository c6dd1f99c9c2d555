"""Preference losses against TRL's own on the same batch, and against any cut of it; learning on real processes."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import LlamaForCausalLM

from hftrain.data.examples import Examples
from hftrain.data.plan import MicroBatch
from hftrain.data.readers import Fault
from hftrain.tasks.preference import (
    PreferenceConfig,
    ReferencePoint,
    collate_preferences,
    count_examples,
    dpo,
    evaluate_preferences,
    preference_loss,
    to_preference,
    with_reference,
)
from hftrain.tasks.preference.losses import log1mexp, sequence_log_probs
from tests import tiny

IGNORE = -100


def make_model(seed: int, **changes) -> LlamaForCausalLM:
    shape = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    return tiny.model("LlamaForCausalLM", seed=seed, **shape | changes)


def make_examples(
    count: int, prompt: tuple[int, int] = (2, 6), answer: tuple[int, int] = (1, 9), seed: int = 0
) -> list:
    """Examples with prompts and answers of random tokens and lengths."""
    draw = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        asked = draw.integers(3, 60, draw.integers(*prompt)).tolist()
        example = {"desirable": number % 3 != 0}
        for side in ("first", "second"):
            answered = draw.integers(3, 60, draw.integers(*answer)).tolist()
            example[f"{side}_input_ids"] = asked + answered
            example[f"{side}_labels"] = [IGNORE] * len(asked) + answered
        examples.append(example)
    return examples


def collate(examples):
    return collate_preferences(examples, pad_token_id=0)


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def reference():
    return make_model(1).eval()


def referred(accelerator, reference, examples):
    """The examples as a data set that carries the reference model's log-probabilities."""
    return with_reference(accelerator, reference, Examples.of(Dataset.from_list(examples)), 4, collate)


def gradients(model) -> torch.Tensor:
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    return found


def assert_equal(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> None:
    """Losses, and gradients as vectors, to 1e-5."""
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-5)
    assert float((found[1] - expected[1]).norm()) <= 1e-5 * float(expected[1].norm())


# ---- TRL says the same ----


def trl_loss(trainer, model, batch) -> tuple[float, torch.Tensor]:
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    return float(loss.detach()), gradients(model)


def our_loss(accelerator, model, examples, config, point=None) -> tuple[float, torch.Tensor]:
    batch = collate(list(examples))
    if point:
        point.measure(model, [MicroBatch(0, np.arange(len(examples)), batch)])
    loss = preference_loss(accelerator, config, point).summed(model, batch) / count_examples(batch)
    loss.backward()
    return float(loss.detach()), gradients(model)


def settings(tmp_path, **changes):
    off = {"report_to": [], "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    return off | {"output_dir": str(tmp_path), "beta": 0.2} | changes


def rows_of_ids(examples) -> list[dict]:
    """Examples as TRL names their parts."""
    rows = []
    for example in examples:
        sides = [(example[f"{s}_input_ids"], np.array(example[f"{s}_labels"]) != IGNORE) for s in ("first", "second")]
        prompts, answers = zip(
            *([np.array(ids)[~m].tolist(), np.array(ids)[m].tolist()] for ids, m in sides), strict=True
        )
        rows.append({"prompt_ids": prompts[0], "chosen_ids": answers[0], "rejected_ids": answers[1]})
    return rows


@pytest.fixture(scope="module")
def tokenizer():
    from hftrain.text import train_tokenizer

    return train_tokenizer(["a few words"], 300)


TEXTS = Dataset.from_list([{"prompt": "a", "chosen": " few", "rejected": " words"}])


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_pairs_with_a_reference_equal_trl(accelerator, reference, tokenizer, tmp_path, loss_type):
    trl = pytest.importorskip("trl")
    model = make_model(0)
    arguments = trl.DPOConfig(**settings(tmp_path, loss_type=[loss_type]))
    trainer = trl.DPOTrainer(
        model, copy.deepcopy(reference), arguments, train_dataset=TEXTS, processing_class=tokenizer
    )
    examples = make_examples(5)
    expected = trl_loss(trainer, model, trainer.data_collator(rows_of_ids(examples)))
    config = PreferenceConfig(loss_type=loss_type, beta=0.2)
    found = our_loss(accelerator, model, referred(accelerator, reference, examples), config)
    assert_equal(found, expected)


def halves(examples) -> dict:
    """A batch as TRL's CPO and ORPO trainers take it."""
    batch = {}
    for number, side in enumerate(("chosen", "rejected")):
        ours = collate(examples)
        for name in ("input_ids", "attention_mask", "labels"):
            batch[f"{side}_{name}"] = ours[name][:, number]
    return batch


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"loss_type": "simpo", "simpo_gamma": 0.7}, {"loss_type": "simpo", "simpo_gamma": 0.7}),
        ({"loss_type": "simpo", "simpo_gamma": 0.3, "label_smoothing": 0.1},
         {"loss_type": "simpo", "simpo_gamma": 0.3, "label_smoothing": 0.1}),
        ({"loss_type": "sigmoid", "reference_free": True, "label_smoothing": 0.2},
         {"loss_type": "sigmoid", "label_smoothing": 0.2}),
    ],
    ids=["simpo", "simpo smoothed", "conservative dpo"],
)  # fmt: skip
def test_pairs_without_a_reference_equal_trl(accelerator, tokenizer, tmp_path, ours, theirs):
    pytest.importorskip("trl")
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    model, examples = make_model(0), make_examples(5)
    arguments = CPOConfig(**settings(tmp_path, cpo_alpha=0.0, **theirs))
    trainer = CPOTrainer(model=model, args=arguments, train_dataset=TEXTS, processing_class=tokenizer)
    expected = trl_loss(trainer, model, halves(examples))
    found = our_loss(accelerator, model, examples, PreferenceConfig(beta=0.2, **ours))
    assert_equal(found, expected)


def test_orpo_equals_trl(accelerator, tokenizer, tmp_path):
    """Prompts of one token, which nothing predicts, and chosen answers of one length: then TRL's supervised term, over
    prompts too and by token, is the paper's, over answers and by answer."""
    pytest.importorskip("trl")
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    model, examples = make_model(0), make_examples(6, prompt=(1, 2), answer=(5, 6))
    for example, shorter in zip(examples, make_examples(6, prompt=(1, 2), seed=1), strict=True):
        example |= {name: shorter[name] for name in ("second_input_ids", "second_labels")}
    arguments = ORPOConfig(**settings(tmp_path))
    trainer = ORPOTrainer(model=model, args=arguments, train_dataset=TEXTS, processing_class=tokenizer)
    expected = trl_loss(trainer, model, halves(examples))
    found = our_loss(accelerator, model, examples, PreferenceConfig(loss_type="orpo", beta=0.2))
    assert_equal(found, expected)


@pytest.mark.parametrize("seed", [0, 3])
def test_kto_equals_trl(accelerator, reference, tokenizer, tmp_path, seed):
    trl = pytest.importorskip("trl")
    model, examples = make_model(seed), make_examples(7)
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.8}
    arguments = trl.KTOConfig(**settings(tmp_path, per_device_train_batch_size=7, **weights))
    texts = Dataset.from_list([{"prompt": "a", "completion": " few", "label": True}] * 2)
    trainer = trl.KTOTrainer(
        model, copy.deepcopy(reference), arguments, train_dataset=texts, processing_class=tokenizer
    )
    rows = [
        {"prompt_ids": row["prompt_ids"], "completion_ids": row["chosen_ids"], "label": example["desirable"],
         "KL_completion_ids": row["rejected_ids"]}
        for row, example in zip(rows_of_ids(examples), examples, strict=True)
    ]  # fmt: skip
    expected = trl_loss(trainer, model, trainer.data_collator(rows))
    config = PreferenceConfig(loss_type="kto", beta=0.2, **weights)
    point = ReferencePoint(accelerator, config)
    found = our_loss(accelerator, model, referred(accelerator, reference, examples), config, point)
    assert_equal(found, expected)
    assert math.isclose(point.value, trainer._metrics["train"]["kl"][0], rel_tol=1e-5)


# ---- what no other implementation says ----


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "simpo", "orpo", "kto"])
def test_the_cut_changes_nothing(accelerator, reference, loss_type):
    """Sums over micro-batches of any sizes are the sum over the step; KTO's reference point is the whole step's."""
    config, model = PreferenceConfig(loss_type=loss_type), make_model(0)
    examples = referred(accelerator, reference, make_examples(9))
    found = []
    for cut in ([9], [4, 5], [1, 1, 3, 4]):
        edges = np.cumsum([0, *cut])
        batches = [collate([examples[i] for i in range(a, b)]) for a, b in itertools.pairwise(edges)]
        point = ReferencePoint(accelerator, config) if loss_type == "kto" else None
        if point:
            point.measure(model, [MicroBatch(i, np.arange(len(b["labels"])), b) for i, b in enumerate(batches)])
        loss = sum(preference_loss(accelerator, config, point).summed(model, batch) for batch in batches)
        loss.backward()
        found.append((loss.detach(), gradients(model)))
    assert_equal(found[1], found[0])
    assert_equal(found[2], found[0])


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "simpo", "orpo", "kto"])
def test_evaluation_is_the_training_loss_and_its_rewards(accelerator, reference, loss_type):
    config, model = PreferenceConfig(loss_type=loss_type), make_model(0).eval()
    examples = referred(accelerator, reference, make_examples(9))
    point = ReferencePoint(accelerator, config) if loss_type == "kto" else None
    batch = collate([examples[i] for i in range(9)])
    if point:
        point.measure(model, [MicroBatch(0, np.arange(9), batch)])
    with torch.no_grad():
        expected = float(preference_loss(accelerator, config, point).summed(model, batch)) / 9
        scores = sequence_log_probs(model, batch)[0]
    found = [evaluate_preferences(accelerator, model, examples, size, config, collate) for size in (2, 9)]
    assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-6)
    assert found[0]["loss"] == pytest.approx(expected, rel=1e-5)
    if loss_type == "sigmoid":
        ratios = 0.1 * (scores - batch["reference"]).double()
        assert found[0]["reward_margin"] == pytest.approx(float((ratios[:, 0] - ratios[:, 1]).mean()), rel=1e-5)
        assert found[0]["reward_accuracy"] == pytest.approx(float((ratios[:, 0] > ratios[:, 1]).double().mean()))
        assert found[0]["logps_rejected"] == pytest.approx(float(scores[:, 1].mean()), rel=1e-5)


def test_the_start_has_no_opinion(accelerator, reference):
    """Against itself a model's log-ratios are 0: the loss is log 2, the margin 0."""
    examples = referred(accelerator, reference, make_examples(4))
    found = evaluate_preferences(accelerator, reference, examples, 4, PreferenceConfig(), collate)
    assert found["loss"] == pytest.approx(math.log(2)) and found["reward_margin"] == 0


def test_adapters_off_are_the_reference(accelerator):
    """With LoRA the reference's log-probabilities may be computed in each step: the same, after training too."""
    import peft

    model = peft.get_peft_model(make_model(0), peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    examples = make_examples(5)
    joined = referred(accelerator, model, examples)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    loss = preference_loss(accelerator, PreferenceConfig())
    losses = [loss.summed(model, collate(list(rows))) for rows in (joined, examples)]
    torch.testing.assert_close(losses[0], losses[1])
    assert model.training and abs(float(losses[0]) / 5 - math.log(2)) > 1e-3


def test_adapters_that_change_the_base_are_no_reference(accelerator):
    import peft

    adapters = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights="pissa")
    for model in (make_model(0), peft.get_peft_model(make_model(0), adapters)):
        with pytest.raises(ValueError, match="Leave precompute_ref_log_probs on"):
            preference_loss(accelerator, PreferenceConfig()).summed(model, collate(make_examples(2)))


def test_reference_log_probs_are_computed_once(accelerator, reference):
    """Kept under a key of the weights and the data; the data's fingerprint, by which a run is resumed, stays."""
    rows = Examples.of(Dataset.from_list(make_examples(5)))
    arguments = rows, 2, collate
    first = with_reference(accelerator, reference, *arguments)
    calls = []
    reference.register_forward_hook(lambda *_: calls.append(1))
    assert (
        with_reference(accelerator, reference, *arguments).column("reference") == first.column("reference")
        and not calls
    )
    with torch.no_grad():
        reference.lm_head.weight[7, 3] += 1
    assert list(with_reference(accelerator, reference, *arguments)) != list(first) and calls
    assert first.fingerprint == rows.fingerprint


def test_log1mexp_at_both_ends():
    x = torch.tensor([-1e-30, -1e-6, -0.5, -1.0, -100.0], requires_grad=True)
    expected = [math.log(-math.expm1(float(v))) for v in x]
    torch.testing.assert_close(log1mexp(x), torch.tensor(expected))
    log1mexp(torch.cat([x, torch.zeros(1)])).sum().backward()  # a probability of 1 is no infinite loss
    assert x.grad.isfinite().all()


def test_equation_7_by_hand():
    chosen, rejected = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.0])
    expected = sum(math.log(1 + math.exp(-0.3 * (c - r))) for c, r in ((1.0, 0.5), (-2.0, 0.0)))
    assert float(dpo(chosen, rejected, beta=0.3)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "ipo", "label_smoothing": 0.1}, "only sigmoid and simpo can be smoothed"),
        ({"loss_type": "dpo"}, "sigmoid"),
        ({"beta": 0.0}, "above 0"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        PreferenceConfig(**changes)


# ---- rows ----

USER, GOOD, BAD = (
    {"role": role, "content": said} for role, said in (("user", "q"), ("assistant", "a"), ("assistant", "b"))
)
SYSTEM = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, [USER]),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, [USER]),
        ({"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, [USER]),
        ({"prompt": [SYSTEM, USER], "chosen": [USER, GOOD], "rejected": [BAD]}, [SYSTEM, USER]),
        ({"chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}, [SYSTEM, USER]),
        ({"instruction": "q", "input": "", "chosen": "a", "rejected": "b", "output": "a"}, [USER]),
        ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, [SYSTEM, USER]),
        ({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
          "rejected": {"from": "gpt", "value": "b"}}, [USER]),
    ],
)  # fmt: skip
def test_shapes_of_pairs(record, prompt):
    assert to_preference(record) == (prompt, [GOOD], [BAD], [])


def test_answers_with_a_label():
    assert to_preference({"prompt": "q", "completion": "a", "label": True}) == ([USER], [GOOD], None, [])
    assert to_preference({"prompt": [USER], "completion": [BAD], "label": 0}) == ([USER], None, [BAD], [])


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"prompt": "q", "chosen": "a"}, "the row lacks rejected: a pair is prompt, chosen, rejected"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "the same"),
        ({"chosen": "a", "rejected": "b"}, "no prompt"),
        ({"prompt": "q", "chosen": [USER], "rejected": [USER, BAD]}, "nothing instead of the assistant's answer"),
        ({"prompt": "q", "completion": "a", "label": "good"}, "label is 'good'"),
    ],
)
def test_rows_that_cannot_be_used(record, fault):
    with pytest.raises(Fault, match=fault):
        to_preference(record)
