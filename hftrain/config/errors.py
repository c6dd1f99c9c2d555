"""How a program ends that cannot go on: with a message where hftrain has one, with a traceback where it has none."""

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


def of_a_disk(error: BaseException | None) -> bool:
    """Whether the system refused to read or write. (safetensors and tokenizers wrap its error: its number is in the
    text.)"""
    return isinstance(error, OSError) or "(os error " in str(error)


@contextmanager
def explain_disk(what: str, way_out: str) -> Iterator[None]:
    """Makes an error of the disk inside one that says `what` failed, why, and the way out."""
    try:
        yield
    except Exception as error:
        if not of_a_disk(error):
            raise
        raise ValueError(f"{what}: {error}. {way_out}") from error


def innermost(trace: TracebackType | None) -> tuple[Path, bool]:
    """The file where an error began, and whether with a `raise`, or an `assert`, in it."""
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None:
        return Path(), False
    code = trace.tb_frame.f_code
    return Path(code.co_filename).resolve(), code.co_code[trace.tb_lasti] == RAISE


def explains(error: BaseException) -> bool:
    """Whether the message says what to do: this package raised it for the user."""
    file, raised = innermost(error.__traceback__)
    ours = raised and PACKAGE in file.parents and isinstance(error, Exception) and str(error) != ""
    return ours and not isinstance(error, AssertionError | NotImplementedError)


def explain_errors() -> None:
    """From now on an error that explains itself ends this program with its message, or all with HFTRAIN_TRACEBACK=1."""
    clean_messages()
    before = sys.excepthook
    if getattr(before, "explains", False) or os.environ.get("HFTRAIN_TRACEBACK"):
        return

    def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        program, text = Path(sys.argv[0]).name, str(error)
        refused = error.errno in DISK if isinstance(error, OSError) else any(f"(os error {n})" in text for n in DISK)
        if issubclass(kind, KeyboardInterrupt):
            print(f"{program}: interrupted; what was saved before stands", file=sys.stderr)
        elif explains(error):
            lines = (f"{program}: {text}", *getattr(error, "__notes__", ()))
            print(visible("\n".join(lines)), file=sys.stderr)
        elif refused:
            way_out = "Make room there, mend its permissions, or name another folder; checkpoints stand"
            print(visible(f"{program}: {text}. {way_out}."), file=sys.stderr)
        else:
            before(kind, error, trace)

    explain.explains = True  # type: ignore[attr-defined]
    sys.excepthook = explain
