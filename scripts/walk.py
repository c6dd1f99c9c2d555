"""Walks 7B and 70B models on 8 and 64 GPUs through start, step, save, resume and export, without weights: the table of
docs/cluster.md. `python scripts/walk.py` prints it."""

from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hftrain.losses import causal_language_model
from hftrain.text.causal import collate_causal
from hftrain.train.forecast.passes import Pass, count_pass
from hftrain.train.forecast.strategies import needs, weigh_model
from hftrain.train.trials import chunk_loss

SHAPES: dict[str, dict[str, Any]] = {
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70B": {
        "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "vocab_size": 128256,
    },
}  # fmt: skip
TOKENS = 4096
RANKS = 8, 64
HASHED = 1.3e9  # bytes a second that one process hashes, as docs/log.md has it; a disk may be slower
HEAD = (
    "| model, GPUs | | start: CPU GB a node | start: GB a GPU | step: GiB a GPU | save: GB, GB a rank | s | "
    "resume: GB a rank | export: GB |\n|---|---|---|---|---|---|---|---|---|"
)


class Walk(NamedTuple):
    """Bytes of a run, but for `seconds`."""

    start_host: int  # in the memory of the main process's machine
    start_device: int
    step: int
    save: int  # on the disk
    save_rank: int
    seconds: float  # of a save, in the background
    resume_rank: int  # that a process reads
    export: int  # also in the memory of the main process's machine

    def row(self, name: str, ranks: int, strategy: str) -> str:
        gb = [f"{size / 1e9:,.{0 if size > 1e10 else 1}f}" for size in self]
        return (
            f"| {name}, {ranks} | {strategy} | {gb[0]} | {gb[1]} | {self.step / 2**30:,.1f} | {gb[3]}, {gb[4]} | "
            f"{self.seconds:,.0f} | {gb[6]} | {gb[7]} |"
        )


def model_of(name: str) -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**SHAPES[name]))


def pass_of(model: LlamaForCausalLM) -> Pass:
    loss = causal_language_model(chunked=chunk_loss(model))
    batch = collate_causal([{"input_ids": torch.arange(TOKENS).numpy() % 1000}], pad_token_id=0)
    return count_pass(model, batch, loss, bf16=True, narrow=True, checkpointing=True)


def walk(model: LlamaForCausalLM, one: Pass, strategy: str, ranks: int) -> Walk:
    need = needs(strategy, weigh_model(model), one, ranks, bf16=True, accumulated=True)
    parameters = [parameter.numel() for parameter in model.parameters()]
    whole, shard = sum(parameters), sum(-(-number // ranks) for number in parameters)
    # ZeRO-3 reads on one process a file at a time; with FSDP2 the main process sends a parameter at a time to all
    largest = max(parameters)
    return Walk(
        4 * whole, 4 * (shard + largest), need.peak, need.checkpoint, 12 * shard, 12 * shard / HASHED, 12 * shard,
        4 * whole,
    )  # fmt: skip


def main() -> None:
    print(HEAD)
    for name in SHAPES:
        model = model_of(name)
        one = pass_of(model)
        for ranks in RANKS:
            for strategy in ("ZeRO-3", "FSDP2"):
                print(walk(model, one, strategy, ranks).row(name, ranks, strategy))


if __name__ == "__main__":
    main()
