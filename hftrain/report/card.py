"""The model card: `README.md` with the metadata that the Hub reads, and a description of the run for people."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hftrain import disk
from hftrain.config.nested import flatten
from hftrain.report.figures import Figure
from hftrain.report.formats import (
    by_split,
    chosen_rows,
    escape,
    format_number,
    format_setting,
    format_value,
    presentable,
)


def write_model_card(
    output_dir: str | Path,
    *,
    title: str,
    task: str,
    usage: str,
    results: Mapping[str, float],
    dataset: str,
    split: str = "test",
    lead: str = "",
    dataset_ids: Sequence[str] = (),
    language: str | Sequence[str] | None = None,
    base_model: str | None = None,
    adapter: bool = False,
    license: str | None = None,
    tags: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    changed: Mapping[str, Any] | None = None,
    chosen: Mapping[str, tuple[Any, str]] | None = None,
    data: Mapping[str, Any] | None = None,
    samples: Sequence[Mapping[str, Any]] = (),
    environment: Mapping[str, Any] | None = None,
    figures: Sequence[Figure] = (),
    scored: Mapping[str, str] | None = None,
    guessed: Mapping[str, str] | None = None,
    remarks: Sequence[str] = (),
) -> Path:
    """Write `README.md` in `output_dir`; it shows the curve `figures/loss.png` and the first four of `figures`, where
    `write_report` writes them.

    Args:
        task: pipeline tag of the Hub, "translation", "text-classification", ...
        usage: Python code that loads and uses the model, ready to paste.
        results: metric -> value on `split` of `dataset`; metrics by their `evaluate` names ("sacrebleu", "accuracy").
        dataset_ids: names of the training data on the Hub. `dataset` is for people and may be any name.
        language: ISO 639 codes ("de", "deu"), not locales.
        base_model: the model that training began from; a name on the Hub goes into the metadata, a folder only into the
            text.
        adapter: the folder holds a PEFT adapter.
        license: left out unless known.
        scored: metric -> its value for people, with its 95 % interval. `guessed`: the same for a constant guess.
        remarks: sentences below the results.
    """
    from huggingface_hub import EvalResult, ModelCardData

    output_dir = Path(output_dir)
    on_hub = base_model if base_model and _is_hub_name(base_model) else None
    scores = [
        EvalResult(
            task_type=task,
            dataset_type=dataset_ids[0] if dataset_ids else presentable(dataset),
            dataset_name=presentable(dataset),
            dataset_split=split,
            metric_type=metric,
            metric_name=metric,
            metric_value=round(value, 4),
        )
        for metric, value in results.items()
    ]
    metadata = ModelCardData(
        language=[language] if isinstance(language, str) else list(language or []) or None,
        license=license,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=task,
        base_model=on_hub,
        datasets=list(dataset_ids) or None,
        metrics=list(results) or None,
        tags=["hftrain", *tags],
        model_name=presentable(title) if scores else None,
        eval_results=scores or None,
    )
    origin = f"Trained from {_code(format_setting(base_model))}" if base_model else "Trained from scratch"
    parts = [f"# {_plain(title)}", f"{_plain(lead)}\n\n{origin} with hftrain.".strip()]
    if scores:
        shown_as: dict[str, Any] = {**results, **(scored or {})}
        guesses = guessed or {}
        column = "value (95 % interval)" if any("(" in text for text in (scored or {}).values()) else "value"
        rows: list[dict[str, Any]] = [{"metric": metric, column: shown_as[metric]} for metric in results]
        if guesses:
            rows = [row | {"constant guess": guesses.get(row["metric"], "")} for row in rows]
        parts += ["## Results", f"On the {_plain(split)} split of {_plain(dataset)}:", _table(rows)]
        parts += ["\n".join(f"- **{_plain(remark)}**" for remark in remarks)]
    if shown := [_image(figure) for figure in figures[:4] if (output_dir / "figures" / f"{figure.name}.png").exists()]:
        parts += ["\n".join(shown)]
    parts += ["## Use", _fenced(usage.strip(), "python")]
    if data:
        by_name, unsplit = by_split(data)
        parts += ["## Training data", _table(by_name), _facts(unsplit)]
    if (output_dir / "figures" / "loss.png").exists():
        parts += ["## Training", "![Training and evaluation loss](figures/loss.png)"]
    if changed:
        parts += ["## Training procedure", "Settings that differ from the defaults:", _facts(changed, format_setting)]
    if chosen:
        parts += ["Settings chosen for the data and the model:", _table(chosen_rows(chosen))]
    shown_above = flatten(changed or {}).keys() | (chosen or {}).keys()
    if defaults := {name: value for name, value in flatten(config or {}).items() if name not in shown_above}:
        text = "\n".join(f"{name}: {format_setting(value)}" for name, value in defaults.items())
        summary = f"<summary>{len(defaults)} settings at their defaults</summary>"
        parts += [f"<details>{summary}\n\n{_fenced(text, 'yaml')}\n\n</details>"]
    if samples:
        parts += ["## Samples", _table(samples[:10])]
    if environment:
        parts += ["## Environment", _facts(environment)]
    body = "\n\n".join(part for part in parts if part)
    disk.write(output_dir / "README.md", f"---\n{metadata.to_yaml()}\n---\n\n{body}\n")
    return output_dir / "README.md"


def carry_model_card(folder: Path, output: Path, *, place: Path, auto_class: str, note: str) -> None:
    """Writes to `output` the card and the figures of a run, if `folder` has them, for its model in another form.

    Args:
        place: where the model will be loaded from.
        auto_class: the class of transformers that loads it.
        note: a paragraph on how the model was changed.
    """
    from huggingface_hub import ModelCard

    if not (folder / "README.md").is_file():
        return
    card = ModelCard.load(folder / "README.md")
    metadata = card.data
    if "hftrain" not in (metadata.tags or []):  # PEFT writes an empty template
        return
    metadata.library_name = "transformers"
    code = f"""from transformers import {auto_class}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({str(place)!r})
model = {auto_class}.from_pretrained({str(place)!r})"""
    use = f"\n## Use\n\n{_fenced(code, 'python')}\n"
    text = re.sub(r"\n## Use\n.*?(?=\n## |\Z)", lambda _: use, card.text.replace("\r\n", "\n"), flags=re.DOTALL)
    lead, heading, sections = text.partition("\n## ")
    card.text = f"{lead}\n{_plain(note)}\n{heading}{sections}"
    card.save(output / "README.md")
    if (folder / "figures").is_dir():
        shutil.copytree(folder / "figures", output / "figures")


def _image(figure: Figure) -> str:
    """HTML of a width that puts two side by side on the Hub."""
    return f'<img src="figures/{escape(figure.name)}.png" alt="{escape(figure.title)}" width="460">'


def _is_hub_name(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def _facts(values: Mapping[str, Any], show: Callable[[Any], str] = format_value) -> str:
    return _table([{"": name, "value": show(value)} for name, value in flatten(values).items()])


def _plain(text: object) -> str:
    """Text that Markdown shows unchanged, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~$&!])", r"\\\1", presentable(" ".join(str(text).split())))


def _code(text: str) -> str:
    return f"`{presentable(text).replace('`', chr(39))}`"


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    text = presentable(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([format_number(row.get(name, "")) for name in columns] for row in rows)]
    return "\n".join(
        "| " + " | ".join(cell if cell == "---" else _plain(cell) for cell in line) + " |" for line in lines
    )
