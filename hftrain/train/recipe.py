"""The last line of a recipe: `run(main, Config)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hftrain.config import RecipeConfig, parse

C = TypeVar("C", bound=RecipeConfig)


def run(main: Callable[[C], dict[str, Any]], config_class: type[C]) -> dict[str, Any]:
    """Calls `main` with the settings of the command line, or once for each fold with `--folds`.

    Raises:
        ValueError: a file of the settings is missing.

    Returns:
        The result of `main`, or for folds the content of `cross_validation.json`.
    """
    config = parse(config_class)
    from hftrain.data.sources import require_files

    require_files(config)  # before torch is imported
    if config.folds is None or config.fold is not None:
        return main(config)
    from hftrain.train.folds import cross_validate

    return cross_validate(main, config)
