"""What the user sees of a run: the display while it trains, and the files that explain it afterwards.

`Progress` is drawn on the terminal, `History` is `metrics.jsonl`, `write_results` is `all_results.json`, `write_report`
is `report.html` with `figures/*.png`, `write_model_card` is `README.md`. Call `write_report` before `write_model_card`:
the card shows the curves that the report has drawn.
"""

from hftrain.report.card import write_model_card
from hftrain.report.curves import curves_of
from hftrain.report.figures import Curves, Figure, Series
from hftrain.report.formats import format_bytes, format_duration, format_number
from hftrain.report.history import History, read_history, write_results, write_seen
from hftrain.report.machine import environment
from hftrain.report.page import Table, write_report
from hftrain.report.progress import Progress
from hftrain.report.publish import publish

__all__ = [
    "Curves",
    "Figure",
    "History",
    "Progress",
    "Series",
    "Table",
    "curves_of",
    "environment",
    "format_bytes",
    "format_duration",
    "format_number",
    "publish",
    "read_history",
    "write_model_card",
    "write_report",
    "write_results",
    "write_seen",
]
