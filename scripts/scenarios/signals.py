"""A signal in each phase of a recipe's program: it ends with code 75, without a traceback, and the next start goes on.

The phases before the program has imported anything of ours are `hftrain run`'s to answer for.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from scenarios import Row, Try
from scenarios.program import import_the_rest, run

NAMES = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP")
PHASES = (
    "reading", "learning a tokenizer", "tokenizing", "evaluation before step 1", "step", "evaluation", "save",
    "test scores", "publishing",
)  # fmt: skip
MESSAGES = {"test scores": "stopped after training", "publishing": "stopped after training", "step": "after step"}


def in_phases(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    import_the_rest()
    first = draw.randrange(len(NAMES))
    pairs = [(phase, NAMES[(first + number) % len(NAMES)]) for number, phase in enumerate(PHASES)]
    for phase, name in draw.sample(pairs, 3) if sample else pairs:
        yield in_phase(folder / f"{name} {phase}", phase, name)


def in_phase(place: Path, phase: str, name: str) -> Try:
    place.mkdir()
    code, log = run(place, phase, lambda: os.kill(os.getpid(), signal.Signals[name]), place / "out")
    again, log_again = run(place, None, lambda: None, place / "out")
    finished = again == 0 and (place / "out" / "README.md").exists()
    passed = code == 75 and "Traceback" not in log and MESSAGES.get(phase, "stopped") in log and finished
    problem = None if passed else f"exit code {code}, started again {again}: {(log + log_again)[-600:]!r}"
    return Try(f"{name} while {phase}", f"struck while {phase}" in log, problem)


def while_importing(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    """A recipe that imports for ever, below `hftrain run`."""
    for name in draw.sample(NAMES, 1) if sample else NAMES:
        recipe, mark = folder / "slow.py", folder / f"{name}.imports"
        recipe.write_text(f"import pathlib, time\npathlib.Path({str(mark)!r}).touch()\ntime.sleep(600)\n")
        command = [sys.executable, "-m", "hftrain.cli", "run", str(recipe)]
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while not mark.exists() and program.poll() is None:
            time.sleep(0.05)
        program.send_signal(signal.Signals[name])
        try:
            output, _ = program.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            program.kill()
            output, _ = program.communicate()
        passed = program.returncode == 75 and "Traceback" not in output and "nothing new is saved" in output
        problem = None if passed else f"exit code {program.returncode}: {output[-600:]!r}"
        yield Try(name, mark.exists(), problem)


ROWS: list[Row] = [
    ("a signal in each of nine phases: code 75, and the next start ends", in_phases),
    ("a signal while a recipe imports, below `hftrain run`: code 75", while_importing),
]
