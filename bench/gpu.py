"""What one GPU shows in at most 8 minutes: tokens per second, MFU, memory, and each switch on and off at equal loss.

    python bench/gpu.py --json gpu.json            # all that fits into 8 minutes, the most important first
    python bench/gpu.py --cases gpt2 llama_1b --minutes 4
    python bench/gpu.py --quick                    # tiny shapes and 4 steps, to see that it runs

Each case trains with `fit` in a process of its own; a case that fails is a row with its error. The JSON file also has
`waits_a_step`: how often the CPU waits for the GPU in one step, as `torch.cuda.set_sync_debug_mode` reports. Content is
random: no time depends on it. Weights are random too, and the same within a work, so a switch must leave the losses as
they were.

    gpt2        GPT-2 of 124M parameters, rows of 1,024 tokens, 65,536 tokens a step
    llama_1b    the shape of Llama 3.2 1B, rows of 2,048 tokens, 32,768 tokens a step
    llama_8b    the shape of Llama 3.1 8B with LoRA (rank 16) or QLoRA, rows of 4,096 tokens, 16,384 tokens a step
    packs       a Llama of 12 layers (width 768), documents of 8 to 400 tokens (median 60) in packs of 4,096
    minilm      the shape of MiniLM with 6 classes, texts of 4 to 128 tokens (median 20), 256 a step
    pairs       SimPO of llama_1b, pairs of 1,024 tokens each, 16 a step

"counted" is what `hftrain plan` counts for the case, beside the memory of its tensors and of the allocator. What one
GPU cannot show is in docs/cluster.md, "What only GPUs can show".
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import numpy as np
import torch
from accelerate.state import AcceleratorState
from torch import nn

STEPS, QUICK_STEPS = 24, 4
EQUAL = 0.02  # relative difference of losses that bf16 may make
TARGET = "cuda" if torch.cuda.is_available() else "cpu"

GPT2: dict[str, Any] = {"vocab_size": 50304, "n_positions": 1024}
LLAMA_1B: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
LLAMA_8B: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
LLAMA_100M: dict[str, Any] = {
    "vocab_size": 50304,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
MINILM: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "hidden_dropout_prob": 0.0,  # a switch of padding would draw other numbers
    "attention_probs_dropout_prob": 0.0,
}
SMALL_GPT2 = {"vocab_size": 128, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@dataclass
class Work:
    """What is trained; `quick` has what replaces the shape and the sizes in a quick run."""

    kind: str  # of the model
    shape: dict[str, Any]
    length: int  # tokens of a row; the most, for texts with a class
    rows: int  # of a step
    settings: dict[str, Any] = field(default_factory=dict)  # of `fit`
    dtype: torch.dtype = torch.float32
    aims: dict[str, float] = field(default_factory=dict)
    packed: bool = False
    pairs: bool = False


WORKS = {
    "gpt2": Work("gpt2", GPT2, 1024, 64, {"bf16": True, "micro_batch_size": 16}, aims={"mfu": 0.45}),
    "llama_1b": Work("llama", LLAMA_1B, 2048, 16, {"bf16": True, "micro_batch_size": 4}, aims={"mfu": 0.48}),
    "llama_8b": Work(
        "llama",
        LLAMA_8B,
        4096,
        4,
        {"bf16": True, "micro_batch_size": 1, "activation_checkpointing": True},
        torch.bfloat16,
        {"tokens_per_s": 12_500},
    ),
    "packs": Work("llama", LLAMA_100M, 4096, 8, {"bf16": True, "micro_batch_size": 4}, packed=True),
    "minilm": Work("bert", MINILM, 128, 256, {"bf16": True}),
    "pairs": Work("llama", LLAMA_1B, 1024, 16, {"bf16": True, "micro_batch_size": 2}, pairs=True),
}


@dataclass
class Case:
    """A work with its switches. `beside`: the case that has the same losses, with one switch the other way."""

    work: str
    switch: str
    beside: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    chunked: bool = True  # the loss without logits
    lora: bool = False
    four_bits: bool = False
    attention: str = "sdpa"
    environment: dict[str, str] = field(default_factory=dict)


COMPILED = {"torch_compile": True}
CASES = {
    "gpt2": Case("gpt2", "all on", settings=COMPILED),
    "llama_1b": Case("llama_1b", "all on", settings=COMPILED),
    "llama_8b: LoRA": Case("llama_8b", "LoRA", lora=True),
    "minilm": Case("minilm", "steps of random texts"),
    "minilm: grouped": Case(
        "minilm", "steps of similar lengths", settings={"train_sampling_strategy": "group_by_length"}
    ),
    "packs: mask": Case("packs", "attn_implementation sdpa"),
    "packs: blocks": Case("packs", "attn_implementation sdpa_blocks", "packs: mask", attention="sdpa_blocks"),
    "minilm: padding-free": Case("minilm", "padding_free on", "minilm", {"padding_free": True}),
    "packs: compiled": Case("packs", "torch_compile on", "packs: mask", COMPILED),
    "packs: liger": Case("packs", "use_liger_kernel on", "packs: mask", {"use_liger_kernel": True}),
    "packs: kernels": Case("packs", "use_kernels on", "packs: mask", {"use_kernels": True}),
    "gpt2: not compiled": Case("gpt2", "torch_compile off", "gpt2"),
    "llama_8b: QLoRA": Case("llama_8b", "QLoRA", lora=True, four_bits=True),
    "gpt2: all logits": Case("gpt2", "chunked_loss off", "gpt2: not compiled", chunked=False),
    "gpt2: checkpointing": Case(
        "gpt2", "activation_checkpointing on", "gpt2: not compiled", {"activation_checkpointing": True}
    ),
    "gpt2: small micro-batches": Case("gpt2", "micro_batch_size 4", "gpt2: not compiled", {"micro_batch_size": 4}),
    "gpt2: fp32": Case("gpt2", "bf16 off", "gpt2: not compiled", {"bf16": False}),
    "llama_1b: not compiled": Case("llama_1b", "torch_compile off", "llama_1b"),
    "pairs": Case("pairs", "chunked_loss on"),
    "pairs: all logits": Case("pairs", "chunked_loss off", "pairs", chunked=False),
    "gpt2: saved": Case("gpt2", "save_steps 4, in the background", "gpt2: not compiled", {"save_steps": 4}),
    "minilm: fixed segments": Case(
        "minilm", "expandable_segments off", "minilm",
        environment={"PYTORCH_ALLOC_CONF": "expandable_segments:False"},
    ),
    "packs: flash": Case(
        "packs", "attn_implementation flash_attention_2", "packs: mask", attention="flash_attention_2"
    ),
}  # fmt: skip


def work_of(case: Case, quick: bool) -> Work:
    work = WORKS[case.work]
    if not quick:
        return work
    settings = work.settings | ({"micro_batch_size": 2} if "micro_batch_size" in work.settings else {})
    shape = work.shape | SMALL if work.kind != "gpt2" else SMALL_GPT2
    shape |= {name: 1 for name in ("num_key_value_heads",) if name in shape}
    shape.pop("head_dim", None)
    return Work(work.kind, shape, 32, 4, settings, work.dtype, work.aims, work.packed, work.pairs)


# ---- models and rows


def make_model(work: Work, case: Case) -> nn.Module:
    """Drawn where it is trained: a CPU would take minutes for 8B parameters."""
    import transformers

    head = "SequenceClassification" if work.kind == "bert" else "CausalLM"
    special = {"bos_token_id": None, "eos_token_id": None} if work.kind != "bert" else {"num_labels": 6}
    shape = transformers.AutoConfig.for_model(work.kind, **work.shape, **special)
    auto = getattr(transformers, f"AutoModelFor{head}")
    torch.manual_seed(0)
    with torch.device(TARGET):
        model = auto.from_config(shape, dtype=work.dtype)
    return in_four_bits(model, auto) if case.four_bits else model


def in_four_bits(model: Any, auto: Any) -> Any:
    """The same weights, quantized as `load_model` does it."""
    from hftrain.models.adapters import four_bits

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        return auto.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=four_bits("bfloat16"))


def make_examples(work: Work, steps: int) -> Any:
    from hftrain import Examples

    draw, vocabulary = np.random.default_rng(0), work.shape["vocab_size"]
    count = steps * work.rows
    if work.packed:
        return make_packs(work, count, draw)
    if work.pairs:
        ids = draw.integers(1, vocabulary, (count, 2, work.length))
        rows = [
            {f"{side}_{name}": row[i] for i, side in enumerate(("first", "second")) for name in ("input_ids", "labels")}
            for row in ids
        ]
        return Examples(rows, np.full((count, 2), work.length))
    if work.kind != "bert":
        ids = draw.integers(1, vocabulary, (count, work.length))
        return Examples([{"input_ids": row} for row in ids], np.full(count, work.length))
    lengths = np.clip(np.exp(draw.normal(3, 0.6, count)).astype(int), 4, work.length)
    rows = [{"input_ids": draw.integers(1, vocabulary, n), "labels": int(draw.integers(6))} for n in lengths]
    return Examples(rows, lengths)


def make_packs(work: Work, count: int, draw: np.random.Generator) -> Any:
    """Full packs, but for the last ones of a round number of documents."""
    from hftrain import Examples
    from hftrain.data.packing import Packed, pack

    lengths = np.clip(
        np.exp(draw.normal(4.1, 0.7, 2 * count * work.length // 60)).astype(int),
        min(8, work.length // 8),
        work.length // 8,
    )
    lengths = lengths[: int(np.searchsorted(lengths.cumsum(), count * work.length)) + work.length]
    rows = [{"input_ids": draw.integers(1, work.shape["vocab_size"], n)} for n in lengths]
    return Packed(Examples(rows, lengths), pack(lengths, work.length))


def collate_texts(rows: list[Any]) -> dict[str, torch.Tensor]:
    from hftrain import text

    ids = [row["input_ids"] for row in rows]
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": text.pad(ids, 0), "attention_mask": text.attention_mask(ids), "labels": labels}


# ---- one case, in this process


def task_of(work: Work, case: Case, model: Any, accelerator: Any, folder: str) -> dict[str, Any]:
    """`collate` and `loss` of `fit`."""
    from functools import partial

    from hftrain import causal_language_model
    from hftrain.labels.losses import classification
    from hftrain.tasks import preference
    from hftrain.tasks.preference.examples import collate_preferences
    from hftrain.text.causal import collate_causal, in_blocks
    from hftrain.train.trials import chunk_loss

    if work.kind == "bert":
        return {"collate": collate_texts, "loss": classification("single_label_classification")}
    chunked = case.chunked and chunk_loss(model)
    if work.pairs:
        config = preference.PreferenceRecipeConfig(
            model_name_or_path="none", train_file=["none"], output_dir=folder, loss_type="simpo"
        )
        collate = partial(collate_preferences, pad_token_id=0)
        return {"collate": collate, "loss": preference.preference_loss(accelerator, config)}
    collate = partial(collate_causal, pad_token_id=0, room=work.length, blocks=in_blocks(model))
    return {"collate": collate, "loss": causal_language_model(chunked=chunked)}


def counted_bytes(model: Any, examples: Any, config: Any, task: dict[str, Any]) -> int | None:
    """The peak that `hftrain plan` counts; None where it cannot."""
    from hftrain.data.examples import fetch
    from hftrain.models.freezing import narrow_frozen
    from hftrain.train.forecast.passes import count_pass, without_numbers
    from hftrain.train.forecast.strategies import needs, weigh_model

    if getattr(model, "is_quantized", False) or config.micro_batch_size is None:
        return None
    shapes = without_numbers(model)
    narrow_frozen(shapes, torch.bfloat16 if config.bf16 else torch.float32)
    batch = task["collate"](fetch(examples, list(range(config.micro_batch_size))))
    one = count_pass(shapes, batch, task["loss"], bf16=bool(config.bf16), checkpointing=config.activation_checkpointing)
    several = config.global_batch_size > config.micro_batch_size
    return needs("one device", weigh_model(shapes), one, 1, bf16=bool(config.bf16), accumulated=several).peak


def measure(case: Case, quick: bool) -> dict[str, Any]:
    """Trains, and returns tokens per second, MFU, peak memory, seconds of the first step, how often the CPU waits for
    the GPU in a step, and the losses."""
    from hftrain import LoraConfig, TrainConfig, add_adapters, fit, start
    from hftrain.train.flops import peak_flops, step_flops

    os.environ.update(case.environment)  # before the first byte of the GPU
    work, steps = work_of(case, quick), QUICK_STEPS if quick else STEPS
    examples, needed, ticks = make_examples(work, steps), [], [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as warned:
        settings = {"learning_rate": 1e-4, "global_batch_size": work.rows, "warmup_steps": 0} | work.settings
        settings |= {"max_steps": steps, "save_steps": 0, "logging_steps": 1, "eval_steps": 0} | case.settings
        config = TrainConfig(output_dir=f"{folder}/out", **settings)
        accelerator = start(config)
        model = make_model(work, case)
        model.set_attn_implementation(case.attention)
        model = add_adapters(model, LoraConfig(use_peft=case.lora, load_in_4bit=case.four_bits), "CAUSAL_LM")
        task = task_of(work, case, model, accelerator, folder)
        flops, counted = step_flops(model, examples), counted_bytes(model, examples, config, task)

        def count(indices: np.ndarray) -> float:
            needed.append((int(examples.lengths[indices].sum()), flops(indices)))
            return needed[-1][1]

        def after_step(step: int, model: nn.Module) -> None:
            ticks.append(time.perf_counter())
            if TARGET == "cuda" and step in (steps - 2, steps - 1):  # of the last step but one, each wait is a warning
                torch.cuda.set_sync_debug_mode("warn" if step == steps - 2 else "default")

        waits = warned.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        fit(
            accelerator,
            model,
            examples,
            config,
            flops=count,
            after_step=after_step,
            **task,
        )
        log = [json.loads(line) for line in Path(f"{folder}/out/metrics.jsonl").read_text().splitlines()]
    warm = max(1, steps // 3)  # a compilation, and the first allocations
    seconds = ticks[-1] - ticks[warm]
    tokens, operations = (sum(values) for values in zip(*needed[warm:], strict=True))
    peak = peak_flops(accelerator.device)
    return {
        "tokens_per_s": tokens / seconds,
        "mfu": operations / seconds / peak if peak else None,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if TARGET == "cuda" else None,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if TARGET == "cuda" else None,
        "counted_gib": counted / 2**30 if counted is not None else None,
        "begin_s": ticks[1] - ticks[0],
        "waits_a_step": sum("synchronizing CUDA" in str(warning.message) for warning in waits),
        "losses": [row["loss"] for row in log if "loss" in row],
    }


# ---- all of them


def measure_here(case: Case) -> dict[str, Any]:
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            numbers = measure(case, quick=True)
    except ValueError as error:  # a setting that needs a GPU
        numbers = {"error": str(error)}
    AcceleratorState._reset_state(reset_partial_state=True)
    return numbers


def measure_apart(name: str, seconds: float) -> dict[str, Any]:
    """In a process of its own, whose memory is counted alone and whose failure is an error in the table."""
    command = [sys.executable, __file__, "--only", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": "no time left"}
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or ["no message"]
    return {"error": lines[-1]} if done.returncode else json.loads(lines[-1])


def run_all(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The numbers of each case, or {"error"}; none begins that would outlast the time."""
    began, results = time.perf_counter(), {}
    for name in args.cases:
        left = 60 * args.minutes - (time.perf_counter() - began)
        if left < args.least:
            results[name] = {"error": "no time left"}
            continue
        results[name] = measure_here(CASES[name]) if args.quick else measure_apart(name, left)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1))
    return results


def row(name: str, results: dict[str, dict[str, Any]]) -> str:
    case, numbers = CASES[name], results[name]
    if "error" in numbers:
        return f"| {case.work} | {case.switch} | {numbers['error']} | | | | | | | | |"
    mfu = f"{numbers['mfu']:.1%}" if numbers["mfu"] is not None else ""
    sizes = [numbers[f"{name}_gib"] for name in ("counted", "memory", "reserved")]
    memory = ["" if gib is None else f"{gib:.2f}" for gib in sizes]
    cells = [f"{numbers['tokens_per_s']:,.0f}", mfu, *memory, f"{numbers['begin_s']:.0f}"]
    other = results.get(case.beside or "", {"error": ""})
    if case.beside is None or "error" in other:
        return f"| {case.work} | {case.switch} | {' | '.join(cells)} | | | |"
    apart = difference(numbers["losses"], other["losses"])
    speed = numbers["tokens_per_s"] / other["tokens_per_s"]
    return f"| {case.work} | {case.switch} | {' | '.join(cells)} | {case.beside} | {speed:.2f} | {apart} |"


def difference(losses: list[float], others: list[float]) -> str:
    apart = max(abs(a - b) / abs(b) for a, b in zip(losses, others, strict=True))
    return f"{apart:.1e} ({'equal' if apart <= EQUAL else 'NOT EQUAL'})"


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| work | switch | tokens/s | MFU | GiB counted | GiB | GiB taken | s to the first step | beside | speed "
        "| losses apart by |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(row(name, results) for name in results),
        "",
        "| aim | | measured | |",
        "|---|---|---|---|",
    ]
    for name, numbers in results.items():
        for key, aim in WORKS[CASES[name].work].aims.items():
            value = numbers.get(key)
            if CASES[name].beside is None:
                shown = "not measured" if value is None else f"{value:,.2f}"
                verdict = "" if value is None else "reached" if value >= aim else "not reached"
                lines.append(f"| {name}, {key} | >= {aim:g} | {shown} | {verdict} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--minutes", type=float, default=8, help="for all cases together")
    parser.add_argument("--least", type=float, default=20, help="seconds that must be left for a case to begin")
    parser.add_argument("--json", type=Path, help="file for the numbers of each case")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and few steps, not compiled")
    parser.add_argument("--only", choices=CASES, help="measure this one in this process, and print JSON")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(CASES[args.only], args.quick)))
        return
    device = torch.cuda.get_device_name() if TARGET == "cuda" else "CPU"
    print(f"{device}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n\n{table(run_all(args))}")


if __name__ == "__main__":
    main()
