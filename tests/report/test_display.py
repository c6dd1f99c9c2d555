"""The display: on a terminal, on a pipe, and where nobody looks."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import threading
import time

from hftrain.report import (
    Progress,
)
from tests import ROOT
from tests.report.test_report import run_python

# --- the display

LOOP = """
import sys, time
from hftrain.report import Progress
with Progress(total=1200, start=400) as progress:
    for step in range(401, 405):
        time.sleep(0.25)
        values = {"loss": 2.0 + step / 1000, "learning_rate": 3e-4, "grad_norm": 1.5, "tokens_per_second": 12345.6}
        progress.update(step, values)
        progress.print(f"note {step} [bold]\\x1b[31mé\\u4e2d")
        print("printed", step)
    progress.log({"loss": 2.404, "learning_rate": 3e-4})
    with progress.phase("evaluating"):
        time.sleep(0.25)
        with progress.phase("generating"):
            pass
    progress.log({"eval_loss": 1.75, "eval_sacrebleu": 36.123})
    progress.update(405)
    if "fail" in sys.argv:
        raise RuntimeError("a bad batch")
"""


def run_on_terminal(script: str, *arguments: str, columns: int = 100) -> tuple[str, int]:
    """What the script sends to a pseudo-terminal, and its exit code."""
    ours, theirs = pty.openpty()
    environ = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    environ |= {
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        "COLUMNS": str(columns),
        "LINES": "40",
        "PYTHONIOENCODING": "utf-8",
    }
    child = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    sent = b""
    while True:
        try:
            sent += (more := os.read(ours, 65536))
        except OSError:  # Linux: the last writer is gone
            break
        if not more:
            break
    os.close(ours)
    return sent.decode(), child.wait(timeout=30)


def screen(sent: str) -> list[str]:
    """The lines that a terminal shows after `sent`: a terminal as small as what rich sends needs."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]", sent):
        if token == "\r":
            column = 0
        elif token == "\n":
            row, column = row + 1, 0
        elif token.endswith("A") and token[0] == "\x1b":
            row -= int(token[2:-1] or 1)
        elif token.startswith("\x1b["):
            assert token[-1] in "Kmhl", f"unknown sequence {token!r}"
            if token[-1] == "K":
                lines[row] = "" if token[2:-1] == "2" else lines[row][:column]
        else:
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]


def test_display_on_a_terminal():
    sent, code = run_on_terminal(LOOP)
    assert code == 0, sent
    shown = screen(sent)
    for step in range(401, 405):
        at = shown.index(
            f"note {step} [bold]\\x1b[31mé中"
        )  # whole, alone on its line, its escape code shown and not obeyed
        assert shown[at + 1] == f"printed {step}"
    evaluation = next(line for line in shown if "eval_loss 1.75" in line)
    assert "404/1,200" in evaluation and "eval_sacrebleu 36.12" in evaluation
    bars = [number for number, line in enumerate(shown) if line.startswith("training") and "━" in line]
    assert len(bars) == 1, "\n".join(shown)
    assert re.search(r"405/1,200 +\d s, eta \d+ (s|min)", shown[bars[0]])
    assert re.search(
        r"loss 2.404   lr 3e-4   grad norm 1.5   12,346 tokens/s   (RAM|GPU) [\d.]+ [MG]B$", shown[bars[0] + 1]
    )
    assert "evaluating" in sent and "generating" in sent
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l"), "the cursor must come back"


def test_display_on_a_narrow_terminal_of_a_run_that_fails():
    sent, code = run_on_terminal(LOOP, "fail", columns=44)
    assert code == 1 and "RuntimeError: a bad batch" in sent
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l"), "the cursor must come back"
    shown = screen(sent)
    assert sum("405/1,200" in line for line in shown) == 1
    assert all(len(line) <= 44 for line in shown)


def test_a_command_is_not_broken_in_two():
    program = "from hftrain.report import Progress\nwith Progress(9) as progress:\n"
    sent, _ = run_on_terminal(f"{program}    progress.print('  hftrain run ' + 'word ' * 40, wrap=False)\n", columns=80)
    assert "hftrain run " + "word " * 39 in sent


def test_display_on_a_pipe_is_plain_lines(tmp_path):
    done = run_python(LOOP, cwd=tmp_path, FORCE_COLOR="1", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("printed")]
    assert lines[:4] == [f"note {step} [bold]\\x1b[31m\\xe9\\u4e2d" for step in range(401, 405)]
    assert re.fullmatch(r"step   404/1,200  loss 2.404 +lr 3e-4 +RAM [\d.]+ [MG]B  eta \d min \d\d s", lines[4])
    assert lines[5:] == [
        "step   404/1,200  evaluating",
        "step   404/1,200  generating",
        "step   404/1,200  eval_loss 1.75    eval_sacrebleu 36.12",
    ]


def test_other_processes_show_nothing(capsys):
    with Progress(10, enabled=False) as progress, progress.phase("saving"):
        progress.update(1, {"loss": 1.0})
        progress.log({"loss": 1.0})
        progress.print("note")
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_leaves_does_not_end_the_run():
    program = "import time; from hftrain.report import Progress\nwith Progress(9) as progress:\n"
    program += "    for i in range(9): progress.print('line'); time.sleep(0.1)\nprint('and what is printed at the end')"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout.readline() == b"line\n"
        run.stdout.close()
        assert (run.stderr.read(), run.wait()) == (b"", 0)


def test_update_is_cheap_and_needs_no_thread():
    ours, theirs = pty.openpty()

    def read() -> None:
        with contextlib.suppress(OSError):  # the end of a pseudo-terminal
            while os.read(ours, 65536):
                pass

    threading.Thread(target=read, daemon=True).start()
    threads = threading.active_count()
    costs = []
    with os.fdopen(theirs, "w") as file, Progress(100_000, file=file) as progress:
        for step in range(1, 20_001):
            began = time.perf_counter()
            progress.update(step, {"loss": 1.0, "learning_rate": 1e-4})
            costs.append(time.perf_counter() - began)
        assert threading.active_count() == threads, "a drawing thread may hold a lock while a data worker is forked"
    assert sorted(costs)[len(costs) // 2] < 50e-6
