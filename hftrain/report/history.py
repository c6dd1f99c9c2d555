"""Numbers for programs: `metrics.jsonl` during the run, `all_results.json` at its end."""

import json
import math
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from hftrain import disk
from hftrain.data.files import make_again
from hftrain.report.formats import without_home
from hftrain.terminal import visible_json


def _plain(value: object, name: str, not_finite: dict[str, str]) -> Any:
    """`value` as JSON. A float that JSON cannot represent becomes null and is noted under its name."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        if math.isfinite(value):
            return float(value)
        not_finite[name] = str(float(value))
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}", not_finite) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{name}[{position}]", not_finite) for position, item in enumerate(value)]
    kind = type(value).__name__
    raise ValueError(f"{name!r} is a {kind}, not a number, string, list or dict; call .item() or .tolist() on it first")


def _json_safe(row: Mapping[str, Any]) -> dict[str, Any]:
    not_finite: dict[str, str] = {}
    plain = {str(key): _plain(value, str(key), not_finite) for key, value in row.items()}
    return plain | {"not_finite": not_finite} if not_finite else plain


def write_results(output_dir: str | Path, results: Mapping[str, Any]) -> Path:
    """Write `all_results.json`, atomically; a NaN becomes null and is named under "not_finite".

    Raises:
        ValueError: a value is neither a number, a string, a list nor a dict of such.
    """
    path = Path(output_dir) / "all_results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write(path, visible_json(_json_safe(results), indent=2, allow_nan=False) + "\n")
    return path


def write_run(output_dir: str | Path, run: Mapping[str, Any]) -> None:
    """Writes `run.json`: the settings, data and environment of a run, for comparisons; without user names in its
    folders."""

    def shareable(value: object) -> Any:
        if isinstance(value, dict):
            return {key: shareable(item) for key, item in value.items()}
        if isinstance(value, list):
            return [shareable(item) for item in value]
        return without_home(value) if isinstance(value, str) else value

    plain = shareable(json.loads(json.dumps(run, default=str)))
    disk.write(Path(output_dir) / "run.json", visible_json(_json_safe(plain), indent=2, allow_nan=False) + "\n")


class History:
    """`metrics.jsonl`: one JSON object per line, on the disk when `append` returns.

    The loop writes `step epoch loss learning_rate grad_norm tokens_per_second seconds`, an evaluation `step eval_loss
    eval_<metric>`.
    A value that is not finite becomes null and is noted: `{"step": 7, "loss": null, "not_finite": {"loss": "nan"}}`.

    Args:
        path: the file; its folder is created.
        resume_step: the step from which the run resumes; later lines, which will be written again, are dropped.
            0: a new run, an older file is replaced.
        evaluated: False also drops the evaluation of `resume_step`, which will be repeated.
        enabled: False on processes other than the main one: nothing is read or written.
    """

    def __init__(self, path: str | Path, resume_step: int = 0, *, evaluated: bool = True, enabled: bool = True) -> None:
        self.path = Path(path)
        self.enabled = enabled
        self.lines = 0  # in the file
        self._warned = False
        if enabled:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = [row for row in self.rows() if row["step"] <= resume_step] if resume_step else []
            if not evaluated:
                kept = [row for row in kept if row["step"] < resume_step or "loss" in row or "event" in row]
            disk.write(self.path, "".join(visible_json(row) + "\n" for row in kept))
            self.lines = len(kept)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            ValueError: `step` is missing, or a value is not a plain number, string, list or dict.
        """
        if not self.enabled:
            return
        if isinstance(row.get("step"), bool) or not isinstance(row.get("step"), int):
            raise ValueError(f"a line of {self.path.name} needs a whole number 'step': {dict(row)}")
        line = (visible_json(_json_safe(row), allow_nan=False) + "\n").encode("utf-8", "backslashreplace")
        trouble = ""
        try:
            make_again(self.path.parent)
            with open(self.path, "ab", buffering=0) as file:
                size = file.tell()
                try:
                    # Unbuffered, in one write: a kill can only truncate the last line, which `rows` detects.
                    trouble = "" if file.write(line) == len(line) else "no space left"
                finally:
                    if file.tell() != size + len(line):
                        file.truncate(size)  # an incomplete line would damage the file
        except OSError as error:
            trouble = str(error)
        self.lines += not trouble
        if trouble and not self._warned:  # a lost line of metrics is not worth ending the run
            warnings.warn(f"{self.path}: metrics are being lost from step {row['step']} on: {trouble}", stacklevel=2)
            self._warned = True

    def sync(self) -> None:
        """Flushes the lines to the disk: a checkpoint that records their number must not outlive them."""
        if self.enabled and self.path.exists():
            disk.sync(self.path)

    def rows(self) -> list[dict[str, Any]]:
        """Every line, as `read_history` reads them."""
        return read_history(self.path) if self.enabled and self.path.exists() else []


def write_seen(output_dir: str | Path, seen: Mapping[str, Any]) -> None:
    """Writes `inspection.json`: numbers of the training examples."""
    disk.write(Path(output_dir) / "inspection.json", json.dumps(_json_safe(seen), indent=2) + "\n")


def read_seen(output_dir: str | Path) -> dict[str, Any]:
    file = Path(output_dir) / "inspection.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """Every line of a `metrics.jsonl`, in order; a last line truncated by a kill is left out with a warning.

    Raises:
        ValueError: another line is not a JSON object with a `step`.
    """
    lines = Path(path).read_bytes().splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row["step"], int):
                raise TypeError(f"step is {row['step']!r}")
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) and not line.endswith(b"\n"):
                warnings.warn(f"{path}:{number}: the last line is truncated and is left out", stacklevel=2)
                break
            problem = f'not a JSON object with a whole number "step" ({error}); correct or delete the line'
            raise ValueError(f"{path}:{number}: {problem}") from error
        rows.append(row)
    return rows
