"""A process that fails alone ends the others, which wait for it, and only its own error is told."""

import pytest

from tests import tiny
from tests.distributed.failing_worker import start
from tests.train.resume_worker import exit_codes


@pytest.mark.parametrize(
    ("phase", "failing", "says"),
    [
        pytest.param("load", 0, "model.safetensors is damaged and cannot be read", id="a broken shard"),
        pytest.param("read", 0, "nothing' is not a local folder", id="tokenizer", marks=pytest.mark.slow),
        pytest.param("step", 1, "this row cannot be read", id="step", marks=pytest.mark.slow),
    ],
)
def test_who_waits_for_a_process_that_failed_ends_with_it(tmp_path, monkeypatch, phase, failing, says):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tiny.chat_folder(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    codes = exit_codes(start(phase, folder, tmp_path / "log"), 120)
    logs = [(tmp_path / f"log-{rank}").read_text() for rank in (0, 1)]
    assert codes == [1, 1], logs
    assert says in logs[failing]
    other = logs[1 - failing]
    assert says not in other
    assert other.count(f"hftrain: rank {1 - failing} ends, since rank {failing} (host ") == 1
