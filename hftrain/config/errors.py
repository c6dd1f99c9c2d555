"""How a program ends that cannot go on: with a message where hftrain has one, with a traceback where it has none."""

import dis
import os
import sys
from pathlib import Path
from types import TracebackType

PACKAGE = Path(__file__).resolve().parents[1]
RAISE = dis.opmap["RAISE_VARARGS"]


def raised_here(trace: TracebackType | None) -> bool:
    """Whether a `raise` of this package is where the error began, so that its message says what to do."""
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    return PACKAGE in Path(code.co_filename).resolve().parents and code.co_code[trace.tb_lasti] == RAISE


def explain_errors() -> None:
    """From now on this program ends with the message alone if that says what to do; with HFTRAIN_TRACEBACK=1 never."""
    if not os.environ.get("HFTRAIN_TRACEBACK"):
        sys.excepthook = _explain


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, Exception) and raised_here(trace):
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
