"""What `scripts/chaos.py` breaks, the toolkit survives: a sample of each row, and with --slow all of it."""

import sys

import pytest

from tests import ROOT
from tests.conftest import all_of_them

sys.path.insert(0, str(ROOT / "scripts"))

from chaos import rows, tries
from scenarios import MODULES

WHOLE_PROGRAMS = ("in_a_run", "while_importing", "of_the_current_folder")  # each import takes seconds


def all_rows():
    for module in MODULES:
        for title, function in rows(module):
            slow = [pytest.mark.slow] if function.__name__ in WHOLE_PROGRAMS else []
            yield pytest.param((title, function), id=f"{module}: {title}", marks=slow)


@pytest.mark.parametrize("row", list(all_rows()))
def test_what_is_broken_is_survived(row, pytestconfig):
    attempts = tries(row, seed=1, sample=not all_of_them(pytestconfig))
    if any("not allowed" in attempt.name for attempt in attempts):
        pytest.skip(attempts[0].name)
    assert [attempt for attempt in attempts if attempt.problem is not None] == []
    assert attempts and sum(attempt.happened for attempt in attempts) > 0.9 * len(attempts)
