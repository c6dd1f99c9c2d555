"""What `scripts/chaos.py` breaks, the toolkit survives: a sample of each row, and with --slow all of it."""

import sys

import pytest

from tests import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from chaos import rows, tries
from scenarios import MODULES

ROWS = [pytest.param(row, id=f"{module}: {row[0]}") for module in MODULES for row in rows(module)]
WHOLE_PROGRAMS = ("in_a_run", "while_importing", "of_the_current_folder")  # each import takes seconds


def sampled():
    for row in ROWS:
        slow = row.values[0][1].__name__ in WHOLE_PROGRAMS
        yield pytest.param(*row.values, id=row.id, marks=pytest.mark.slow if slow else ())


def holds(attempts):
    if any("not allowed" in attempt.name for attempt in attempts):
        pytest.skip(attempts[0].name)
    assert [attempt for attempt in attempts if attempt.problem is not None] == []
    assert attempts and sum(attempt.happened for attempt in attempts) > 0.9 * len(attempts)


@pytest.mark.parametrize("row", list(sampled()))
def test_a_sample(row):
    holds(tries(row, seed=1, sample=True))


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_all_of_it(row):
    holds(tries(row, seed=2))
