"""Counts what 7B and 70B models need on 8 and 64 GPUs, from start to export, without weights: the table of
docs/cluster.md. `python scripts/walk.py` prints it."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hftrain.losses import causal_language_model
from hftrain.text.causal import collate_causal
from hftrain.train.forecast.passes import count_pass
from hftrain.train.forecast.strategies import needs, weigh_model
from hftrain.train.trials import chunk_loss

SHAPES = {
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70B": {
        "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "vocab_size": 128256,
    },
}  # fmt: skip
TOKENS = 4096
DISK = 1.3e9  # bytes a second that one process hashes, as docs/log.md has it; a disk may be slower
NODE = 8  # GPUs of a node


def main() -> None:
    print("| model, GPUs | | start: CPU GB a node | step: GiB a GPU | checkpoint, GB | save: s whole, s in shards |")
    print("|---|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        with torch.device("meta"):
            model = LlamaForCausalLM(LlamaConfig(**shape))
        chunked = chunk_loss(model)
        weights, loss = weigh_model(model), causal_language_model(chunked=chunked)
        batch = collate_causal([{"input_ids": torch.arange(TOKENS).numpy() % 1000}], pad_token_id=0)
        one = count_pass(model, batch, loss, bf16=True, narrow=True, checkpointing=True)
        for ranks in (8, 64):
            for strategy in ("ZeRO-3", "FSDP2"):
                need = needs(strategy, weights, one, ranks, bf16=True, accumulated=True)
                # ZeRO-3 reads on one process and keeps shards; FSDP2 reads everything in each process
                node = 4 * weights.trained * (NODE if strategy == "FSDP2" else 1) / 1e9
                times = need.checkpoint / DISK, need.checkpoint / ranks / DISK
                print(
                    f"| {name}, {ranks} | {strategy} | {node:,.0f} | {need.peak / 2**30:,.1f} | "
                    f"{need.checkpoint / 1e9:,.0f} | {times[0]:,.0f}, {times[1]:,.0f} |"
                )


if __name__ == "__main__":
    main()
