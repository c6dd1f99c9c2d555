"""Micro-batches that do not fit into memory: the message, and half of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelerate.utils import gather_object

from hftrain.data.plan import MicroBatch

if TYPE_CHECKING:
    from hftrain.train.run import Run


def explain(run: Run, micro: MicroBatch) -> str:
    """The message for a micro-batch that is too large: its shapes, and the setting to lower."""
    config = run.config
    shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in micro.batch.items() if hasattr(v, "shape"))
    if config.micro_batch_tokens:
        lower = f"Lower micro_batch_tokens (now {config.micro_batch_tokens})"
    else:
        lower = f"Set micro_batch_size under {len(micro.indices)}"
    return (
        f"out of memory in step {run.state.step + 1} with a micro-batch of {shapes}. {lower}: "
        "results change only with a warning at the start. Or set halve_on_oom, activation_checkpointing or bf16"
    )


def halve(run: Run, micro_batches: list[MicroBatch]) -> int:
    """Half the examples of the largest of these micro-batches, on any process. Every process calls.

    Raises:
        RuntimeError: the largest has one example.
    """
    largest = max(gather_object([max(len(m.indices) for m in micro_batches)]))
    if largest <= 1:
        raise RuntimeError(explain(run, micro_batches[0]))
    size = largest // 2
    step = run.state.step + 1
    run.progress.print(f"out of memory in step {step}: continuing with micro-batches of at most {size} examples")
    return size
