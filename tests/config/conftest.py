"""A configuration file in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def run_yaml(tmp_path, monkeypatch):
    """Write run.yaml in an empty folder; return the words that use it."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes) -> list[str]:
        Path("run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["--config", "run.yaml"]

    return write
