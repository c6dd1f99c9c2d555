"""Python code in a model folder runs only if the user allows it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CodeRefused(ValueError):
    """A model cannot be loaded without its author's Python code, which was not run."""


@contextmanager
def refusing_code(name: str | Path) -> Iterator[None]:
    """Within this context, models that `from_pretrained(..., trust_remote_code=False)` refuses raise a clear error.

    Raises:
        CodeRefused: `name` cannot be loaded without its own Python code.
    """
    try:
        yield
    except CodeRefused:  # raised for a part of this model: the message has the part's name
        raise
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise CodeRefused(
            f"{name} cannot be loaded without Python code of its author, which was not run. Read the code; if you "
            "trust it, set --trust_remote_code"
        ) from error
