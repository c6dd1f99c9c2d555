"""hftrain.disk: a file has its old content or its new one, whatever happens while it is written."""

import os
import re
import signal
import subprocess
import sys

import pytest

from hftrain import disk

KILLED_AT = """
import os, signal, sys
from pathlib import Path
from hftrain import disk

def kill(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(os, sys.argv[2], kill)
disk.write(Path(sys.argv[1]), "new")
"""


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_kill_leaves_the_old_file(tmp_path, call):
    path = tmp_path / ".lock.json"
    path.write_text("old")
    ended = subprocess.run([sys.executable, "-c", KILLED_AT, str(path), call], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    (left,) = set(tmp_path.iterdir()) - {path}
    assert re.fullmatch(disk.STAGED, left.name)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    disk.write(path, "half a surrogate \ud800, two\nlines")
    assert path.read_bytes() == b"half a surrogate \\ud800, two\nlines"

    def fail(*arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        disk.write(path, "new")
    assert list(tmp_path.iterdir()) == [path] and path.read_text().startswith("half")
