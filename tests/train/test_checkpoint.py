"""What a checkpoint promises: the same bytes back, damage noticed, kills and full disks survived, one run at a time."""

import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import safe_open
from torch import multiprocessing
from transformers import BertForMaskedLM

from hftrain.train import checkpoint
from tests import ROOT, tiny
from tests.programs import free_port

CONTRACT = {"seed": 1, "learning_rate": 3e-4, "model": {"d_model": 64, "d_ff": 256}}
STATE = {"samples_seen": 640, "seconds": 12.5, "best": None}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def write_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "none"}')


def save(output_dir, step, tensors=None, export=write_config, **settings):
    tensors = {"model.w": torch.full((8,), float(step))} if tensors is None else tensors
    settings = {"state": STATE, "contract": CONTRACT, **settings}
    return checkpoint.save(Accelerator(), output_dir, step, tensors=tensors.items(), export=export, **settings)


def same_bytes(left: torch.Tensor, right: torch.Tensor) -> bool:
    left, right = (tensor.contiguous().flatten().view(torch.uint8) for tensor in (left, right))
    return torch.equal(left, right)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stored_names(folder: Path) -> set[str]:
    found = set()
    for file in folder.glob("training-*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            found |= set(tensors.keys())
    return found


# ------------------------------------------------------------------------------------------------- what comes back


def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    odd = torch.tensor([0x7FC0_1234, -1, 0x8000_0000 - 2**32], dtype=torch.int32).view(torch.float32)  # NaNs, minus 0
    tensors = {
        "model.float32": torch.randn(5, 7),
        "model.bfloat16": torch.randn(5, 7).bfloat16(),
        "model.float8": torch.randn(9).to(torch.float8_e4m3fn),
        "model.transposed": torch.randn(5, 7).T,
        "model.view": torch.randn(100)[10:20],
        "optimizer.w.step": torch.tensor(17.0),
        "optimizer.w.quantised": torch.arange(256).to(torch.uint8),
        "optimizer.none_yet": torch.empty(0, 3),
        "ema.mask": torch.tensor([True, False]),
        "ema.count": torch.tensor(2**60 + 1),
        "ema.odd": odd,
    }
    with pytest.warns(UserWarning, match=r"checkpoint-3 contains NaN or infinity in ema\.odd$"):
        folder = save(tmp_path, 3, tensors)
    saved = checkpoint.read(folder)
    assert folder == tmp_path / "checkpoint-3" and checkpoint.verify(folder) == []
    assert (saved.step, saved.state, saved.contract) == (3, STATE, CONTRACT)
    assert list(saved.tensors) == list(tensors)
    for name, tensor in tensors.items():
        back = saved.tensors[name]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape), name
        assert same_bytes(back, tensor), name
    assert saved.manifest["finite"] is False and saved.manifest["world_size"] == 1
    assert saved.manifest["versions"]["torch"] == torch.__version__


def test_shards_stay_under_their_size_and_a_tensor_may_be_freed_once_the_next_is_asked_for(tmp_path):
    def gathered():
        """As ZeRO-3 does: one buffer, overwritten for each parameter."""
        buffer = torch.empty(250)
        for number in range(10):
            yield f"optimizer.{number}", buffer.fill_(number)
        buffer.fill_(-1)

    folder = checkpoint.save(
        Accelerator(),
        tmp_path,
        1,
        tensors=gathered(),
        state=STATE,
        contract={},
        export=write_config,
        max_shard_bytes=3000,
    )
    assert [file for file in names(folder) if file.startswith("training")] == [
        f"training-0000{k}.safetensors" for k in (1, 2, 3, 4)
    ]
    tensors = checkpoint.read(folder).tensors
    assert [tensors[f"optimizer.{number}"].unique().item() for number in range(10)] == list(range(10))


def tiny_bert(**settings) -> BertForMaskedLM:
    return tiny.model("BertForMaskedLM", num_hidden_layers=2, **settings).eval()


def train(model, optimizer, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(0, 50, (4, 12), generator=generator)
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def training_tensors(model, optimizer):
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        tensors |= {f"optimizer.{name}.{key}": value for key, value in optimizer.state[parameter].items()}
    return tensors


def test_a_tied_transformers_model_is_stored_once_loads_with_from_pretrained_and_resumes_bit_for_bit(tmp_path):
    model = tiny_bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 3, seed=1)
    state_dict = model.state_dict()
    assert state_dict["cls.predictions.decoder.weight"] is not None  # tied to the embeddings, under two names
    folder = save(tmp_path, 3, training_tensors(model, optimizer), export=model.save_pretrained)

    assert not any(name.startswith("model.") for name in stored_names(folder)), "the export holds them all already"
    assert len(stored_names(folder)) == 3 * len(list(model.parameters()))
    for name, tensor in BertForMaskedLM.from_pretrained(folder).state_dict().items():
        assert torch.equal(tensor, state_dict[name]), name

    saved = checkpoint.read(folder)
    resumed = tiny_bert()
    resumed.load_state_dict({name: saved.tensors[f"model.{name}"] for name in resumed.state_dict()})
    optimizer_resumed = torch.optim.AdamW(resumed.parameters(), lr=1e-2)
    for name, parameter in resumed.named_parameters():
        keys = ("step", "exp_avg", "exp_avg_sq")
        optimizer_resumed.state[parameter] = {key: saved.tensors[f"optimizer.{name}.{key}"] for key in keys}
    train(model, optimizer, 3, seed=2)
    train(resumed, optimizer_resumed, 3, seed=2)
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert checkpoint.verify(folder) == [], "training on with what was read changes no file"


def test_an_export_of_averaged_weights_is_not_stored_twice_either(tmp_path):
    weights, averages = tiny_bert().state_dict(), tiny_bert()
    with torch.no_grad():
        for parameter in averages.parameters():
            parameter.mul_(0.5).add_(0.1)
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in averages.named_parameters()}
    folder = save(tmp_path, 1, tensors, export=averages.save_pretrained)
    assert stored_names(folder) == {f"model.{name}" for name in weights}
    saved = checkpoint.read(folder).tensors
    assert all(same_bytes(saved[name], tensor.detach()) for name, tensor in tensors.items())


def test_fp32_masters_of_a_bf16_export_are_stored_beside_it(tmp_path):
    model = tiny_bert(tie_word_embeddings=False)
    masters = {f"model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    folder = save(tmp_path, 1, masters, export=model.bfloat16().save_pretrained)
    assert stored_names(folder) == set(masters)
    saved = checkpoint.read(folder).tensors
    assert all(same_bytes(saved[name], masters[name]) for name in masters)


def test_an_adapter_is_stored_once_though_its_export_has_other_names(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    model = get_peft_model(tiny_bert(), LoraConfig(target_modules=["query", "value"], r=2, init_lora_weights=False))
    trained = {f"model.{name}": tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    folder = save(tmp_path, 1, trained, export=model.save_pretrained)
    assert len(trained) == 8 and stored_names(folder) == set()
    saved = checkpoint.read(folder).tensors
    assert all(same_bytes(saved[name], tensor.detach()) for name, tensor in trained.items())
    reopened = dict(PeftModel.from_pretrained(tiny_bert(), folder).named_parameters())
    assert all(torch.equal(reopened[name.removeprefix("model.")], tensor) for name, tensor in trained.items())


def test_nothing_in_a_checkpoint_unpickles(tmp_path):
    model = tiny_bert()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, 1, seed=1)
    folder = save(tmp_path, 1, training_tensors(model, optimizer), export=model.save_pretrained)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        assert not zipfile.is_zipfile(path), path  # what torch.save writes
        with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, IndexError, KeyError, AttributeError)):
            pickle.loads(path.read_bytes())


# --------------------------------------------------------------------------------------------------------- damage


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("harm", [flip_a_byte, truncate, Path.unlink], ids=["flipped", "truncated", "missing"])
@pytest.mark.parametrize("file", ["config.json", "training-00001.safetensors", "state.json", "manifest.json"])
def test_damage_is_found_named_and_passed_over(tmp_path, file, harm):
    save(tmp_path, 10)
    damaged = save(tmp_path, 20)
    harm(damaged / file)
    (problem,) = checkpoint.verify(damaged)
    assert problem.startswith(f"{file}: ")
    if harm is Path.unlink:
        assert "missing" in problem
    with pytest.raises(ValueError, match=rf"{file}.*checkpoint-10 is good: resume from it"):
        checkpoint.read(damaged)
    with pytest.raises(ValueError, match=rf"{file}.*checkpoint-10 is good: resume from it"):
        checkpoint.find(tmp_path, str(damaged))
    assert checkpoint.find(tmp_path, "auto") == (tmp_path / "checkpoint-10", [f"passed over checkpoint-20: {problem}"])


def test_a_flip_of_any_byte_of_the_manifest_is_found(tmp_path):
    manifest = save(tmp_path, 1) / "manifest.json"
    content = manifest.read_bytes()
    blank = re.compile(rb"\s")  # a blank for another blank is the same JSON
    for place in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[place] ^= 4
        if not (blank.match(content[place : place + 1]) and blank.match(flipped[place : place + 1])):
            manifest.write_bytes(flipped)
            assert checkpoint.verify(manifest.parent), (place, content[place : place + 9])


def test_a_contract_with_numbers_as_keys_is_found_unchanged(tmp_path):
    """`id2label` has them; JSON has not, and orders 10 before 2 as text."""
    folder = save(tmp_path, 1, contract={"model": {"id2label": {i: f"label {i}" for i in range(12)}}})
    assert checkpoint.verify(folder) == []


def test_the_size_of_a_truncated_file_is_told(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "state.json").write_text("{}")
    size = len(json.dumps(STATE))
    assert checkpoint.verify(folder) == [f"state.json: 2 bytes instead of {size}"]


# ----------------------------------------------------------------------------------------------- where to start from


def test_where_a_run_starts(tmp_path):
    assert checkpoint.find(tmp_path / "new", None) == (None, [])
    assert checkpoint.find(tmp_path / "new", "auto") == (None, [])
    assert checkpoint.find(tmp_path, "auto") == (None, [])
    save(tmp_path, 9)
    save(tmp_path, 10)  # the newest by number, not by name
    assert checkpoint.find(tmp_path, "auto") == (tmp_path / "checkpoint-10", [])
    assert checkpoint.find(tmp_path, str(tmp_path / "checkpoint-9")) == (tmp_path / "checkpoint-9", [])
    message = (
        r"already contains a run \(checkpoint-9, checkpoint-10\).*--resume_from_checkpoint auto.*another --output_dir"
    )
    with pytest.raises(ValueError, match=message):
        checkpoint.find(tmp_path, None)
    with pytest.raises(ValueError, match=r"checkpoint-7 cannot be used: manifest.json: missing.*checkpoint-10 is good"):
        checkpoint.find(tmp_path, str(tmp_path / "checkpoint-7"))


def test_a_folder_that_cannot_be_written_is_refused_before_anything_takes_time(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/out cannot be written, since .*file is no folder: choose another"):
        checkpoint.find(tmp_path / "file" / "out", None)
    with pytest.raises(ValueError, match=r"file is no folder"):
        checkpoint.find(tmp_path / "file", "auto")
    (tmp_path / "closed").mkdir(mode=0o500)
    if not os.access(tmp_path / "closed", os.W_OK):  # root may write anywhere
        with pytest.raises(ValueError, match=r"closed is not writable"):
            checkpoint.find(tmp_path / "closed" / "out", None)


def test_auto_starts_no_fresh_run_over_damaged_checkpoints_or_a_finished_run(tmp_path):
    flip_a_byte(save(tmp_path, 1) / "state.json")
    with pytest.warns(UserWarning, match="NaN"):
        save(tmp_path, 2, {"model.w": torch.tensor([1.0, float("inf")])})
    message = r"checkpoint-2: contains NaN or infinity; passed over checkpoint-1: state.json.*another --output_dir"
    with pytest.raises(ValueError, match=message):
        checkpoint.find(tmp_path, "auto")
    assert checkpoint.find(tmp_path, str(tmp_path / "checkpoint-2"))[0], "named, it is the user's will"

    finished = tmp_path / "finished"
    finished.mkdir()
    (finished / "all_results.json").write_text("{}")
    for resume in (None, "auto"):
        with pytest.raises(ValueError, match=r"all_results\.json.*--output_dir"):
            checkpoint.find(finished, resume)


# ----------------------------------------------------------------------------------------------------- interruptions


def test_leftovers_of_a_kill_are_ignored_then_cleared_away_or_put_back(tmp_path):
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / ".saving-checkpoint-2")
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / ".deleting-checkpoint-0")
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / ".replaced-checkpoint-1")
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / ".replaced-checkpoint-2")
    assert checkpoint.checkpoints(tmp_path) == [tmp_path / "checkpoint-1"]
    with checkpoint.lock(tmp_path):
        assert names(tmp_path) == [".lock", "checkpoint-1", "checkpoint-2"]
    (tmp_path / ".saving-checkpoint-3").mkdir()
    (tmp_path / ".saving-checkpoint-3" / "left.over").write_text("x")
    assert "left.over" not in names(save(tmp_path, 3))
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_a_second_save_of_a_step_replaces_the_first(tmp_path):
    save(tmp_path, 1)
    folder = save(tmp_path, 1, {"model.w": torch.zeros(3)}, state={"samples_seen": 7})
    assert checkpoint.verify(folder) == [] and names(tmp_path) == ["checkpoint-1"]
    assert checkpoint.read(folder).state == {"samples_seen": 7}
    assert checkpoint.read(folder).tensors["model.w"].tolist() == [0, 0, 0]


# Children are forked from a process that has imported everything, so that 30 kills take seconds and not minutes.
KILLS = """
import json, os, random, signal, sys, time
import torch
from pathlib import Path
from accelerate import Accelerator
from hftrain.train import checkpoint

output_dir, accelerator = Path(sys.argv[1]), Accelerator()

def tensors(step, life):
    generator = torch.Generator().manual_seed(1000 * step + life)
    return {f"{kind}.{i}": torch.randn(200, generator=generator) for kind in ("model", "optimizer") for i in range(5)}

def save_for_ever(life, acknowledge):
    with checkpoint.lock(output_dir):
        newest, _ = checkpoint.find(output_dir, "auto")
        step = checkpoint.read(newest).step if newest else 0  # the first save replaces the one that stands there
        while True:
            checkpoint.save(
                accelerator, output_dir, step, tensors=tensors(step, life).items(), contract={},
                state={"samples_seen": 8 * step, "life": life}, max_shard_bytes=3000,
                export=lambda folder: (folder / "config.json").write_text(str(step)),
            )
            os.write(acknowledge, b"%d\\n" % step)
            checkpoint.rotate(output_dir, keep=2)
            step += 1

random.seed(0)
acknowledged, interrupted, seconds = -1, 0, 0.0  # seconds: what the last save took, on a machine as busy as now
for life in range(30):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        save_for_ever(life, writer)
    os.close(writer)
    answers = os.fdopen(reader)
    saves, part = divmod(random.uniform(0, 4) if life else 3, 1)  # the kill comes in this part of the save after these
    for _ in range(int(saves)):
        began = time.monotonic()
        acknowledged = max(acknowledged, int(answers.readline()))
        seconds = time.monotonic() - began
    time.sleep(part * seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    acknowledged = max([acknowledged, *map(int, answers.read().split())])
    interrupted += any(output_dir.glob(".saving-*"))
    with checkpoint.lock(output_dir):
        newest, passed_over = checkpoint.find(output_dir, "auto")
    assert passed_over == [], passed_over
    assert all(row.problems == [] for row in checkpoint.describe(output_dir))
    saved = checkpoint.read(newest)
    assert saved.step >= acknowledged, "a save that had returned is gone"
    expected = tensors(saved.step, saved.state["life"])
    assert list(saved.tensors) == list(expected)
    assert all(torch.equal(saved.tensors[name], tensor) for name, tensor in expected.items())
print(json.dumps({"steps": saved.step, "interrupted": interrupted}))
"""


def test_thirty_kills_lose_nothing_that_was_saved(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path / "out")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 0, process.stderr
    told = json.loads(process.stdout.splitlines()[-1])
    assert told["steps"] >= 10 and told["interrupted"] >= 5, told  # the kills did fall into saves
    assert process.stdout.count("took over the lock") > 20


# -------------------------------------------------------------------------------------------------------- full disk


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def megabytes(count: int) -> dict[str, torch.Tensor]:
    return {f"optimizer.{number}": torch.randn(250_000) for number in range(count)}


def save_too_much(output_dir: Path, **settings) -> str:
    drained = []

    def tensors():
        for name, tensor in megabytes(6).items():
            yield name, tensor
            drained.append(name)

    settings = {"state": STATE, "contract": {}, "export": write_config, "max_shard_bytes": 1_500_000, **settings}
    with pytest.warns(UserWarning) as warned:
        assert checkpoint.save(Accelerator(), output_dir, 2, tensors=tensors(), **settings) is None
    assert len(drained) == 6, "other ranks would wait for this one in their collectives"
    return str(warned[0].message)


def test_a_full_disk_costs_one_checkpoint_and_a_warning(small_disk):
    save(small_disk, 1, megabytes(1))
    message = save_too_much(small_disk)
    assert "checkpoint-2 was not saved" in message and "No space left on device" in message
    assert re.search(r"needs about 0\.006 GB; .* has 0\.002 GB free", message)
    assert names(small_disk) == ["checkpoint-1"] and checkpoint.verify(small_disk / "checkpoint-1") == []

    def big_export(folder: Path) -> None:
        (folder / "config.json").write_text("x" * 4_000_000)

    assert "No space left on device" in save_too_much(small_disk, export=big_export)
    assert names(small_disk) == ["checkpoint-1"] and checkpoint.verify(small_disk / "checkpoint-1") == []
    assert save(small_disk, 3, megabytes(1)), "the next one that fits is saved"


def test_a_second_save_of_a_step_that_does_not_fit_keeps_the_first(small_disk):
    before = megabytes(1)
    save(small_disk, 2, before)
    save_too_much(small_disk)
    tensors = checkpoint.read(small_disk / "checkpoint-2").tensors
    assert torch.equal(tensors["optimizer.0"], before["optimizer.0"])


@contextmanager
def no_file_over(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_quota_is_taken_like_a_full_disk(tmp_path):
    save(tmp_path, 1)
    with no_file_over(500_000):
        assert "File too large" in save_too_much(tmp_path)
    assert names(tmp_path) == ["checkpoint-1"]


def test_an_error_that_is_not_the_disks_is_raised(tmp_path):
    def export(folder: Path) -> None:
        raise RuntimeError("no such layer")

    with pytest.raises(RuntimeError, match="no such layer"):
        save(tmp_path, 1, export=export)
    with pytest.raises(ValueError, match=r"contract key model\.path: .*PosixPath is not JSON"):
        save(tmp_path, 1, contract={"model": {"path": tmp_path}})
    with pytest.raises(KeyError, match="samples_seen"):
        save(tmp_path, 1, state={})
    assert checkpoint.checkpoints(tmp_path) == []


def test_free_space_is_checked_before_the_first_step(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    checkpoint.check_free_space(tmp_path / "not" / "yet", free // 4, copies=2)
    with pytest.raises(
        ValueError, match=r"need 2 x .* GB, .* has .* GB free: lower --save_total_limit, or .*--output_dir"
    ):
        checkpoint.check_free_space(tmp_path / "not" / "yet", free, copies=2)
    save(tmp_path, 1)
    with pytest.raises(ValueError, match="need 2 x"):
        checkpoint.check_free_space(tmp_path, free, copies=3)  # one of the three stands there already
    checkpoint.check_free_space(tmp_path, free // 2, copies=2)


# --------------------------------------------------------------------------------------------------------- rotation


def save_nan(output_dir: Path, step: int) -> None:
    with pytest.warns(UserWarning, match="NaN"):
        save(output_dir, step, {"model.w": torch.tensor([float("nan")])})


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for step in (2, 10, 100, 1000):
        save(tmp_path, step)
    assert checkpoint.rotate(tmp_path, keep=4) == []
    assert checkpoint.rotate(tmp_path, keep=1, best=tmp_path / "checkpoint-10") == [
        tmp_path / "checkpoint-2",
        tmp_path / "checkpoint-100",
    ]
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-1000"]


@pytest.mark.parametrize("spoil", ["nan", "damaged"])
def test_rotation_keeps_the_newest_good_one_behind_newer_bad_ones(tmp_path, spoil):
    for step in (1, 2):
        save(tmp_path, step)
    for step in (3, 4):
        if spoil == "nan":
            save_nan(tmp_path, step)
        else:
            truncate(save(tmp_path, step) / "training-00001.safetensors")
    assert checkpoint.rotate(tmp_path, keep=1) == [tmp_path / "checkpoint-1", tmp_path / "checkpoint-3"]
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]


def test_rotation_does_not_read_what_was_saved_now_again_but_asks_whether_it_is_finite(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    folder = save(tmp_path, 3)
    truncate(folder / "training-00001.safetensors")  # would show, if it were read
    deleted = checkpoint.rotate(tmp_path, keep=1, saved_now=folder)
    assert deleted == [tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"]
    save_nan(tmp_path, 4)
    save(tmp_path, 2)
    assert checkpoint.rotate(tmp_path, keep=1, saved_now=tmp_path / "checkpoint-4") == [tmp_path / "checkpoint-3"]
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]


def test_describe_lists_good_and_bad(tmp_path):
    save(tmp_path, 9)
    save_nan(tmp_path, 10)
    (save(tmp_path, 11) / "manifest.json").unlink()
    (tmp_path / ".saving-checkpoint-12").mkdir()
    rows = checkpoint.describe(tmp_path)
    assert [(row.name, row.step, row.samples, row.finite) for row in rows] == [
        ("checkpoint-9", 9, 640, True),
        ("checkpoint-10", 10, 640, False),
        ("checkpoint-11", 11, None, None),
    ]
    assert [len(row.problems) for row in rows] == [0, 0, 1]
    assert rows[0].bytes == sum(path.stat().st_size for path in (tmp_path / "checkpoint-9").iterdir())
    assert checkpoint.describe(tmp_path / "checkpoint-10") == rows[1:2]
    with pytest.raises(ValueError, match=r"no checkpoint in .*nowhere: give an output folder"):
        checkpoint.describe(tmp_path / "nowhere")


# --------------------------------------------------------------------------------------------------------- contract


def test_the_contract_is_refused_with_both_values_or_let_through_aloud():
    now = {"seed": 1, "learning_rate": 1e-4, "model": {"d_model": 128, "d_ff": 512}}
    assert checkpoint.check_contract(CONTRACT, json.loads(json.dumps(CONTRACT)), []) == []
    with pytest.raises(ValueError) as refused:
        checkpoint.check_contract(CONTRACT, now, ["learning_rate"])
    assert str(refused.value).splitlines() == [
        "not the run that was saved:",
        "  model.d_model: 64 when saved, 128 now",
        "  model.d_ff: 256 when saved, 512 now",
        "Set them back, or continue with --resume_allow learning_rate,model.d_model,model.d_ff",
    ]
    assert checkpoint.check_contract(CONTRACT, now, ["learning_rate", "model"]) == [
        "--resume_allow accepts learning_rate: 0.0003 when saved, 0.0001 now",
        "--resume_allow accepts model.d_model: 64 when saved, 128 now",
        "--resume_allow accepts model.d_ff: 256 when saved, 512 now",
    ]
    with pytest.raises(ValueError, match=r"--resume_allow learning_rat: no such key; did you mean learning_rate\?$"):
        checkpoint.check_contract(CONTRACT, now, ["learning_rat"])


def test_contract_values_are_compared_as_json_and_exactly():
    assert checkpoint.check_contract({"a": [1, 2], "b": {"0": "x"}}, {"a": (1, 2), "b": {0: "x"}}, []) == []
    assert checkpoint.check_contract({"a": float("nan")}, {"a": float("nan")}, []) == []
    with pytest.raises(ValueError, match=r"a: 0\.30000000000000004 when saved, 0\.3 now"):
        checkpoint.check_contract({"a": 0.1 + 0.2}, {"a": 0.3}, [])
    with pytest.raises(ValueError, match=r"a: absent when saved, 1 now"):
        checkpoint.check_contract({}, {"a": 1}, [])


# ---------------------------------------------------------------------------------------------------- two processes


def two_processes(rank: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    AcceleratorState._reset_state(reset_partial_state=True)  # forked to be quick, so the parent's came along
    accelerator, output_dir = Accelerator(), Path(folder)
    assert accelerator.num_processes == 2
    told = {}

    def tensors():
        for number in range(6):
            tensor = torch.full((250_000,), float(rank + number))
            torch.distributed.all_reduce(tensor)  # a rank that stopped early would leave the other one waiting
            yield f"optimizer.{number}", tensor if rank == 0 else None

    def export(folder: Path) -> None:
        torch.distributed.barrier()
        if accelerator.is_main_process:
            write_config(folder)

    def save(step: int) -> str:
        settings = {"state": STATE, "contract": {}, "max_shard_bytes": 1_500_000}
        return str(checkpoint.save(accelerator, output_dir, step, tensors=tensors(), export=export, **settings))

    told["saved"] = save(1)
    told["stood at return"] = (output_dir / "checkpoint-1").is_dir()
    with no_file_over(500_000) if rank == 0 else no_file_over(10**9):
        told["quota on the main process"] = save(2)
    here = output_dir if rank == 0 else output_dir / "unseen"  # as on another machine without the shared folder
    told["found"] = [str(checkpoint.find(here, "auto")[0])]
    with pytest.raises(ValueError, match="already contains a run") as refused:
        checkpoint.find(here, None)
    told["refused"] = str(refused.value)
    (output_dir / f"rank-{rank}.json").write_text(json.dumps(told))
    accelerator.end_training()


def test_two_processes_save_one_checkpoint_and_agree(tmp_path):
    multiprocessing.start_processes(
        two_processes, args=(int(free_port()), str(tmp_path)), nprocs=2, start_method="fork"
    )
    told = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    assert told[0]["saved"] == told[0]["found"][0] == str(tmp_path / "checkpoint-1")
    assert told[0]["stood at return"] and told[0]["quota on the main process"] == "None"
    assert names(tmp_path) == ["checkpoint-1", "rank-0.json", "rank-1.json"]
    saved = checkpoint.read(tmp_path / "checkpoint-1")
    assert saved.manifest["world_size"] == 2
    assert [saved.tensors[f"optimizer.{n}"].unique().item() for n in range(6)] == [1, 3, 5, 7, 9, 11]
