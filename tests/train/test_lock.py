"""One run at a time in an output folder: whatever a kill leaves is taken over, and a live run never is."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hftrain.train import checkpoint
from hftrain.train.checkpoint import locking

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWPID = 0x20000, 0x4000000, 0x20000000


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locking, "BEAT_SECONDS", 0.05)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def another_run(folder: Path, before: Callable[[], None] = lambda: None, beats: bool = True) -> Iterator[int]:
    """A process that holds the lock of `folder`, after `before`; yields its process id. Without beats, it is frozen."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before()
            if not beats:
                locking.BEAT_SECONDS = 1000
            with checkpoint.lock(folder):
                os.write(writer, b"in")
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 2) == b"in"
        yield child
    finally:
        os.close(reader)
        end(child)


def end(child: int) -> None:
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def in_another_container() -> None:
    """Of the same host name: the rest of this process goes on as process 1 of a PID namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWPID | CLONE_NEWNS):
        os._exit(1)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)


def on_another_host() -> None:
    in_another_container()
    if ctypes.CDLL(None).unshare(CLONE_NEWUTS):
        os._exit(1)
    socket.sethostname("elsewhere")


@pytest.fixture
def containers():
    tried = subprocess.run(["unshare", "--pid", "--uts", "--fork", "--mount-proc", "true"], capture_output=True)
    if tried.returncode:
        pytest.skip("making PID namespaces is not allowed here")


def test_a_live_run_keeps_others_out_and_a_dead_one_does_not(tmp_path, capsys):
    with another_run(tmp_path) as pid:
        who = rf"in use by pid {pid} on {socket.gethostname()} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
        with pytest.raises(ValueError, match=who), checkpoint.lock(tmp_path):
            pytest.fail("two runs in one folder")
        assert capsys.readouterr().out == ""
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)  # dead, though its parent, this test, has not waited for it: a zombie
        with checkpoint.lock(tmp_path):
            assert f"took over the lock of {tmp_path} from pid {pid} on" in (out := capsys.readouterr().out)
            assert out.endswith(", which is dead\n")
    assert names(tmp_path) == []


def test_the_lock_is_released_on_every_way_out(tmp_path):
    with pytest.raises(SystemExit), checkpoint.lock(tmp_path):
        with pytest.raises(ValueError, match=f"in use by pid {os.getpid()}"), checkpoint.lock(tmp_path):
            pytest.fail("a second run of this very process")
        assert names(tmp_path) == [".lock"]
        sys.exit(3)
    assert names(tmp_path) == []


def rewrite_lock(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def dead_lock(folder: Path, **changes: object) -> Path:
    path = folder / ".lock"
    with checkpoint.lock(folder):
        content = path.read_text()
    path.write_text(content)
    rewrite_lock(path, **{"started": 1.0, **changes})
    return path


def test_a_pid_that_is_used_again_is_stale(tmp_path, capsys):
    dead_lock(tmp_path)
    with checkpoint.lock(tmp_path):
        assert "which is dead" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_what_a_killed_run_left_refuses_nobody(tmp_path, capsys, text):
    """An empty or half lock of an earlier version, claims, and staged files that a kill left."""
    for name in (".lock-claim", ".lock-after-0123456789abcdef", ".lock.00ff.tmp", ".metrics.jsonl.4711.tmp"):
        (tmp_path / name).write_text(text)
    (tmp_path / ".lock").write_text(text)
    (tmp_path / ".hidden.of.the.user").touch()
    with checkpoint.lock(tmp_path):
        assert "from a run that was killed while creating it" in capsys.readouterr().out
        assert names(tmp_path) == [".hidden.of.the.user", ".lock"]


@pytest.mark.parametrize("elsewhere", [in_another_container, on_another_host])
def test_a_live_run_elsewhere_is_left_alone_and_a_dead_one_goes_stale(containers, tmp_path, capsys, elsewhere):
    """Its process id means nothing here, whether or not its host has our name."""
    with another_run(tmp_path, elsewhere) as child:
        owner = json.loads((tmp_path / ".lock").read_text())
        assert owner["pid"] == 1 and (owner["host"] == socket.gethostname()) == (elsewhere is in_another_container)
        with pytest.raises(ValueError, match="another machine or container, which is alive"):
            checkpoint.lock(tmp_path).__enter__()
        inside = int(Path(f"/proc/{child}/task/{child}/children").read_text())
        os.kill(inside, signal.SIGKILL)
        os.waitpid(child, 0)
        capsys.readouterr()
        began = time.monotonic()
        with checkpoint.lock(tmp_path):
            out = capsys.readouterr().out
        assert "watching for 0.6 s" in out and "which gave no sign of life for 0.6 s" in out
        assert time.monotonic() - began > locking.BEATS * locking.BEAT_SECONDS


@pytest.mark.parametrize("restarts", ["1", "7"])
def test_a_requeued_job_takes_over_at_once(tmp_path, capsys, monkeypatch, restarts):
    monkeypatch.setattr(locking, "BEAT_SECONDS", 100)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    dead_lock(tmp_path, host="node-1", machine=["node-1", "b", "pid:[1]"])
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    with checkpoint.lock(tmp_path):
        assert "which Slurm ended before it restarted job 4711" in capsys.readouterr().out


def test_another_job_or_step_of_elsewhere_is_watched(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    for job in ("4711", "4712"):  # another step of the same start may live
        dead_lock(tmp_path, host="node-1", machine=["node-1", "b", "pid:[1]"])
        monkeypatch.setenv("SLURM_JOB_ID", job)
        with checkpoint.lock(tmp_path):
            assert "which gave no sign of life" in capsys.readouterr().out


def test_a_run_whose_lock_was_taken_over_ends_before_it_writes(tmp_path):
    """It stood still, as in a suspended container, and another went on in its place."""
    log = tmp_path / "log"

    def into_log() -> None:
        os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY), 2)

    folder = tmp_path / "out"
    with another_run(folder, into_log) as child:
        rewrite_lock(folder / ".lock", host="elsewhere", pid=7, key="another")
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert "was taken over by pid 7 on elsewhere" in log.read_text()
    assert json.loads((folder / ".lock").read_text())["host"] == "elsewhere", "not its own, so not its to remove"


def test_a_lock_that_was_deleted_by_hand_is_there_again(tmp_path):
    with checkpoint.lock(tmp_path):
        (tmp_path / ".lock").unlink()
        deadline = time.monotonic() + 5
        while not (tmp_path / ".lock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(ValueError, match=f"in use by pid {os.getpid()}"):
            checkpoint.lock(tmp_path).__enter__()
        shutil.rmtree(tmp_path)  # the folder is not made again by a lock
        time.sleep(0.2)
        assert not tmp_path.exists()


def test_a_disk_that_takes_no_lock_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/out cannot be written \(.*Not a directory.*another --output_dir"):
        checkpoint.lock(tmp_path / "file" / "out").__enter__()


def test_a_file_system_without_hard_links_has_a_lock_too(tmp_path, monkeypatch):
    """os.link is the one call that such a file system refuses; none can be mounted everywhere."""

    def refuse(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with checkpoint.lock(tmp_path):
        with pytest.raises(ValueError, match="in use by"):
            checkpoint.lock(tmp_path).__enter__()
        assert names(tmp_path) == [".lock"]
    assert names(tmp_path) == []
