"""`transformers.Trainer`: where it is right it gives our weights; where it is wrong, this is by how much."""

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hftrain.config import TrainConfig
from hftrain.data.examples import Examples
from hftrain.data.plan import Plan
from hftrain.losses import causal_language_model, sequence_to_sequence
from hftrain.report.history import read_history
from hftrain.train.loop import fit, start
from tests.train.exact_models import MODELS
from tests.train.exact_worker import collate, collate_causal, lengths_of, make_examples

STEPS, MICRO, ACCUMULATION = 32, 4, 4
BATCH = MICRO * ACCUMULATION
EXAMPLES = make_examples(2 * BATCH)  # 2 steps an epoch
RATE, DECAY, CLIP = 1e-3, 0.1, 1.0


def fresh(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS[name](0.0)
    with torch.no_grad():
        for parameter in model.parameters() if name == "llama" else ():
            parameter *= 15 if parameter.ndim == 2 else 1  # gradients for the clipping to clip
    return model


def ours(name: str, output_dir, steps: int = STEPS) -> tuple[torch.nn.Module, list[dict]]:
    causal = name == "llama"
    config = TrainConfig(
        output_dir=str(output_dir), max_steps=steps, global_batch_size=BATCH, micro_batch_size=MICRO,
        learning_rate=RATE, lr_scheduler_type="linear", warmup_steps=0, weight_decay=DECAY, max_grad_norm=CLIP,
        logging_steps=1, eval_steps=0, save_steps=0, seed=3,
    )  # fmt: skip
    model, _ = fit(
        start(config), fresh(name), Examples(EXAMPLES, lengths_of(EXAMPLES)), config,
        collate=collate_causal if causal else collate,
        loss=causal_language_model() if causal else sequence_to_sequence(),
    )  # fmt: skip
    return model, read_history(output_dir / "metrics.jsonl")


class Norms(TrainerCallback):
    """The loss and the gradient norm that the Trainer logs for each step."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs:
            self.rows.append(logs)


def theirs(
    name: str, output_dir, steps: int = STEPS, accumulation: int = ACCUMULATION
) -> tuple[torch.nn.Module, list[dict]]:
    """The Trainer on the same examples in the order of our plan."""
    plan = Plan(lengths_of(EXAMPLES), seed=3, global_batch_size=BATCH)
    ordered = [EXAMPLES[i] for step in range(steps) for i in plan.examples(step)]
    arguments = TrainingArguments(
        output_dir=str(output_dir), max_steps=steps, per_device_train_batch_size=BATCH // accumulation,
        gradient_accumulation_steps=accumulation, learning_rate=RATE, lr_scheduler_type="linear", warmup_steps=0,
        weight_decay=DECAY, max_grad_norm=CLIP, optim="adamw_torch", logging_steps=1, save_strategy="no",
        report_to=[], use_cpu=True, remove_unused_columns=False, train_sampling_strategy="sequential",
        disable_tqdm=True, seed=3,
    )  # fmt: skip
    norms = Norms()
    trainer = Trainer(
        fresh(name), arguments, train_dataset=ordered, callbacks=[norms],
        data_collator=collate_causal if name == "llama" else collate,
    )  # fmt: skip
    trainer.train()
    return trainer.model, norms.rows


def test_the_trainer_gives_the_same_weights(tmp_path):
    """A tiny Llama, AdamW, linear decay, clipping, 4 micro-batches a step, 32 steps. Measured: to 1.2e-7."""
    model, rows = ours("llama", tmp_path / "ours")
    other, other_rows = theirs("llama", tmp_path / "theirs")
    assert len(rows) == len(other_rows) == STEPS
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row["learning_rate"] == pytest.approx(other_row["learning_rate"], rel=1e-12)
        assert row["loss"] == pytest.approx(float(other_row["loss"]), rel=1e-5)
        assert row["grad_norm"] == pytest.approx(float(other_row["grad_norm"]), rel=1e-5)
    assert min(row["grad_norm"] for row in rows) > CLIP  # every step is clipped
    moved = [p for p, q in zip(model.parameters(), fresh("llama").parameters(), strict=True) if not torch.equal(p, q)]
    assert len(moved) == len(list(model.parameters()))
    for (name, weight), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_where_the_trainer_is_wrong(tmp_path):
    """Marian computes the mean of each micro-batch and ignores the number of items the Trainer hands it; the Trainer,
    which believes that the model has divided by them, does not divide by the micro-batches. Its gradients, and so what
    is clipped, are about 4 times too large with 4 micro-batches (measured: 4.15, its loss 4.00; transformers issue
    47688), and labels in short micro-batches weigh more. Ours do not depend on the cut."""
    steps = 2
    _, (whole, *_) = theirs("marian", tmp_path / "whole", steps, accumulation=1)
    _, (accumulated, *_) = theirs("marian", tmp_path / "accumulated", steps)
    _, (exact, *_) = ours("marian", tmp_path / "ours", steps)
    for value in ("loss", "grad_norm"):
        assert exact[value] == pytest.approx(float(whole[value]), rel=1e-5)
        assert float(accumulated[value]) / exact[value] == pytest.approx(ACCUMULATION, rel=0.1)
