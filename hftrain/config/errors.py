"""How a program ends after an error: with a message if hftrain has one, otherwise with a traceback."""

import dis
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from hftrain.terminal import clean_messages, visible

PACKAGE = Path(__file__).resolve().parents[1]
RAISE = dis.opmap["RAISE_VARARGS"]

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE, errno.EACCES, errno.ENOTCONN}

NO_INTERNET = " (without internet, HF_HUB_OFFLINE=1 ends the wait at once)"  # behind an error of the Hub's client


def of_a_disk(error: BaseException | None) -> bool:
    """Whether the system refused to read or write. (safetensors and tokenizers wrap the error: its number is in the
    text.)"""
    return isinstance(error, OSError) or "(os error " in str(error)


@contextmanager
def explain_disk(what: str, way_out: str) -> Iterator[None]:
    """Replaces an error of the disk by one that says `what` failed, why, and the way out."""
    try:
        yield
    except Exception as error:
        if not of_a_disk(error):
            raise
        raise ValueError(f"{what}: {error}. {way_out}") from error


def innermost(trace: TracebackType | None) -> tuple[Path, bool]:
    """The file where an error began, and whether a `raise` or an `assert` in it caused the error."""
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None:
        return Path(), False
    code = trace.tb_frame.f_code
    return Path(code.co_filename).resolve(), code.co_code[trace.tb_lasti] == RAISE


def explains(error: BaseException) -> bool:
    """Whether the message is for the user: this package raised it."""
    file, raised = innermost(error.__traceback__)
    ours = raised and PACKAGE in file.parents and isinstance(error, Exception) and str(error) != ""
    return ours and not isinstance(error, AssertionError | NotImplementedError)


def explain_errors() -> None:
    """From now on, errors for the user end this program with their message; with HFTRAIN_TRACEBACK=1, a traceback."""
    clean_messages()
    before = sys.excepthook
    if getattr(before, "explains", False) or os.environ.get("HFTRAIN_TRACEBACK"):
        return

    def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        program, text = Path(sys.argv[0]).name, str(error)
        refused = error.errno in DISK if isinstance(error, OSError) else any(f"(os error {n})" in text for n in DISK)
        if issubclass(kind, KeyboardInterrupt):
            print(f"{program}: interrupted; everything saved before is intact", file=sys.stderr)
        elif explains(error):
            lines = (f"{program}: {text}", *getattr(error, "__notes__", ()))
            print(visible("\n".join(lines)), file=sys.stderr)
        elif refused:
            way_out = "Make room there, repair its permissions, or choose another folder; checkpoints are intact"
            print(visible(f"{program}: {text}. {way_out}."), file=sys.stderr)
        else:
            before(kind, error, trace)

    explain.explains = True  # type: ignore[attr-defined]
    sys.excepthook = explain
