"""Three tiers of tests: `unit` starts no process, `slow` runs only if asked for, the default is all the others."""

import multiprocessing
import os
import subprocess

import pytest

STARTS = {
    "a program": lambda: subprocess.run(["true"]),
    "a shell": lambda: os.system("true"),
    "a fork": os.fork,
    "a child": lambda: multiprocessing.get_context("fork").Process(target=print).start(),
    "a new interpreter": lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
    "a served child": lambda: multiprocessing.get_context("forkserver").Process(target=print).start(),
}


@pytest.mark.unit
@pytest.mark.parametrize("start", STARTS)
def test_the_unit_tier_starts_no_process(start):
    with pytest.raises(RuntimeError, match="a test of the unit tier starts no process"):
        STARTS[start]()


@pytest.mark.parametrize("start", STARTS)
def test_the_others_may(start):
    number = STARTS[start]()
    if start == "a fork":
        os.waitpid(number, 0) if number else os._exit(0)
