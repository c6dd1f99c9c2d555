"""Trains a small Llama for two steps, in this process or in each process of a launch, and measures what the allocator
hands out: argument 1 is the file for the largest sums of live bytes, argument 2 the JSON of a list of `SETTINGS`."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.profiler import ProfilerActivity, profile

from hftrain.config import TrainConfig
from hftrain.distributed import backward, clip_and_step, make_accelerator, place
from hftrain.losses import Loss, causal_language_model, sequence_to_sequence
from hftrain.train.loop import prepare
from tests import tiny

SHAPE = {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4}
SHAPE |= {"vocab_size": 1000, "max_position_embeddings": 512}
LOSSES = {"LlamaForCausalLM": causal_language_model(), "BertForMaskedLM": sequence_to_sequence()}
SETTINGS: dict[str, Any] = {"rows": 2, "tokens": 128, "micro_batches": 2, "bf16": False, "lora": False}
SETTINGS |= {"kind": "LlamaForCausalLM", "layers": 4}


def make_model(lora: bool = False, kind: str = "LlamaForCausalLM", layers: int = 4) -> Any:
    model: Any = tiny.model(kind, **SHAPE, num_hidden_layers=layers)
    if lora:
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    return model


def make_batch(rows: int, tokens: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(SHAPE["vocab_size"], (rows, tokens), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}


def measure(settings: dict[str, Any], folder: str) -> int:
    """The largest sum of live bytes in two steps, weights and all."""
    loss: Loss = LOSSES[settings["kind"]]
    accelerator = make_accelerator(mixed_precision="bf16" if settings["bf16"] else "no")
    config = TrainConfig(output_dir=folder, bf16=settings["bf16"], learning_rate=1e-3)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        model = make_model(settings["lora"], settings["kind"], settings["layers"])
        place(accelerator, model)
        model, optimizer = prepare(accelerator, model, config)
        batch = make_batch(settings["rows"], settings["tokens"])
        for _ in range(2):
            for number in range(settings["micro_batches"]):
                last = number == settings["micro_batches"] - 1
                backward(accelerator, model, loss.summed(model, batch), last=last)
            clip_and_step(accelerator, model, list(model.parameters()), optimizer, 1.0)
    live = most = 0
    for event in watched.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most


if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":  # as in exact_worker.py
        PartialState(cpu=True, backend="gloo")
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    measured = [measure(SETTINGS | settings, sys.argv[1] + ".run") for settings in json.loads(sys.argv[2])]
    if PartialState().is_main_process:
        Path(sys.argv[1]).write_text(json.dumps(measured))
