"""What the user sees of a run: the display during training, and the files that explain the run afterwards.

`Progress` is drawn on the terminal, `History` is `metrics.jsonl`, `write_results` is `all_results.json`, `write_report`
is `report.html` with `figures/*.png`, `write_model_card` is `README.md`. Call `write_report` before `write_model_card`:
the card shows the curves that the report draws.
"""

from hftrain.report.card import carry_model_card, write_model_card
from hftrain.report.charts import bars, confusion_matrix, histogram, reliability
from hftrain.report.curves import curves_of
from hftrain.report.evaluated import evaluation_figures, length_figure, per_class_table, pr_figure, roc_figure
from hftrain.report.figures import Curves, Figure, Series
from hftrain.report.formats import format_bytes, format_duration, format_number
from hftrain.report.history import History, read_history, write_results, write_seen
from hftrain.report.machine import environment
from hftrain.report.page import Table, write_report
from hftrain.report.progress import Progress
from hftrain.report.publishing import Report, predict_usage, publish

__all__ = [
    "Curves",
    "Figure",
    "History",
    "Progress",
    "Report",
    "Series",
    "Table",
    "bars",
    "carry_model_card",
    "confusion_matrix",
    "curves_of",
    "environment",
    "evaluation_figures",
    "format_bytes",
    "format_duration",
    "format_number",
    "histogram",
    "length_figure",
    "per_class_table",
    "pr_figure",
    "predict_usage",
    "publish",
    "read_history",
    "reliability",
    "roc_figure",
    "write_model_card",
    "write_report",
    "write_results",
    "write_seen",
]
