"""A second place for checkpoints: what is uploaded, what is deleted there, and a run that continues elsewhere."""

import shutil
from pathlib import Path

import fsspec
import pytest

from hftrain.train import checkpoint
from tests.train.resume_worker import BrokenOff, WorkerConfig, break_off, trace, train, wait_for_save
from tests.train.test_checkpoint import names, save, truncate


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    yield f"file://{tmp_path}/remote/run" if request.param == "file" else "memory://run"
    fsspec.filesystem("memory").store.clear()


def upload(folder: Path, uploads: checkpoint.Uploads) -> None:
    uploads.add(folder)
    uploads.finish()


def test_checkpoints_are_uploaded_and_old_ones_deleted_as_here(tmp_path, url):
    out, remote = tmp_path / "out", checkpoint.Remote(url)
    uploads = checkpoint.Uploads(remote)
    for step in (1, 2, 3):
        upload(save(out, step), uploads)
        checkpoint.rotate(out, keep=2)
    assert uploads.in_use() == set()
    upload(out / "checkpoint-3", uploads)  # once more, after the rotation
    assert remote.steps() == [2, 3]
    elsewhere = tmp_path / "elsewhere"
    assert checkpoint.fetch(url, elsewhere) == [f"downloaded checkpoint-3 from {url}"]
    assert names(elsewhere) == ["checkpoint-3"] and checkpoint.verify(elsewhere / "checkpoint-3") == []
    assert checkpoint.read(elsewhere / "checkpoint-3").tensors["model.w"].tolist() == [3.0] * 8
    assert checkpoint.fetch(url, elsewhere) == [], "it is there already"
    assert checkpoint.fetch(url, out) == []


def test_an_upload_without_a_manifest_is_not_a_checkpoint(tmp_path, url):
    remote = checkpoint.Remote(url)
    assert remote.steps() == []
    for step in (1, 2):
        remote.upload(save(tmp_path / "out", step))
    remote.files.rm_file(f"{remote.path}/checkpoint-2/manifest.json")  # as if it were interrupted
    assert remote.steps() == [1]
    assert checkpoint.fetch(url, tmp_path / "new") == [f"downloaded checkpoint-1 from {url}"]


def test_a_damaged_download_is_passed_over(tmp_path, url):
    out = tmp_path / "out"
    damaged = save(out, 1)
    truncate(damaged / "training-00001.safetensors")
    checkpoint.Remote(url).upload(damaged)
    checkpoint.fetch(url, tmp_path / "new")
    with pytest.raises(ValueError, match=r"passed over checkpoint-1: training-00001\.safetensors"):
        checkpoint.find(tmp_path / "new", "auto")


def test_a_failed_upload_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    uploads = checkpoint.Uploads(checkpoint.Remote(f"file://{tmp_path}/file/run"))
    with pytest.warns(UserWarning, match=r"checkpoint-1 was not uploaded to file://.*: NotADirectoryError.*It is in"):
        upload(save(tmp_path / "out", 1), uploads)


def test_a_file_system_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="remote_dir nowhere://run cannot be used: ValueError: Protocol not known"):
        checkpoint.Remote("nowhere://run")


def test_credentials_are_refused_and_not_shown():
    for url in ("s3://key:secret@bucket/run", "https://host/run?token=secret"):
        with pytest.raises(ValueError, match=r"remote_dir.*must not contain credentials") as refused:
            WorkerConfig(output_dir="out", remote_dir=url)
        assert "secret" not in str(refused.value)
    error = OSError("403 for https://key:secret@host/run?X-Amz-Signature=secret now")
    assert checkpoint.remote.without_secrets(error) == "OSError: 403 for https://host/run?... now"


def test_a_run_continues_on_a_machine_that_has_only_the_uploads(tmp_path):
    url = f"file://{tmp_path}/remote"
    config = WorkerConfig(output_dir=str(tmp_path / "out"), remote_dir=url, save_steps=2)
    with pytest.raises(BrokenOff):
        train(config, break_off(at=9))
    wait_for_save()
    for path in checkpoint.Remote(url).files.ls(f"{tmp_path}/remote", detail=False):
        assert checkpoint.verify(Path(path)) == []
    shutil.rmtree(tmp_path / "out")
    again = WorkerConfig(output_dir=str(tmp_path / "out"), remote_dir=url, save_steps=2, resume_from_checkpoint="auto")
    train(again)
    train(WorkerConfig(output_dir=str(tmp_path / "unbroken"), save_steps=2))
    resumed, unbroken = trace(tmp_path / "out"), trace(tmp_path / "unbroken")
    for left in (resumed, unbroken):
        left["state"].pop("log_lines")
    assert {key for key in unbroken if resumed[key] != unbroken[key]} == {"metrics.jsonl"}
    assert checkpoint.Remote(url).steps()[-1] == 12
