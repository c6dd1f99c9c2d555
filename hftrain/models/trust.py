"""Python code that comes with a model folder runs only where the user asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CodeRefused(ValueError):
    """A model cannot be loaded without its author's Python code, which was not run."""


@contextmanager
def refusing_code(name: str | Path) -> Iterator[None]:
    """Inside, a model that `from_pretrained(..., trust_remote_code=False)` refuses is refused in the user's words.

    Raises:
        CodeRefused: `name` cannot be loaded without its own Python code.
    """
    try:
        yield
    except CodeRefused:  # of a model that this one is made of: its own name stands in it
        raise
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise CodeRefused(
            f"{name} cannot be loaded without Python code of its author, which was not run. Read that code; if you "
            "trust it, set --trust_remote_code"
        ) from error
