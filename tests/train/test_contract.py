"""What may change between a stop and a resume: each setting and input is refused, allowed or derived."""

import json
import shutil
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from hftrain import distributed
from hftrain.config import RecipeConfig
from hftrain.data.examples import Examples
from hftrain.data.files import sha256_of
from hftrain.data.plan import Plan, cut, same_cut
from hftrain.models.saved import remember
from hftrain.train import checkpoint
from hftrain.train.checkpoint.reading import sha256_of_json
from hftrain.train.contract import ALLOWED, DERIVED, RECORDED_FIRST, base_weights, compare, optional, run_contract
from tests import ROOT, tiny
from tests.train.resume_worker import BrokenOff, WorkerConfig, break_off, train


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of micro-batches of 3, broken off after its checkpoint of step 4; the best step is 3."""
    folder = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.raises(BrokenOff):
        train(WorkerConfig(output_dir=folder, micro_batch_size=3, learning_rate=0.05), break_off(5))
    return folder


def resume(stopped, tmp_path, steps=4, **changes):
    """Goes on in a copy of `stopped` until `steps`; by default it only takes up the checkpoint, and takes a step."""
    folder = tmp_path / "out"
    if not folder.exists():
        shutil.copytree(stopped, folder)
    settings = {"micro_batch_size": 3, "learning_rate": 0.05, "resume_from_checkpoint": "auto", **changes}
    with pytest.raises(BrokenOff):
        train(WorkerConfig(output_dir=folder, **settings), break_off(max(5, steps)))
    return folder


# ------------------------------------------------------------------------------------------------------- settings
def test_every_setting_is_refused_allowed_or_derived():
    names = {setting.name for setting in fields(RecipeConfig)} | {"chunked_loss"}  # of some recipes
    assert ALLOWED.keys() <= names and DERIVED.keys() <= names and set(RECORDED_FIRST) <= names
    assert not ALLOWED.keys() & DERIVED.keys() and not set(RECORDED_FIRST) & {*ALLOWED, *DERIVED}
    table = (ROOT / "docs" / "reliability.md").read_text()
    for name, reason in ALLOWED.items():
        assert f"| `{name}` | allowed | {reason} |" in table
    for name, key in DERIVED.items():
        assert f"| `{name}` | derived | `{key}` is compared |" in table
    for name in names - {*ALLOWED, *DERIVED}:
        assert f"`{name}`" in table, f"say in docs/reliability.md that {name} is refused"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_steps": 4}, "eval_steps: 3.0 when saved, 4.0 now"),
        ({"early_stopping_patience": 2}, "early_stopping_patience: null when saved, 2 now"),
        ({"metric_for_best_model": "accuracy"}, 'metric_for_best_model: "loss" when saved, "accuracy" now'),
        ({"load_best_model_at_end": False}, "load_best_model_at_end: true when saved, false now"),
        ({"width": 8}, "width: 16 when saved, 8 now"),  # a setting of the recipe's own
    ],
)
def test_what_chooses_the_best_model_is_refused_with_both_values(stopped, changes, message):
    config = WorkerConfig(output_dir=stopped, micro_batch_size=3, learning_rate=0.05, resume_from_checkpoint="auto")
    with pytest.raises(ValueError, match="--resume_allow") as refused:
        train(replace(config, **changes))
    assert message in str(refused.value)


def test_another_validation_set_is_refused_and_let_through_chooses_the_best_anew(
    stopped, tmp_path, monkeypatch, capsys
):
    assert checkpoint.read(stopped / "checkpoint-4").state["best_step"] == 3
    monkeypatch.setenv("HELD_OUT_SEED", "2")
    with pytest.raises(ValueError, match=r"validation_data: .* when saved, .* now"):
        resume(stopped, tmp_path)
    folder = resume(stopped, tmp_path, steps=9, resume_allow=["validation_data"])
    assert "the best model is chosen anew from here on, since validation_data changed" in capsys.readouterr().out
    assert checkpoint.read(folder / "checkpoint-8").state["best_step"] == 6


def test_settings_that_are_allowed_pass_without_a_word(stopped, tmp_path, capsys):
    resume(stopped, tmp_path, save_steps=2, logging_steps=1, eval_batch_size=3, dataloader_num_workers=1)
    out = capsys.readouterr().out
    assert "resumed from" in out and "not compared" not in out and "versions" not in out and "micro-batches" not in out


def test_a_checkpoint_of_an_older_version_resumes_and_says_what_is_not_compared(stopped, tmp_path, capsys):
    folder = tmp_path / "out"
    shutil.copytree(stopped, folder)

    def as_of_0_1_0(manifest):
        kept = {*RECORDED_FIRST, "model", "total_steps", "examples"}
        manifest["contract"] = {k: v for k, v in manifest["contract"].items() if k in kept} | {"data": "abc"}
        manifest["versions"] |= {"hftrain": "0.0.9"}

    reseal(folder / "checkpoint-4", as_of_0_1_0)
    resume(folder, tmp_path)
    out = capsys.readouterr().out
    assert "not compared, since this checkpoint does not record them: greater_is_better" in out
    assert "versions differ from the saved run, and perhaps rounding: hftrain 0.0.9, now" in out


def reseal(folder, change, rewrite=None):
    """Changes the manifest, and with `rewrite` a tensor file, so that both verify."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    if rewrite:
        for file in folder.glob("training-*.safetensors"):
            tensors = load_file(file)
            rewrite(tensors)
            save_file(tensors, file)
            manifest["files"][file.name] = {"size": file.stat().st_size, "sha256": sha256_of(file)}
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": sha256_of_json(manifest)}))
    assert checkpoint.verify(folder) == []


# ------------------------------------------------------------------------------------------------------- the base
def adapted(seed=0, head=0):
    model = tiny.model("BertForSequenceClassification", seed=seed)
    torch.manual_seed(head)
    torch.nn.init.normal_(model.classifier.weight)
    adapters = LoraConfig(target_modules=["query"], r=2, modules_to_save=["classifier"], task_type="SEQ_CLS")
    return get_peft_model(model, adapters)


def contract_of(model, **changes):
    return run_contract(Accelerator(), model, Examples.of([1, 2]), 1, WorkerConfig(**changes))


def test_a_checkpoint_of_before_the_key_hftrain_goes_on():
    old, new = adapted(), adapted()
    old.config.windows = {"max_seq_length": 24, "doc_stride": 6}
    remember(new.config, windows=old.config.windows)
    assert contract_of(old) == contract_of(new)
    remember(new.config, windows={"max_seq_length": 25, "doc_stride": 6})
    assert contract_of(old) != contract_of(new)


@dataclass(frozen=True)
class Saved:
    contract: dict
    manifest: dict


def test_another_base_under_adapters_is_refused_and_another_random_head_is_not():
    first, other = contract_of(adapted()), contract_of(adapted(seed=1))
    saved = Saved(first, {"versions": checkpoint.versions()})
    assert compare(saved, contract_of(adapted(head=7)), []) == (set(), [])
    with pytest.raises(ValueError, match=r"base_weights: .* when saved, .* now"):
        compare(saved, other, [])
    assert compare(saved, other, ["base_weights"])[0] == {"base_weights"}
    old = Saved({k: v for k, v in first.items() if k != "base_weights"}, saved.manifest)
    assert compare(old, other, []) == (
        set(),
        ["not compared, since this checkpoint does not record them: base_weights"],
    )


def test_another_commit_of_the_hub_is_reported_and_refused_only_with_other_weights():
    contracts = []
    for commit, seed in (("aaa", 0), ("bbb", 0), ("bbb", 1)):
        model = adapted(seed)
        model.config._commit_hash = commit
        contracts.append(contract_of(model))
    saved = Saved(contracts[0], {"versions": checkpoint.versions()})
    assert compare(saved, contracts[1], [])[1] == ["the base model is now of commit bbb, but was of aaa when saved"]
    with pytest.raises(ValueError, match=r'base_commit: "aaa" when saved, "bbb" now'):
        compare(saved, contracts[2], [])


@pytest.mark.parametrize("harm", ["one bit", "two rows swapped", "a scale"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_any_change_of_frozen_weights_changes_their_fingerprint(harm, dtype):
    weights = (torch.randn(70, 1000) * 100).to(dtype)
    before = distributed.fingerprint_parameters(Accelerator(), [("w", weights, ())])
    if harm == "one bit":
        weights.view(torch.uint8)[-1, -1] ^= 1
    elif harm == "two rows swapped":
        weights[[3, 69]] = weights[[69, 3]]
    else:
        weights *= 2
    assert distributed.fingerprint_parameters(Accelerator(), [("w", weights, ())]) != before
    weights = torch.zeros(70, 1000)
    left_out = [distributed.fingerprint_parameters(Accelerator(), [("w", weights, (68, 69))])]
    weights[68:] = 1
    left_out.append(distributed.fingerprint_parameters(Accelerator(), [("w", weights, (68, 69))]))
    assert left_out[0] == left_out[1]


def test_a_full_run_reads_no_base_and_one_with_a_reference_reads_all():
    model = tiny.model("BertForSequenceClassification")
    assert list(base_weights(model, WorkerConfig())) == []

    class WithReference(WorkerConfig):
        needs_reference = True

    assert len(list(base_weights(model, WithReference()))) == len(list(model.parameters()))
    assert "base_weights" in optional(contract_of(adapted()))


# ------------------------------------------------------------------------------------------------------- the optimizer
def moments(folder):
    return [name for name in checkpoint.read(folder).tensors if name.endswith("exp_avg")]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("swapped", r"\.exp_avg has shape \(\d+, \d+\), not"),
        ("half missing", r"\.exp_avg is missing"),
        ("missing", r"has no optimizer state for .*, although the optimizer had one"),
    ],
)
def test_optimizer_state_that_does_not_fit_is_refused(stopped, tmp_path, harm, message):
    folder = tmp_path / "out"
    shutil.copytree(stopped, folder)
    for saved in checkpoint.checkpoints(folder):
        one, other = [n for n in moments(saved) if checkpoint.read(saved).tensors[n].ndim == 2][:2]

        def change(manifest, one=one, other=other):
            index = manifest["tensors"]
            if harm == "swapped":
                index[one], index[other] = index[other], index[one]
            else:
                for name in list(index):
                    if name == one or (harm == "missing" and name.startswith(one.removesuffix("exp_avg"))):
                        del index[name]

        reseal(saved, change)
    with pytest.raises(ValueError, match=message):
        resume(folder, tmp_path)


def test_another_optimizer_begins_with_empty_moments(stopped, tmp_path, capsys):
    folder = resume(stopped, tmp_path, steps=9, optim="adafactor", resume_allow=["optim"])
    assert "the optimizer differs from the saved one: its moments begin empty" in capsys.readouterr().out
    assert any(name.endswith("row_var") for name in checkpoint.read(folder / "checkpoint-8").tensors)
    resume(stopped, tmp_path, steps=10, optim="adafactor", resume_allow=["optim"])  # and is then taken up as it is
    assert "its moments begin empty" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- log and cut
def test_lines_missing_from_the_log_are_reported(stopped, tmp_path, capsys):
    folder = tmp_path / "out"
    shutil.copytree(stopped, folder)
    log = folder / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[1:]))
    resume(folder, tmp_path)
    message = f"metrics.jsonl has {len(lines) - 1} of the {len(lines)} lines that were logged up to step 4"
    assert message in capsys.readouterr().out


def test_an_older_version_drew_the_examples_at_random(stopped):
    """It recorded no train_sampling_strategy, which is no reason to go on with another order."""
    saved = checkpoint.read(stopped / "checkpoint-4")
    current = dict(saved.contract)
    saved = replace(saved, contract={k: v for k, v in current.items() if k != "train_sampling_strategy"})
    assert compare(saved, current | {"train_sampling_strategy": "random"}, [])[0] == set()
    with pytest.raises(ValueError, match='train_sampling_strategy: "random" when saved, "group_by_length" now'):
        compare(saved, current | {"train_sampling_strategy": "group_by_length"}, [])


def test_padding_free_is_kept(stopped):
    """Null and false are the padded batch, as in older versions; true has other results."""
    saved = checkpoint.read(stopped / "checkpoint-4")
    current = dict(saved.contract)
    assert current["padding_free"] is False
    older = replace(saved, contract={k: v for k, v in current.items() if k != "padding_free"})
    for before in (saved, older):
        assert compare(before, current, [])[0] == set()
        with pytest.raises(ValueError, match="padding_free: false when saved, true now"):
            compare(before, current | {"padding_free": True}, [])


@pytest.mark.parametrize("sizes", [{"micro_batch_size": 3}, {"micro_batch_tokens": 40}])
def test_the_same_cut_is_the_same_micro_batches(sizes):
    plan = Plan(np.array([[n % 11 + 3] for n in range(64)]), seed=1, global_batch_size=8)
    alike = [same_cut(plan, range(8), {"processes": 1, **sizes}, {"processes": p, **sizes}) for p in (1, 2, 3)]
    counts = [len(cut(plan.lengths[plan.examples(step)], 1, **sizes)) for step in range(8)]
    assert alike == [all(count % p == 0 for count in counts) for p in (1, 2, 3)]
    assert alike[0] and not all(alike)


def test_a_changed_cut_is_reported(stopped, tmp_path, capsys):
    resume(stopped, tmp_path, micro_batch_size=4)
    out = capsys.readouterr().out
    assert "differ from the saved run (processes 1, micro_batch_size 3, now processes 1, micro_batch_size 4)" in out


# ------------------------------------------------------------------------------------------------------- folders
def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(stopped, tmp_path, capsys):
    folder = tmp_path / "out"
    shutil.copytree(stopped, folder)
    shutil.copytree(folder / "checkpoint-4", folder / "checkpoint-12")
    message = r"step 4: rename the folder to checkpoint-4.*checkpoint-4 is good: resume from it"
    with pytest.raises(ValueError, match=message):
        checkpoint.find(folder, str(folder / "checkpoint-12"))
    resume(folder, tmp_path)
    assert "passed over checkpoint-12: manifest.json: this is the checkpoint of step 4" in capsys.readouterr().out
    shutil.copytree(folder / "checkpoint-4", tmp_path / "kept")  # another name says nothing of a step
    resume(folder, tmp_path, resume_from_checkpoint=str(tmp_path / "kept"))
    assert f"resumed from {tmp_path / 'kept'} at step 4" in capsys.readouterr().out
