"""The hardware decides how fast a run is and never what it computes: losses and gradient norms of the same run, cut in
every way, on one process and on two, under DDP, ZeRO and FSDP2, stopped and gone on elsewhere."""

import os
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tests import ROOT
from tests.train.exact_models import MODELS
from tests.train.exact_worker import launch, run, two_hosts

SEQ2SEQ = [name for name in MODELS if name != "llama"]
LAUNCH_FILES = ROOT / "ds_configs"
STRATEGIES = {"DDP": "ddp", "ZeRO-1": "zero1", "ZeRO-2": "zero2", "ZeRO-3": "zero3", "FSDP2": "fsdp2"}
# of the parameters, of AdamW's moments: the share that one of two processes holds; whether it cuts gradients up
PIECES = {
    "DDP": (1, 1, False), "ZeRO-1": (1, 0.5, False), "ZeRO-2": (1, 0.5, True), "ZeRO-3": (0.5, 0.5, True),
    "FSDP2": (0.5, 0.5, True),
}  # fmt: skip
ACCUMULATION = (1, 2, 4)
STEPS = 20 if "HFTRAIN_EXACTNESS" in os.environ else 8  # of each cell of the matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exact")


@pytest.fixture(scope="module")
def alone(folder):
    """(model, what else the job says) -> its result on this one process, run once."""

    @cache
    def result(model: str, settings: tuple = (), **job) -> dict:
        name = "-".join(map(str, ["alone", model, *settings, *job.items()]))
        return run({"name": name, "model": model, "settings": dict(settings), **job}, folder) | {"name": name}

    return result


def launch_with(strategy: str, place: Path, jobs: list[dict], **options) -> dict:
    """Runs jobs on 2 processes under a strategy, from its launch file; refuses any other that came instead."""
    files = ("--config_file", str(LAUNCH_FILES / f"{STRATEGIES[strategy]}.yaml"))
    results = launch(place, jobs, *files, shard_on_cpu=strategy == "FSDP2", **options)
    kind = "DEEPSPEED" if "ZeRO" in strategy else "FSDP" if strategy == "FSDP2" else "MULTI_CPU"
    for name, result in results.items():
        assert (name, result["strategy"], result["processes"]) == (name, kind, 2)
        assert "ZeRO" not in strategy or result["zero_stage"] == int(strategy[-1])
        if result["ended"] == "finished":
            parameters, moments, gradients = PIECES[strategy]
            shares = {"parameters": pytest.approx(parameters, abs=0.1), "moments": pytest.approx(moments, abs=0.1)}
            assert result["pieces"] == [{**shares, "gradients": gradients}] * 2
    return results


def assert_same(steps: dict, expected: dict) -> None:
    """Loss and gradient norm of each step, to 1e-5; measured: 3e-7."""
    assert steps.keys() == expected.keys()
    for step, values in expected.items():
        assert steps[step] == (values if None in values else pytest.approx(values, rel=1e-5)), step


# ------------------------------------------------------------------------------------------------------- the matrix


def matrix_jobs(processes: int) -> list[dict]:
    """`STEPS` steps of the same 16 examples each, in 1, 2 or 4 micro-batches of each process."""
    recipe = {"max_steps": STEPS, "global_batch_size": 16}
    return [
        {"name": f"matrix {n}", "model": "custom", "settings": {**recipe, "micro_batch_size": 16 // processes // n}}
        for n in ACCUMULATION
    ]


@pytest.fixture(scope="module")
def matrix(folder):
    """Compares a row of the matrix, the results of `matrix_jobs`, with one process that sees each step whole.

    With HFTRAIN_EXACTNESS=FILE, the measured differences are written there as a table.
    """
    whole = run(matrix_jobs(1)[0], folder)["steps"]
    rows: dict[str, list[tuple[float, float]]] = {}

    def compare(name: str, results: dict) -> None:
        rows[name] = []
        for n in ACCUMULATION:
            steps = results[f"matrix {n}"]["steps"]
            assert list(steps) == list(range(1, STEPS + 1))
            apart = [max(abs(steps[s][i] / whole[s][i] - 1) for s in whole) for i in (0, 1)]
            assert max(apart) < 1e-5, (name, n)
            rows[name].append(tuple(apart))

    yield compare
    if file := os.environ.get("HFTRAIN_EXACTNESS"):
        lines = ["| | accumulation 1 | accumulation 2 | accumulation 4 |", "|---|---|---|---|"]
        for name, row in rows.items():
            lines.append(f"| {name} | " + " | ".join(f"{loss:.1e} / {norm:.1e}" for loss, norm in row) + " |")
        Path(file).write_text("\n".join(lines) + "\n")


def test_accumulation_on_one_process(matrix, folder):
    matrix("1 process", {job["name"]: run(job, folder / "one") for job in matrix_jobs(1)})


def test_two_processes_in_the_matrix(matrix, ddp):
    matrix("DDP, 2 processes", ddp)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["DDP", "ZeRO-3"])
def test_two_hosts_give_the_same_losses(matrix, folder, strategy):
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("two hosts here are network namespaces: that needs root and `ip` (iproute2)")
    with two_hosts() as hosts:
        results = launch_with(strategy, folder / f"hosts {strategy}", matrix_jobs(2), hosts=hosts)
    assert results["matrix 1"]["hosts"] == ["host-0", "host-1"]
    matrix(f"{strategy}, 2 hosts of 1 process", results)


# ------------------------------------------------------------------------------------------------------ one process

CUTS = {
    "8 micro-batches": {"micro_batch_size": 2},
    "one by one": {"micro_batch_size": 1},
    "tokens 40": {"micro_batch_tokens": 40},
    "tokens 90": {"micro_batch_tokens": 90},
    "gradients exchanged by hand": {"micro_batch_size": 4, "halve_on_oom": True},
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("model", SEQ2SEQ)
def test_any_cut_gives_the_same_losses(alone, model, cut):
    whole, result = alone(model), alone(model, tuple(CUTS[cut].items()))
    assert len(whole["steps"]) == 8
    assert whole["largest"] == 15
    assert result["largest"] < 15
    assert_same(result["steps"], whole["steps"])


def test_a_batch_of_tokens_gives_the_same_losses_in_any_cut(alone):
    recipe = (("global_batch_tokens", 200),)
    whole = alone("custom", recipe)["steps"]
    for tokens in (30, 70):
        assert_same(alone("custom", (*recipe, ("micro_batch_tokens", tokens)))["steps"], whole)


@pytest.mark.parametrize("batch", [("global_batch_size", 4), ("global_batch_tokens", 120)])
def test_grouped_steps_give_the_same_losses_in_any_cut(alone, batch):
    recipe = (batch, ("train_sampling_strategy", "group_by_length"))
    whole = alone("custom", recipe)["steps"]
    assert whole != alone("custom", (batch,))["steps"]
    assert_same(alone("custom", (*recipe, ("micro_batch_size", 1)))["steps"], whole)


def test_halving_after_out_of_memory_changes_no_result(alone):
    result = alone("custom", (("halve_on_oom", True),), room=4)
    assert result["out_of_memory"] == 2  # 15 examples, then 7
    assert_same(result["steps"], alone("custom")["steps"])


def test_a_seed_changes_the_losses(alone):
    """So that the tests here could fail."""
    other, one = alone("custom", (("seed", 2),))["steps"], alone("custom")["steps"]
    assert all(other[step] != pytest.approx(one[step], rel=1e-4) for step in one)


# ----------------------------------------------------------------------------------------------------- two processes

TWO = {"micro_batch_size": 3}  # steps of 15 examples, 5 micro-batches for 2 processes; the 4th and 8th step have one
DDP_JOBS = [
    *({"name": model, "model": model, "settings": TWO} for model in SEQ2SEQ),
    {"name": "tokens", "model": "custom", "settings": {"global_batch_tokens": 200, "micro_batch_tokens": 70}},
    {"name": "dropout", "model": "bart", "settings": {"micro_batch_size": 2}, "dropout": 0.3},
    {
        "name": "out of memory on one of them", "model": "t5",
        "settings": {"micro_batch_size": 6, "halve_on_oom": True}, "room": 4, "on_process_1": True,
    },
    {"name": "nan", "model": "marian", "settings": TWO, "nan_at": 3},
    {"name": "skipped", "model": "marian", "settings": {**TWO, "max_nonfinite_steps": 1}, "nan_at": 3},
    {"name": "evaluation", "model": "custom", "settings": {"max_steps": 4}, "evaluate": [1, 2, 7, 64]},
    {"name": "stopped", "model": "custom", "settings": TWO, "stop_after": 4},
    *matrix_jobs(2),
]  # fmt: skip


@pytest.fixture(scope="module")
def ddp(folder, alone):
    alone("custom", stop_after=4)
    resumed = {"name": "resumed", "model": "custom", "output_dir": copied(folder, "alone-custom-('stop_after', 4)")}
    jobs = [*DDP_JOBS, {**resumed, "settings": {**TWO, "resume_from_checkpoint": "auto"}}]
    return launch_with("DDP", folder / "ddp", jobs)


def test_a_run_goes_on_with_more_and_with_fewer_processes(alone, folder, ddp):
    unbroken = alone("custom")["steps"]
    assert ddp["stopped"]["ended"] == "SystemExit: 75"
    assert_same(ddp["resumed"]["steps"], unbroken)
    settings = {"resume_from_checkpoint": "auto"}
    assert_same(run({"name": "stopped", "model": "custom", "settings": settings}, folder / "ddp")["steps"], unbroken)


@pytest.mark.parametrize("model", SEQ2SEQ)
def test_two_processes_give_the_same_losses(alone, ddp, model):
    assert_same(ddp[model]["steps"], alone(model)["steps"])


def test_two_processes_give_the_same_losses_for_batches_of_tokens(alone, ddp):
    assert_same(ddp["tokens"]["steps"], alone("custom", (("global_batch_tokens", 200),))["steps"])


def test_two_processes_give_the_same_dropout(alone, ddp):
    """The randomness of a micro-batch follows from its number in the step, wherever it is run."""
    dropped = alone("bart", (("micro_batch_size", 2),), dropout=0.3)["steps"]
    assert_same(ddp["dropout"]["steps"], dropped)
    assert dropped[1] != pytest.approx(alone("bart")["steps"][1], rel=1e-4)


def test_two_processes_halve_together(alone, ddp):
    assert_same(ddp["out of memory on one of them"]["steps"], alone("t5")["steps"])


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(alone, ddp):
    for result in (ddp["nan"], alone("marian", tuple(TWO.items()), nan_at=3)):
        assert "step 3: the loss is not finite (training examples [" in result["ended"]
        assert (result["changed"], list(result["steps"])) == ([], [1, 2])
        assert result["compared"] > 20


def test_a_skipped_step_is_skipped_on_any_number_of_processes(alone, ddp):
    expected = alone("marian", (*TWO.items(), ("max_nonfinite_steps", 1)), nan_at=3)["steps"]
    assert expected[3] == (None, None)
    assert_same(ddp["skipped"]["steps"], expected)


def test_evaluation_on_two_processes(alone, ddp):
    """The mean loss for batches of 1, 2, 7 and 64 of 46 examples, and predictions in the examples' order."""
    one, two = alone("custom", (("max_steps", 4),), evaluate=(1, 2, 7, 64)), ddp["evaluation"]
    assert two["mean_loss"] == pytest.approx([one["mean_loss"][0]] * 4, rel=1e-6)
    assert two["in_order"] == [True] * 4


# ------------------------------------------------------------------------------------------------------ ZeRO and FSDP


def close(model: str, one: Path, other: Path) -> None:
    """The exported weights are the same to 1e-5."""
    auto = AutoModelForCausalLM if model == "llama" else AutoModelForSeq2SeqLM
    first, second = (auto.from_pretrained(path) for path in (one, other))
    weights = second.state_dict()
    assert first.state_dict().keys() == weights.keys()
    for name, weight in first.state_dict().items():
        if not name.endswith("k_proj.bias"):  # softmax cancels it: its gradient is rounding, which Adam makes large
            torch.testing.assert_close(weights[name], weight, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def sharded_jobs(folder: Path, alone, models: list[str]) -> list[dict]:
    """What each strategy has to show: the same losses, a NaN caught, a run of one process gone on, one left behind."""
    alone("custom", stop_after=4)
    return [
        *({"name": model, "model": model, "settings": TWO} for model in models),
        {"name": "nan", "model": "custom", "settings": TWO, "nan_at": 3},
        {"name": "nan gradient", "model": "custom", "settings": TWO, "nan_at": 3, "nan_in": "gradient"},
        {"name": "skipped", "model": "custom", "settings": {**TWO, "max_nonfinite_steps": 1}, "nan_at": 3},
        {
            "name": "resumed", "model": "custom", "output_dir": copied(folder, "alone-custom-('stop_after', 4)"),
            "settings": {**TWO, "resume_from_checkpoint": "auto"},
        },
        {"name": "adapters", "model": "llama", "settings": TWO, "lora": True},
        {"name": "stopped", "model": "custom", "settings": TWO, "stop_after": 4},
        {"name": "stopped again", "model": "custom", "settings": TWO, "stop_after": 4},
        {
            "name": "resumed in kind", "model": "custom", "output_dir": "stopped again",
            "settings": {**TWO, "resume_from_checkpoint": "auto"},
        },
    ]  # fmt: skip


def copied(folder: Path, name: str) -> str:
    copies = len(list(folder.glob("copy-*")))
    target = folder / f"copy-{copies}"
    shutil.copytree(folder / name, target)
    return str(target)


@pytest.fixture(scope="module", params=["ZeRO-1", "ZeRO-2", "ZeRO-3", "FSDP2"])
def sharded(request, folder, alone, matrix):
    """(models, folder, results) of one launch of 2 processes under each strategy."""
    models = SEQ2SEQ if "ZeRO" in request.param else ["custom", "llama", "bart", "t5"]
    place = folder / request.param
    jobs = [*sharded_jobs(folder, alone, models), *matrix_jobs(2)]
    results = launch_with(request.param, place, jobs)
    matrix(f"{request.param}, 2 processes", results)
    return models, place, results


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sharded_training_gives_the_same_losses_and_weights(alone, folder, sharded):
    models, place, results = sharded
    for model in models:
        expected = alone(model)
        assert_same(results[model]["steps"], expected["steps"])
        close(model, folder / expected["name"], place / model)


@pytest.mark.slow
def test_adapters_trained_in_pieces_are_saved_whole(alone, folder, sharded):
    _, place, results = sharded
    expected = alone("llama", lora=True)
    assert_same(results["adapters"]["steps"], expected["steps"])
    one = load_file(folder / expected["name"] / "adapter_model.safetensors")
    two = load_file(place / "adapters" / "adapter_model.safetensors")
    assert one.keys() == two.keys() and len(one) == 2 * 2 * 7  # A and B of 7 matrices of 2 layers
    for name, weight in one.items():
        assert weight.norm() > 0
        torch.testing.assert_close(two[name], weight, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_sharded_training_stops_before_weights_change(alone, sharded):
    _, _, results = sharded
    for name, what in (("nan", "loss"), ("nan gradient", "gradient norm")):
        result = results[name]
        assert f"step 3: the {what} is not finite" in result["ended"]
        assert (result["changed"], list(result["steps"])) == ([], [1, 2])
        assert result["compared"] > 20
    expected = alone("custom", (*TWO.items(), ("max_nonfinite_steps", 1)), nan_at=3)["steps"]
    assert_same(results["skipped"]["steps"], expected)


@pytest.mark.slow
def test_a_run_goes_on_under_another_strategy(alone, folder, sharded):
    """One process, then two sharded; two sharded, then one; two, then two: the losses are those of the unbroken run."""
    _, place, results = sharded
    unbroken = alone("custom")
    stopped = {step: values for step, values in unbroken["steps"].items() if step <= 4}
    assert results["stopped"]["ended"] == "SystemExit: 75"
    assert_same(results["stopped"]["steps"], stopped)
    assert_same(results["resumed"]["steps"], unbroken["steps"])
    assert_same(results["resumed in kind"]["steps"], unbroken["steps"])
    settings = {"resume_from_checkpoint": "auto"}
    back = run({"name": "stopped", "model": "custom", "settings": settings}, place)
    assert (back["strategy"], back["processes"], back["ended"]) == ("NO", 1, "finished")
    assert_same(back["steps"], unbroken["steps"])
    close("custom", folder / unbroken["name"], place / "stopped")
    close("custom", folder / unbroken["name"], place / "stopped again")


@pytest.mark.slow
def test_fsdp_is_not_dropped_silently(folder):
    jobs = [{"name": "fsdp", "model": "custom"}]
    with pytest.raises(RuntimeError, match="the launcher requested FSDP, but Accelerate dropped it, as always on"):
        launch(folder / "dropped", jobs, "--config_file", str(LAUNCH_FILES / "fsdp2.yaml"))
