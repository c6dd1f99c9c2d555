"""Comparison of runs: whether their data are the same, the settings that differ, scores and curves."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hftrain.config.nested import flatten
from hftrain.report.curves import overlaid
from hftrain.report.drawing import COLOURS
from hftrain.report.formats import escape, format_duration, format_number, format_setting
from hftrain.report.history import read_history
from hftrain.report.page import Table, write_page
from hftrain.report.scores import format_score
from hftrain.train.folds import SCORES

SPLITS = ("test", "validation", "train")
PREFIX = {"test": "test_", "validation": "eval_"}
HEADS = {"score", "setting", "environment"}  # names of the first columns of tables, whose others are runs
# Settings that name the run and do not change it.
OF_THE_NAME = {"output_dir", "run_name", "hub_model_id", "resume_from_checkpoint"}
FACTS = {
    "steps": "total_steps",
    "rows seen": "samples_seen",
    "{} seen": "tokens_seen",
    "training loss, mean": "train_loss",
    "training time": "train_runtime",
    "{} per second": "train_tokens_per_second",
    "parameters": "parameters",
    "trained parameters": "trained_parameters",
    "best step": "best_step",
}


@dataclass
class Run:
    """The content of a run's output folder; `name` is the folder as it was typed."""

    name: str
    settings: dict[str, Any]
    data: dict[str, str]  # split -> fingerprint of its rows, or "examples " and that of their tokens, if known
    sizes: dict[str, Any]  # split -> number of rows
    results: dict[str, Any]
    history: list[dict[str, Any]]
    environment: dict[str, Any] = field(default_factory=dict)
    metric: str = ""
    tokenizer: str = ""  # digest of its file
    counted: str = "tokens"  # the unit of tokens_seen
    task: str = ""  # the Hub's tag


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Raises: ValueError, there are fewer than two runs or too many, one is repeated, or a folder has no run."""
    if not 2 <= len(folders) <= len(COLOURS):
        raise ValueError(f"give 2 to {len(COLOURS)} output folders to compare, not {len(folders)}")
    places = [folder.resolve() for folder in folders]
    if twice := next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None):
        raise ValueError(f"{twice} is given twice")
    return [read_run(folder) for folder in folders]


def read_run(folder: Path) -> Run:
    """A finished run, or an unfinished one, without results and with the settings of its last checkpoint.

    Raises:
        ValueError: `folder` has no run, or a file of it is damaged.
    """
    log = folder / "metrics.jsonl"
    results, run = (_read(folder / name) for name in ("all_results.json", "run.json"))
    if not log.is_file() and not results:
        if (folder / SCORES).is_file():
            parts = " ".join(map(str, sorted(folder.glob("fold-*"))))
            raise ValueError(f"{folder} is a cross-validation: compare its runs, {parts}")
        raise ValueError(f"no run in {folder} (neither metrics.jsonl nor all_results.json): give an output folder")
    described = {name: (run.get("data") or {}).get(name) for name in SPLITS}
    splits = {name: facts for name, facts in described.items() if isinstance(facts, dict) and facts}
    data = {
        name: ("examples " if "documents" in facts else "") + facts["fingerprint"]  # for pretraining: tokens, not rows
        for name, facts in splits.items()
        if "fingerprint" in facts
    }
    settings = run.get("config") or {}
    if not run:
        settings, data = _of_checkpoint(folder)
    tokenizer = folder / "tokenizer.json"
    return Run(
        name=f"./{folder}" if str(folder) in HEADS else str(folder),
        settings={key: value for key, value in flatten(settings).items() if key not in OF_THE_NAME},
        data=data,
        sizes={name: next(iter(facts.values())) for name, facts in splits.items()},
        results=results,
        history=read_history(log) if log.is_file() else [],
        environment=flatten(run.get("environment") or {}),
        metric=str(run.get("metric", "")),
        tokenizer=hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer.is_file() else "",
        counted=str(run.get("counted", "tokens")),
        task=str(run.get("task", "")),
    )


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; {} if the file does not exist. Raises: ValueError, it is not an object."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} is damaged: it should contain an object, not a {type(value).__name__}")
    return value


def _of_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings in the contract of the last checkpoint, and the fingerprints of the examples of each split."""
    from hftrain.train.checkpoint.reading import checkpoints

    contract = next((_read(path / "manifest.json").get("contract") for path in reversed(checkpoints(folder))), None)
    contract = contract or {}
    data = {name: f"examples {contract[f'{name}_data']}" for name in SPLITS if f"{name}_data" in contract}
    derived = {*(f"{name}_data" for name in SPLITS), "base_weights", "examples", "data", "total_steps"}
    return {key: value for key, value in contract.items() if key not in derived}, data


# ---- differences


def cautions(runs: Sequence[Run]) -> list[str]:
    """Warnings before a comparison, the most serious first; [] if all rows are the same."""
    sentences = []
    if len({(run.task, run.settings.get("problem_type")) for run in runs if run.task}) > 1:
        tasks = ", ".join(f"{run.name}: {run.settings.get('problem_type') or run.task}" for run in runs)
        sentences.append(f"The tasks differ: scores and losses of one name are not of one kind ({tasks}).")
    consequence = {
        "test": "test scores come from different rows and cannot be compared",
        "validation": "evaluations during training come from different rows and cannot be compared",
        "train": "the runs learnt from different rows",
    }
    for split in SPLITS:
        shown = ", ".join(f"{run.name}: {_rows(run, split)}" for run in runs)
        same = comparable(runs, split)
        if same is False:
            sentences.append(f"The {split} rows differ: {consequence[split]} ({shown}).")
        elif same is None and any(split in run.data for run in runs):
            sentences.append(f"Whether the {split} rows are the same is not known ({shown}).")
    if not any(run.data for run in runs):
        sentences.append("Whether the data are the same is not known: no run has a run.json or a checkpoint.")
    of_tokens = any(key.endswith("perplexity") for run in runs for key in run.results)
    if of_tokens and len({run.tokenizer for run in runs}) > 1:
        sentences.append("The tokenizers differ: loss and perplexity are means over different tokens.")
    metrics = {key for run in runs for key, value in run.results.items() if key.endswith("_signature") and value}
    for key in sorted(metrics):
        if len({run.results.get(key) for run in runs}) > 1:
            sentences.append(f"{key.removesuffix('_signature')} is computed in different ways (see {key}).")
    sentences += [f"The settings of {run.name} are not known." for run in runs if not run.settings]
    sentences += [f"{run.name} is not finished: it has no scores yet." for run in runs if not run.results]
    return sentences + [f"{run.name}: {remark}" for run in runs for remark in run.results.get("remarks") or []]


def comparable(runs: Sequence[Run], split: str) -> bool | None:
    """Whether all runs have the same rows in a split; None: not known. Fingerprints of tokens cannot be compared with
    those of rows, or of tokens of another tokenizer."""
    fingerprints = [run.data.get(split) for run in runs]
    kinds = {value is not None and value.startswith("examples ") for value in fingerprints}
    if None in fingerprints or len(kinds) > 1:
        return None
    if len(set(fingerprints)) == 1:
        return True
    return None if True in kinds and len({run.tokenizer for run in runs}) > 1 else False


def _rows(run: Run, split: str) -> str:
    size = f"{format_number(run.sizes[split])} rows, " if split in run.sizes else ""
    return size + (run.data[split].removeprefix("examples ")[:12] if split in run.data else "no fingerprint")


def different(runs: Sequence[Run], values: Sequence[Mapping[str, Any]], name: str) -> Table:
    """The keys of `values`, one mapping for each run, that have more than one value."""
    rows, partly = [], 0
    for key in dict.fromkeys(key for mapping in values for key in mapping):
        shown = [format_setting(mapping[key]) if key in mapping else "" for mapping in values]
        partly += any(mapping and key not in mapping for mapping in values)
        if len({text for text, mapping in zip(shown, values, strict=True) if key in mapping}) > 1:
            rows.append({name: key, **dict(zip((run.name for run in runs), shown, strict=True))})
    note = f"{partly} more are not in all of the runs." if partly else ""
    return Table(name, rows, note=note, visible=40)


def scores(runs: Sequence[Run], split: str) -> Table:
    """The scores on a split with their 95 % intervals, the main one first; words, as a signature, if they differ."""
    prefix = PREFIX[split]
    main = [run.metric for run in runs if run.metric]
    keys = list(dict.fromkeys(key for run in runs for key in run.results if key.startswith(prefix)))
    rows = []
    for key in sorted(keys, key=lambda key: (key not in main, key.endswith("loss"))):
        values = [run.results.get(key) for run in runs]
        if all(value is None or isinstance(value, int | float) for value in values) or len(set(map(str, values))) > 1:
            shown = [score(run, key) for run in runs]
            rows.append(
                {"score": key.removeprefix(prefix), **dict(zip((run.name for run in runs), shown, strict=True))}
            )
    brackets = any(key in keys for run in runs for key in run.results.get("intervals") or ())
    guesses = any(key in keys for run in runs for key in run.results.get("baseline") or ())
    notes = ["In brackets: 95 % intervals for the choice of rows."] * brackets
    note = " ".join([*notes, *["Guess: a constant one."] * guesses])
    if comparable(runs, split) is False:
        note = f"These scores come from different rows and cannot be compared. {note}".strip()
    return Table(f"Scores, {split}", rows, note=note, visible=20)


def score(run: Run, key: str) -> str:
    """90.0 % (86.0-93.1), guess 50.0 %."""
    name, value = key.partition("_")[2], run.results.get(key)
    interval, guess = ((run.results.get(facts) or {}).get(key) for facts in ("intervals", "baseline"))
    rival = "" if guess is None else f", guess {format_score(name, guess, task=run.task)}"
    return format_score(name, value, interval, run.task) + rival


def facts(runs: Sequence[Run]) -> Table:
    """Duration and amount of training."""
    rows = []
    for label, key in FACTS.items():
        values = [None if key == "best_step" and kept_last(run) else run.results.get(key) for run in runs]
        if any(value is not None for value in values):
            show = format_duration if key == "train_runtime" else format_number
            shown = ["-" if value is None else show(value) for value in values]
            rows.append({"": label.format(unit(runs)), **dict(zip((run.name for run in runs), shown, strict=True))})
    return Table("Training", rows)


def kept_last(run: Run) -> bool:
    """Whether the model is that of the last step, whatever step was best."""
    return run.settings.get("load_best_model_at_end") is False


def unit(runs: Sequence[Run]) -> str:
    """What tokens_seen and tokens_per_second count: "tokens", "images", or both."""
    return " or ".join(sorted({run.counted for run in runs}))


# ---- output


def tables(runs: Sequence[Run]) -> list[Table]:
    """The tables for terminal and page, in this order."""
    return [
        scores(runs, "test"),
        scores(runs, "validation"),
        different(runs, [run.settings for run in runs], "setting"),
        facts(runs),
    ]


def in_words(runs: Sequence[Run]) -> Iterator[str]:
    """Lines for the terminal."""
    for caution in cautions(runs):
        yield f"note: {caution}"
    for table in tables(runs):
        if not table.rows:
            continue
        columns = table.columns()
        lines = [columns, *([_short(str(row.get(name, ""))) for name in columns] for row in table.rows)]
        widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
        yield f"\n{heading(table)}"
        for line in lines:
            yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        if table.note:
            yield f"  {table.note}"
    if not different(runs, [run.settings for run in runs], "setting").rows and all(run.settings for run in runs):
        yield "\nno setting differs"


def heading(table: Table) -> str:
    return "Settings that differ" if table.title == "setting" else table.title


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else f"{line[:19]}…{line[-20:]}"


def check_page(path: Path) -> None:
    """Raises: ValueError, `path` does not end with .html."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output {path}: the comparison is a page: use the ending .html")


def write_comparison(path: Path, runs: Sequence[Run]) -> Path:
    """Writes the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    per_step, x_label = _axis(runs)
    curves = overlaid({run.name: run.history for run in runs}, per_step=per_step, x_label=x_label, counted=unit(runs))
    noted = "".join(f"<li>{escape(caution)}</li>" for caution in cautions(runs))
    shown = [(heading(table), table) for table in tables(runs)]
    environment = different(runs, [run.environment for run in runs], "environment")
    return write_page(
        path,
        title=f"{len(runs)} runs compared",
        lead=", ".join(run.name for run in runs),
        facts=[time.strftime("%Y-%m-%d", time.gmtime())],
        top=f'<ul class="remarks">{noted}</ul>' if noted else "",
        sections=[*shown[:2], ("Curves", curves), *shown[2:], ("Environment that differs", environment)],
    )


def _axis(runs: Sequence[Run]) -> tuple[dict[str, float], str]:
    """The x axis of the curves: steps, or rows seen if the steps of the runs have different numbers of rows."""
    counts = [(run.name, run.results.get("samples_seen"), run.results.get("total_steps")) for run in runs]
    per_step = {name: seen / steps for name, seen, steps in counts if seen and steps}
    if len(per_step) < len(runs) or max(per_step.values()) <= 1.01 * min(per_step.values()):
        return {}, "step"
    return per_step, "rows seen"
