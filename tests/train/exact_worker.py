"""What the tests of exactness run: small training jobs, in the test's own process or in each process of a launch.

    accelerate launch ... tests/train/exact_worker.py FOLDER        # FOLDER/jobs.json -> FOLDER/results.json

A job is a dict: `name`, `model` (a key of `ALL`), `settings` of TrainConfig, and what else `run` reads from it.
"""

import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, gather_object
from peft import LoraConfig, get_peft_model

from hftrain.config import TrainConfig
from hftrain.data.examples import Examples
from hftrain.distributed import draw
from hftrain.losses import Loss, causal_language_model, sequence_to_sequence
from hftrain.report.history import read_history
from hftrain.text import collate_pairs
from hftrain.train.evaluation import mean_loss, predict
from hftrain.train.loop import fit, start
from tests.programs import free_port
from tests.train.exact_models import (
    ALL,
    VOCABULARY,
)

EXAMPLES, BATCH = 46, 15  # 46 = 3 * 15 + 1: the last step of an epoch has fewer examples than processes
SETTINGS = {
    "max_steps": 8, "global_batch_size": BATCH, "learning_rate": 3e-3, "warmup_steps": 2, "logging_steps": 1,
    "eval_steps": 0, "save_steps": 0, "seed": 1,
}  # fmt: skip


def make_examples(count: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Pairs whose lengths differ much: sources of 2 to 15 tokens, targets of 2 to 11."""
    draw = np.random.default_rng(seed)
    return [
        {
            "input_ids": draw.integers(3, VOCABULARY, draw.integers(2, 16)).tolist(),
            "labels": draw.integers(3, VOCABULARY, draw.integers(2, 12)).tolist(),
        }
        for _ in range(count)
    ]


def lengths_of(examples: list[dict[str, list[int]]]) -> np.ndarray:
    return np.array([[len(example["input_ids"]), len(example["labels"])] for example in examples])


def collate(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return collate_pairs(examples, pad_token_id=0, decoder_start_token_id=1)


def collate_causal(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """The sources alone, each its own labels."""
    batch = collate_pairs(
        [{**example, "labels": example["input_ids"]} for example in examples],
        pad_token_id=0,
        decoder_start_token_id=1,
    )
    del batch["decoder_input_ids"]
    return batch


def run(job: dict[str, Any], folder: Path, accelerator: Any = None) -> dict[str, Any]:
    """Runs one job; returns its losses and gradient norms by step, and what it was run on.

    Read from the job: `dropout` (0), `examples` (46), `stop_after` (a SIGTERM to itself, so that it stops after this
    step), `nan_at` (a loss that is NaN at this step, or its gradient if `nan_in` says so), `room` (a micro-batch of
    more examples asks for more memory than there is, on process 1 only if `on_process_1`), `evaluate` (mean loss and
    predictions for these batch sizes), `output_dir` (`name`), `lora` (trains adapters only).
    """
    output_dir = folder / job.get("output_dir", job["name"])
    config = TrainConfig(output_dir=str(output_dir), **SETTINGS | job.get("settings", {}))
    accelerator = accelerator or start(config)
    torch.manual_seed(0)
    model = draw(lambda: ALL[job["model"]](job.get("dropout", 0.0)))
    if job.get("lora"):
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    examples = make_examples(job.get("examples", EXAMPLES))
    causal = job["model"] in ("llama", "idle", "qwen3_moe")
    exact = causal_language_model() if causal else sequence_to_sequence()
    task: dict[str, Any] = {"collate": collate_causal if causal else collate}
    done = 0
    result: dict[str, Any] = {"ended": "finished", "largest": 0, "out_of_memory": 0}
    before: dict[str, torch.Tensor] = {}
    trained: Any = None

    def loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        rows = len(batch["input_ids"])
        if done == 0 and accelerator.distributed_type == DistributedType.FSDP:
            result.setdefault("gradients_held", []).append(shares_of_gradients(model))
        result["largest"] = max(rows, result["largest"])
        if rows > job.get("room", rows) and accelerator.process_index >= job.get("on_process_1", False):
            result["out_of_memory"] += 1
            torch.empty(2**60, dtype=torch.uint8)
        value = exact.summed(model, batch)
        if job.get("nan_at") == done + 1 and accelerator.process_index == 0:
            # the second is finite, with a gradient that is not
            return value * float("nan") if job.get("nan_in", "loss") == "loss" else value + (value * 0).sqrt()
        return value

    def after_step(step: int, model: torch.nn.Module) -> None:
        nonlocal done, trained
        done, trained = step, model
        if job.get("nan_at") == step + 1:
            weights = accelerator.get_state_dict(model) or {}  # only the main process's are whole under ZeRO-3
            before.update({name: tensor.clone() for name, tensor in weights.items()})
        if job.get("stop_after") == step + 1:  # noticed at the end of the step that follows
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        model, _ = fit(
            accelerator,
            model,
            Examples(examples, lengths_of(examples)),
            config,
            loss=Loss(loss, exact.count),
            after_step=after_step,
            **task,
        )
    except (FloatingPointError, SystemExit, RuntimeError) as error:
        result["ended"] = f"{type(error).__name__}: {error}"
    result |= {"processes": accelerator.num_processes, "strategy": accelerator.distributed_type.value}
    if accelerator.state.deepspeed_plugin is not None:
        result["zero_stage"] = accelerator.state.deepspeed_plugin.zero_stage
    if result["ended"] == "finished":
        result["pieces"] = gather_object([pieces(accelerator, model)])
        result["hosts"] = gather_object([platform.node()])
    if evaluation := job.get("evaluate"):
        model.eval()
        measured = Examples(examples, lengths_of(examples))
        result["mean_loss"] = [mean_loss(accelerator, model, measured, size, loss=exact, **task) for size in evaluation]

        def generate(batch: dict[str, torch.Tensor]) -> list[Any]:
            return [row[row > 0].tolist() for row in batch["input_ids"]]

        sources = [example["input_ids"] for example in examples]
        result["in_order"] = [
            predict(accelerator, measured, size, collate=task["collate"], generate=generate) == sources
            for size in evaluation
        ]
    if job.get("nan_at"):
        after = accelerator.get_state_dict(trained) or {}
        result["changed"] = [name for name in before if not torch.equal(before[name], after[name])]
        result["compared"] = len(before)
    if accelerator.is_main_process:
        rows = [row for row in read_history(output_dir / "metrics.jsonl") if "loss" in row]
        result["steps"] = {row["step"]: (row["loss"], row["grad_norm"]) for row in rows}
        result["router_loss"] = [row.get("router_loss") for row in rows]
    return result


def pieces(accelerator: Any, model: Any) -> dict[str, float | bool]:
    """The share of the parameters and of AdamW's moments that this process holds; whether it cuts gradients up too."""
    parameters = [p for p in accelerator.unwrap_model(model).parameters() if p.requires_grad]
    zero = accelerator.distributed_type == DistributedType.DEEPSPEED
    optimizer = model.optimizer.optimizer if zero else accelerator._optimizers[-1].optimizer
    kept = [getattr(p, "ds_tensor", p) for p in parameters]
    moments = [state["exp_avg"] for state in optimizer.state.values()]

    def numbers(tensors: list[Any]) -> int:
        return sum((t.to_local() if hasattr(t, "to_local") else t).numel() for t in tensors)

    whole = sum(math.prod(getattr(p, "ds_shape", p.shape)) for p in parameters)
    gradients = bool(getattr(model.optimizer, "partition_gradients", True)) if zero else numbers(parameters) < whole
    return {"parameters": numbers(kept) / whole, "moments": numbers(moments) / whole, "gradients": gradients}


def shares_of_gradients(model: torch.nn.Module) -> float:
    """The share of the gradients' numbers that this process holds between two micro-batches."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    held: list[Any] = [parameter.grad for parameter in trained if parameter.grad is not None]
    return sum(gradient.to_local().numel() for gradient in held) / sum(parameter.numel() for parameter in trained)


@contextmanager
def two_hosts() -> Iterator[list[list[str]]]:
    """What to put before a command to run it on either of two hosts: network namespaces joined by a cable, host-0
    (10.77.0.1) and host-1 (10.77.0.2). Needs root."""
    names = [f"hftrain-{os.getpid()}-{i}" for i in (0, 1)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
            (Path("/etc/netns") / name).mkdir(parents=True)  # where `ip netns exec` looks for a host's own files
            (Path("/etc/netns") / name / "hosts").write_text(
                "127.0.0.1 localhost\n10.77.0.1 host-0\n10.77.0.2 host-1\n"
            )
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "cable", "netns", names[1])
        for i, name in enumerate(names):
            ip("-n", name, "address", "add", f"10.77.0.{i + 1}/24", "dev", "cable")
            for link in ("lo", "cable"):
                ip("-n", name, "link", "set", link, "up")
        hostname = ["unshare", "--uts", "sh", "-c"]
        yield [
            ["ip", "netns", "exec", name, *hostname, f'hostname host-{i} && exec "$@"', "sh"]
            for i, name in enumerate(names)
        ]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


def launch(
    folder: Path,
    jobs: list[dict[str, Any]],
    *arguments: str,
    shard_on_cpu: bool = False,
    timeout: int = 580,
    hosts: Sequence[list[str]] = ([],),
    worker: str = __file__,
) -> dict[str, dict[str, Any]]:
    """Runs the jobs in one launch of 2 processes, on one or two hosts: name -> what `run` (or that of another `worker`)
    returned on the main one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"), *arguments, "--num_processes", "2",
        *("--num_machines", str(len(hosts)), "--dynamo_backend", "no", "--main_process_port", free_port()),
    ]  # fmt: skip
    recipe = [worker, str(folder), *(["--shard-on-cpu"] if shard_on_cpu else [])]
    started = []
    for i, host in enumerate(hosts):
        there = ["--machine_rank", str(i), "--main_process_ip", "host-0"] if len(hosts) > 1 else []
        environment = os.environ | ({"GLOO_SOCKET_IFNAME": "cable"} if there else {})
        with open(folder / f"log-{i}", "w") as log:
            words = [*host, *command, *there, *recipe]
            started.append(subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment))
    try:
        codes = [process.wait(timeout) for process in started]
    finally:
        for process in started:
            process.terminate()
    if any(codes):
        raise RuntimeError("\n".join((folder / f"log-{i}").read_text()[-20000:] for i in range(len(hosts))))
    results = json.loads((folder / "results.json").read_text())
    for result in results.values():
        result["steps"] = {int(step): tuple(values) for step, values in result.get("steps", {}).items()}
    return results


def main(folder: Path) -> None:
    if "--shard-on-cpu" in sys.argv:
        # FSDP2 itself shards on CPUs too; Accelerate would drop it there, as it knows it on accelerators only
        PartialState(cpu=True, backend="gloo")
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    results = {}
    for job in json.loads((folder / "jobs.json").read_text()):
        results[job["name"]] = run(job, folder)
    if results and "steps" in next(iter(results.values())):  # the main process
        (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
