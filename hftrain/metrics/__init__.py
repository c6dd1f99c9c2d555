"""Metrics that work offline.

`load_metrics` returns those of a task, for batches and processes; `load_metric` one `evaluate.Metric`, for all
predictions at once, with the names and keys of the Hub. Both read one table, `table`, and its functions: `counts`
(accuracy, precision, recall, F1, Matthews, confusions), `ranking` (ROC, precision-recall), `calibration`, `regression`,
`entities`, `answers`, `texts` (BLEU, chrF).

A new metric is a function and a row of the table. For `evaluate.load(path)`, which copies a script away, it also has
a folder with a module `<name>/<name>.py` that imports by the full name (`from hftrain.metrics import face`).
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from hftrain.lazy import lazily
from hftrain.metrics.table import FITTING, NAMES, belongs, check_names

if TYPE_CHECKING:
    from evaluate import EvaluationModule

    from hftrain.metrics.streaming import Metrics, load_metrics, rehearse
else:
    __getattr__ = lazily(__name__)

__all__ = ["FITTING", "NAMES", "Metrics", "belongs", "check_names", "load_metric", "load_metrics", "rehearse"]


def load_metric(name_or_path: str, config_name: str | None = None) -> EvaluationModule:
    """One of our metrics by its name (`NAMES`), or else what `evaluate.load` finds: a folder, a script, a name on the
    Hub.

    It holds its predictions in memory: compute on one process, with all of them.

    Raises:
        ValueError: the metric does not exist, or the Hub cannot be reached.
    """
    import evaluate

    if name_or_path in NAMES:
        metric = evaluate.loading.import_main_class(f"{__name__}.{name_or_path}.{name_or_path}")
        return metric(config_name, keep_in_memory=True)
    try:
        return evaluate.load(name_or_path, config_name, keep_in_memory=True)
    except Exception as error:  # the Hub client, the network and the script raise any kind of error
        every = {*NAMES, *(name for names in FITTING.values() for name in names)}
        near = difflib.get_close_matches(name_or_path, sorted(every), n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "Is the network available?"
        raise ValueError(
            f"metric {name_or_path!r} could not be loaded: {type(error).__name__}: {error}\n"
            f"{hint} These work without a network: {', '.join(NAMES)}, any folder or script with an evaluate.Metric."
        ) from error
