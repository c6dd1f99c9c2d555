"""Memory that `hftrain plan` counts, beside what the allocator hands out in real runs."""

import copy
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType

from hftrain.config import TrainConfig
from hftrain.data.examples import Examples
from hftrain.data.plan import Plan
from hftrain.distributed import make_accelerator
from hftrain.losses import causal_language_model
from hftrain.text import attention_mask, pad
from hftrain.train.forecast import refusal
from hftrain.train.forecast.passes import FEW, count_pass, stacks
from hftrain.train.forecast.refusal import require_room
from hftrain.train.forecast.strategies import FILES, needs, weigh_model
from hftrain.train.inspect import View
from scripts import walk
from tests import ROOT
from tests.programs import launcher, run
from tests.train.forecast_worker import OTHERS, SETTINGS, loss_of, make_batch, make_model

WORKER = ROOT / "tests" / "train" / "forecast_worker.py"


def expected(strategy, processes, **changes):
    settings = SETTINGS | changes
    model = make_model(settings["lora"], settings["kind"], settings["layers"]).to("meta")
    narrow = settings["bf16"] and strategy not in ("one device", "DDP")
    weights, batch = weigh_model(model), make_batch(settings["rows"], settings["tokens"], settings["kind"])
    one = count_pass(model, batch, loss_of(settings["kind"], model), bf16=settings["bf16"], narrow=narrow)
    several = settings["micro_batches"] > 1
    return needs(strategy, weights, one, processes, bf16=settings["bf16"], accumulated=several).peak


def measured(folder, *changes, launch=(sys.executable,)):
    file = folder / "peaks"
    run(*launch, WORKER, file, json.dumps(changes))
    return json.loads(file.read_text())


@pytest.mark.slow
def test_one_process_needs_what_was_counted(tmp_path):
    changes = [{}, {"rows": 8, "micro_batches": 1}, {"lora": True}, {"kind": "BertForMaskedLM"}]
    counted = [expected("one device", 1, **change) for change in changes]
    *llama, bert = measured(tmp_path, *changes)
    assert llama == pytest.approx(counted[:-1], rel=0.01)
    assert bert == pytest.approx(counted[-1], rel=0.1)


def test_pictures_and_sounds_need_what_was_counted(tmp_path):
    changes = [{"kind": kind} for kind in OTHERS]
    counted = [expected("one device", 1, **change) for change in changes]
    assert measured(tmp_path, *changes) == pytest.approx(counted, rel=0.1)


def test_a_count_leaves_no_tensor_behind():
    """transformers keeps the anchors of a detector for all models of the process."""
    kind = "RTDetrV2ForObjectDetection"
    model, batch = make_model(kind=kind), make_batch(2, 0, kind)
    count_pass(model, batch, loss_of(kind, model))
    loss_of(kind, model).summed(model, batch).backward()


@pytest.mark.slow
def test_half_precision_needs_what_was_counted(tmp_path):
    assert measured(tmp_path, {"bf16": True}) == pytest.approx([expected("one device", 1, bf16=True)], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3", "FSDP2"])
def test_two_processes_need_what_was_counted(tmp_path, strategy):
    if "ZeRO" in strategy:
        pytest.importorskip("deepspeed")
    files = launcher("--config_file", str(ROOT / "ds_configs" / FILES[strategy]))
    assert measured(tmp_path, {}, launch=files) == pytest.approx([expected(strategy, 2)], rel=0.1)


def test_a_deep_model_is_counted_at_few_layers():
    """The bytes of a pass grow by the same amount with each layer."""
    model = make_model().to("meta")
    (stack,) = stacks(model)
    while len(stack) < 3 * FEW[1]:
        stack.append(copy.deepcopy(stack[-1]))
    model.config.num_hidden_layers = len(stack)
    short = count_pass(model, make_batch(2, 64), causal_language_model())
    model._no_split_modules = []  # now nothing is known to be a layer, and all of it is counted
    assert count_pass(model, make_batch(2, 64), causal_language_model()).activations == pytest.approx(
        short.activations, rel=1e-3
    )
    assert len(stack) == 3 * FEW[1]  # unchanged


def test_a_run_that_cannot_fit_is_refused_at_the_start():
    with torch.device("meta"):
        model = make_model()
        model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(torch.empty(2**20, 2**20))  # 4 TiB
    with pytest.raises(ValueError, match=r"1 x .* GiB under one device: weights \(4096.0 GiB\).*hftrain plan"):
        require_room(make_accelerator(), model, view_of(model))


def view_of(model, **settings):
    """The arguments of `fit` for rows of 40 and 400 tokens, four in a step."""
    lengths = np.array([40, 400] * 6)[:, None]
    examples = Examples([make_batch(1, n)["input_ids"][0] for n in lengths[:, 0]], lengths)
    config = TrainConfig(output_dir="unused", learning_rate=1e-3, **settings)

    def collate(rows):
        ids = pad(rows, 0)
        return {"input_ids": ids, "labels": ids.clone(), "attention_mask": attention_mask(rows)}

    plan = Plan(lengths, seed=0, global_batch_size=4)
    return View(examples, collate, plan, config, model, None, loss=causal_language_model())


def test_activations_that_cannot_fit_are_refused_too(monkeypatch):
    """With the memory between what one and what two of the longest rows need."""
    gpu = {"device": torch.device("cuda"), "num_processes": 1, "distributed_type": DistributedType.NO}
    model, accelerator, random = make_model(), SimpleNamespace(**gpu), torch.get_rng_state()
    few, many = (
        needs("one device", weigh_model(model), count_pass(model, make_batch(n, 400), causal_language_model()), 1).peak
        for n in (1, 2)
    )
    monkeypatch.setattr(refusal, "memory_of", lambda device: (few + many) // 2)
    require_room(accelerator, model, view_of(model))  # micro-batches are chosen later, by what fits
    require_room(accelerator, model, view_of(model, micro_batch_tokens=500))
    for settings in ({"micro_batch_size": 2}, {"micro_batch_tokens": 800}):
        with pytest.raises(ValueError, match=r"activations of the longest examples \([0-9.]+\) exceed that"):
            require_room(accelerator, model, view_of(model, **settings))
    require_room(accelerator, model, view_of(model, micro_batch_size=2, activation_checkpointing=True))
    assert torch.equal(torch.get_rng_state(), random)


def test_seventy_billion_parameters_are_counted_without_memory():
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=8, vocab_size=128256))
    weights = weigh_model(model)
    batch = {name: values % 1000 for name, values in make_batch(1, 4096).items()}
    one = count_pass(model, batch, causal_language_model(), bf16=True, narrow=True, checkpointing=True)
    sharded = needs("ZeRO-3", weights, one, 64, bf16=True)
    assert weights.trained == 70_553_706_496
    assert 30e9 < sharded.peak < 80e9 < needs("ZeRO-3", weights, one, 8, bf16=True).peak
    assert needs("one device", weights, one, 1, bf16=True).peak > 1e12


@pytest.mark.slow
def test_the_command_prints_rows_and_json(tmp_path):
    from tests import tiny

    tiny.chat_folder(tmp_path / "model")
    rows = [{"prompt": "a few words " * (1 + i % 5), "completion": "more words"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = ["--model_name_or_path", tmp_path / "model", "--train_file", tmp_path / "rows.jsonl", "--max_length", 64]
    command = [sys.executable, "-m", "hftrain.cli", "plan", "chat", "--num_processes", "2", "--json", "--"]
    done = run(*command, *recipe, "--output_dir", tmp_path / "out")
    table = json.loads(done.stdout)
    assert {(row["kind"], row["strategy"]) for row in table} >= {
        ("full", "FSDP2"),
        ("LoRA", "ZeRO-3"),
        ("QLoRA", "DDP"),
    }
    assert all(row["fits"] and row["hours"] > 0 and row["needs"]["peak"] > 0 for row in table)
    peaks = {(row["kind"], row["micro_batch_size"]): row["needs"] for row in table if row["strategy"] == "one device"}
    assert peaks["QLoRA", 1]["weights"] < peaks["LoRA", 1]["weights"] < peaks["full", 1]["peak"]
    assert not (tmp_path / "out").exists()
    words = [str(word) for word in [*command[:5], "--memory", "0.0001", "--no_timing", "--", *recipe]]
    refused = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode == 1, refused.stderr
    assert "nothing fits: add devices" in refused.stdout


@pytest.mark.slow
def test_a_new_model_has_rows_without_adapters_and_times(tmp_path):
    command = [
        "-m",
        "hftrain.cli",
        "plan",
        "translate",
        "--num_processes",
        "2",
        "--json",
        "--price_per_hour",
        "2",
        "--",
    ]
    table = json.loads(run(sys.executable, *command, "--output_dir", tmp_path / "out").stdout)
    assert {row["kind"] for row in table} == {"full"}
    one, other = [row for row in table if row["strategy"] == "one device"]  # micro-batches of 1 and of the recipe
    assert 0 < other["seconds"] < one["seconds"]
    assert one["price"] == pytest.approx(2 * one["hours"]) and one["hours"] > one["seconds"] / 3600


def test_the_table_of_large_models_is_what_is_counted():
    """From start to export, at 7B; 70B differs only by its shape."""
    written = (ROOT / "docs" / "cluster.md").read_text()
    assert walk.HEAD in written
    model = walk.model_of("7B")
    one, numbers = walk.pass_of(model), sum(parameter.numel() for parameter in model.parameters())
    for ranks in walk.RANKS:
        for strategy in ("ZeRO-3", "FSDP2"):
            walked = walk.walk(model, one, strategy, ranks)
            assert walked.row("7B", ranks, strategy) in written
            assert walked.save == 12 * numbers <= ranks * walked.save_rank < 1.001 * walked.save
            assert walked.start_device < walked.start_host / 6
