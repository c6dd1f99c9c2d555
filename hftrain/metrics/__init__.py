"""Metrics that work offline: an `evaluate.Metric` in `<name>/<name>.py` each, named and keyed as on the Hub.

A new metric is one more such file. It imports `evaluate` and what it wraps but nothing of ours, since `evaluate.load`
copies it away. Compute on one process with all predictions: then nothing is written to disk and no process waits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluate import EvaluationModule

NAMES = tuple(
    sorted(module.stem for module in Path(__file__).parent.glob("*/*.py") if module.stem == module.parent.name)
)


def load_metric(name_or_path: str) -> EvaluationModule:
    """One of ours by its name (`NAMES`), else whatever `evaluate.load` finds: a folder, a script or a name on the Hub.

    Raises:
        ValueError: there is no such metric, or it is on the Hub and the Hub cannot be reached.
    """
    import evaluate

    if name_or_path in NAMES:
        metric = evaluate.loading.import_main_class(f"{__name__}.{name_or_path}.{name_or_path}")
        return metric(keep_in_memory=True)
    try:
        return evaluate.load(name_or_path)
    except Exception as error:  # the Hub client, the network and the script itself all raise what they like
        raise ValueError(
            f"metric {name_or_path!r} could not be loaded: {type(error).__name__}: {error}\n"
            f"Is the network there? These need none: {', '.join(NAMES)}, or a folder or script with an evaluate.Metric."
        ) from error
