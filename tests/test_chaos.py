"""A sample of `scripts/chaos.py`: what its scenarios break, the toolkit survives."""

import importlib.util
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def chaos():
    spec = importlib.util.spec_from_file_location("chaos", SCRIPTS / "chaos.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.chaos


@pytest.mark.parametrize("name", ["saves", "damage", "inputs"])
def test_a_sample_of_what_chaos_breaks(chaos, name, monkeypatch):
    if name == "saves":  # test_resume.py kills whole runs
        from scenarios import saves

        monkeypatch.setattr(saves, "ROWS", saves.ROWS[:-1])
    table, wrong = chaos(seed=1, only=[name], sample=True)
    assert wrong == []
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert rows and all(int(row[2]) == int(row[1]) > 1 for row in rows), "everything that was to happen did"
