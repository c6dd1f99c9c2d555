"""The end of a recipe: writes the report, the card and the scores, and uploads them with push_to_hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hftrain.config import TrainConfig, changed
from hftrain.config.errors import explain_disk
from hftrain.report.card import write_model_card
from hftrain.report.figures import Figure
from hftrain.report.formats import format_duration
from hftrain.report.history import read_history, read_seen, write_results, write_run
from hftrain.report.machine import environment
from hftrain.report.page import Table, write_report
from hftrain.report.progress import say
from hftrain.report.scores import Interval, format_score, verdict
from hftrain.terminal import visible

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Report:
    """The results of a task for the report, the model card and the terminal.

    Args:
        title: title of the report and the card.
        task: pipeline tag of the Hub, "translation", "text-classification", ...
        usage: Python code that loads and uses the model, ready to paste.
        metric: the key in `scores` of the main score.
        scores: metric -> value on the test rows; if `split` is "validation", the scores of `fit` are used.
        data: facts about the data: split -> name -> value, or name -> value.
        lead: one or two sentences on what the model does and which data it learnt from.
        samples: rows of a table with inputs and outputs.
        figures: charts, the main ones first: the card shows four.
        language: ISO 639 codes ("de", "deu"), not locales.
        dataset_ids: names of the training data on the Hub.
        baseline: "test_METRIC" or "eval_METRIC" -> the score of a guess that reads no input. A remark names a loss that
            is not better.
        intervals: "test_METRIC" -> its 95 % interval.
        remarks: sentences on facts that the scores hide.
    """

    title: str
    task: str
    usage: str
    metric: str
    data: Mapping[str, Any]
    scores: Mapping[str, Any] = field(default_factory=dict)
    split: Literal["test", "validation"] = "test"
    lead: str = ""
    samples: Sequence[Mapping[str, Any]] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    language: Sequence[str] = ()
    dataset_ids: Sequence[str] = ()
    baseline: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def predict_usage(config: TrainConfig, value: str) -> str:
    """Python code that gives the prediction of the trained model for `value`: a text, or the path of a file."""
    folder = config.hub_model_id or config.output_dir
    return f"""from hftrain.predict import predict

print(predict({folder!r}, [{value!r}]))"""


@explain_disk(
    "the model is complete, but its scores, report or card were not written",
    "Make room, or repair the folder, and run again with --resume_from_checkpoint auto: it only scores and reports",
)
def publish(
    accelerator: Accelerator, config: TrainConfig, results: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """Writes `all_results.json`, `run.json`, `report.html` and the model card `README.md`; prints the scores and where
    they are. Every process calls; the main one writes.

    Args:
        results: what `fit` returned.

    Returns:
        `results` and the scores of `report` as "test_METRIC".
    """
    prefix = {"test": "test_", "validation": "eval_"}[report.split]
    results = {**results, **{prefix + key: value for key, value in report.scores.items()}}
    split, task, baseline, intervals = report.split, report.task, report.baseline, report.intervals
    base_model = getattr(config, "model_name_or_path", None)
    accelerator.log(
        {key: value for key, value in results.items() if key.startswith("test_")}, step=results["total_steps"]
    )
    for tracker in accelerator.trackers:
        tracker.finish()
    if not accelerator.is_main_process:
        return results
    folder = Path(config.output_dir)
    if not folder.is_dir():
        tests = {key: value for key, value in results.items() if key.startswith("test_")}
        raise ValueError(
            f"{folder} was deleted or renamed after the model was written to it. Restore its name and run again "
            f"with --resume_from_checkpoint auto. The scores: {tests}"
        )
    scores = {key.removeprefix(prefix): value for key, value in results.items() if key.startswith(prefix)}
    first = [report.metric, *(key for key in scores if key != "loss"), "loss"]
    numbers = {key: scores[key] for key in first if isinstance(scores.get(key), int | float)}
    data = {**report.data, **{f"training examples: {name}": value for name, value in read_seen(folder).items()}}
    shared: dict[str, Any] = {"title": report.title, "lead": report.lead, "data": data, "samples": report.samples}
    shared |= {"config": asdict(config), "changed": changed(config), "environment": environment(accelerator)}
    shared |= {"chosen": config.chosen}
    history = read_history(folder / "metrics.jsonl")
    start = next((row for row in history if row["step"] == 0), {})
    remarks = [*verdict(results, baseline, intervals, start), *report.remarks]
    evidence = {"baseline": baseline, "intervals": intervals, "remarks": remarks}
    results = {**results, "task": task, **{name: value for name, value in evidence.items() if value}}
    write_results(folder, results)
    run = {"task": task, "metric": prefix + report.metric, "base_model": base_model, "counted": config.counted}
    write_run(folder, run | {name: shared[name] for name in ("title", "config", "data", "environment")})
    scored = {key: format_score(key, value, intervals.get(prefix + key), task) for key, value in numbers.items()}
    guessed = {
        key: format_score(key, baseline[prefix + key], None, task) for key in numbers if prefix + key in baseline
    }
    tiles: dict[str, Any] = {f"{split} {key}".replace("_", " "): scored[key] for key in numbers}
    beside = {f"{split} {key}".replace("_", " "): f"constant guess: {value}" for key, value in guessed.items()}
    tiles |= {"steps": results["total_steps"], f"{config.counted}/s, overall": results["train_tokens_per_second"]}
    tiles |= {"training": format_duration(results["train_runtime"])}
    losses = [row["loss"] for row in history if row.get("loss") is not None]
    tiles |= {"training loss, last": losses[-1]} if losses else {}
    about = [f"trained from {base_model}" if base_model else "trained from scratch"]
    if "parameters" in results:
        share = results["trained_parameters"] / results["parameters"]
        about += [f"{results['parameters']:,} parameters" + (f", {share:.2%} of them trained" if share < 1 else "")]
    shown: dict[str, Any] = {"figures": report.figures, "remarks": remarks}
    page: dict[str, Any] = {"about": about, "summary": tiles, "beside": beside, "counted": config.counted}
    write_report(folder, **shared, **shown, **page, history=history, tables=report.tables)
    write_model_card(
        folder,
        **shared,
        **shown,
        task=task,
        usage=report.usage,
        results=numbers,
        scored=scored,
        guessed=guessed,
        dataset=config.tested_on,
        split=split,
        dataset_ids=report.dataset_ids,
        language=report.language,
        base_model=base_model,
        adapter=(folder / "adapter_config.json").exists(),
    )
    for sample in report.samples[:3]:
        written = {name: value for name, value in sample.items() if isinstance(value, str | int | float)}  # no players
        say(visible("\n".join(f"  {name:<11} {value}" for name, value in written.items())) + "\n")
    for key in numbers:
        rival = f", a constant guess has {guessed[key]}" if key in guessed else ""
        say(visible(f"{prefix}{key}: {scored[key]}{rival}"))
    for remark in remarks:
        say(visible(f"note: {remark}"))
    say(f"model, report and card: {folder}  (open {folder / 'report.html'})")
    if config.push_to_hub:
        upload(config)
    return results


def upload(config: TrainConfig) -> None:
    """Uploads the output folder to the Hub, without checkpoints.

    Raises:
        RuntimeError: the Hub cannot be reached or refuses; the message has the command for a later upload.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    name = config.hub_model_id or Path(config.output_dir).resolve().name
    ignored = ["checkpoint-*/**", ".*"]
    try:
        name = hub.create_repo(name, exist_ok=True).repo_id
        url = hub.upload_folder(
            repo_id=name, folder_path=config.output_dir, ignore_patterns=ignored, commit_message="Trained with hftrain"
        )
    except Exception as error:  # errors of the network, the Hub and its client share no class
        later = f"hf auth login; hf upload {name} {config.output_dir} . --exclude 'checkpoint-*/**' '.*'"
        raise RuntimeError(
            f"{config.output_dir} is complete, but was not uploaded to {name}: {error}\nUpload it later with: {later}"
        ) from error
    say(f"uploaded to {url}")
