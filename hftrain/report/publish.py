"""The end of a recipe: everything about the run that people read, in the output folder and, if asked, on the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


@explain_disk(
    "the model stands, but its scores, report or card were not written",
    "Make room, or mend the folder, and run again with --resume_from_checkpoint auto: it only scores and reports",
)
def publish(
    accelerator: Accelerator,
    config: TrainConfig,
    results: Mapping[str, Any],
    *,
    title: str,
    task: str,
    usage: str,
    metric: str,
    dataset: str,
    data: Mapping[str, Any],
    split: str = "test",
    lead: str = "",
    samples: Sequence[Mapping[str, Any]] = (),
    figures: Sequence[Figure] = (),
    tables: Sequence[Table] = (),
    language: Sequence[str] = (),
    base_model: str | None = None,
    dataset_ids: Sequence[str] = (),
    baseline: Mapping[str, float] | None = None,
    intervals: Mapping[str, Interval] | None = None,
    remarks: Sequence[str] = (),
) -> None:
    """Writes `all_results.json`, `run.json`, `report.html` and the model card `README.md`; prints the score and where
    they are.

    Every process calls; the main one writes. Arguments are those of `write_report` and `write_model_card`.

    Args:
        results: what `fit` returned and the test metrics ("test_*"), the first of which are the headline.
        split: "validation" where there is no test: then "eval_*" are the scores.
        metric: the key in `results` that is the score.
        figures: charts for the report, the main ones first: the card shows four.
        baseline: keys of `results` -> the score of a guess that looks at no input. A loss that is no better is said.
        intervals: keys of `results` -> its 95 % interval.
        remarks: sentences on what the scores hide.
    """
    baseline, intervals = baseline or {}, intervals or {}
    accelerator.log(
        {key: value for key, value in results.items() if key.startswith("test_")}, step=results["total_steps"]
    )
    for tracker in accelerator.trackers:
        tracker.finish()
    if not accelerator.is_main_process:
        return
    folder = Path(config.output_dir)
    if not folder.is_dir():
        tests = {key: value for key, value in results.items() if key.startswith("test_")}
        raise ValueError(
            f"{folder} was deleted or renamed after the model was written to it. Give it its name back and run again "
            f"with --resume_from_checkpoint auto. The scores: {tests}"
        )
    prefix = {"test": "test_", "validation": "eval_"}[split]
    scores = {key.removeprefix(prefix): value for key, value in results.items() if key.startswith(prefix)}
    first = [metric.removeprefix(prefix), *(key for key in scores if key != "loss"), "loss"]
    numbers = {key: scores[key] for key in first if isinstance(scores.get(key), int | float)}
    data = {**data, **{f"training examples: {name}": value for name, value in read_seen(folder).items()}}
    shared: dict[str, Any] = {"title": title, "lead": lead, "data": data, "samples": samples}
    shared |= {"config": asdict(config), "changed": changed(config), "environment": environment(accelerator)}
    shared |= {"chosen": config.chosen}
    history = read_history(folder / "metrics.jsonl")
    start = next((row for row in history if row["step"] == 0), {})
    remarks = [*verdict(results, baseline, intervals, start), *remarks]
    evidence = {"baseline": baseline, "intervals": intervals, "remarks": remarks}
    write_results(folder, {**results, **{name: value for name, value in evidence.items() if value}})
    run = {"task": task, "metric": metric, "base_model": base_model}
    write_run(folder, run | {name: shared[name] for name in ("title", "config", "data", "environment")})
    scored = {key: format_score(key, value, intervals.get(prefix + key), task) for key, value in numbers.items()}
    guessed = {
        key: format_score(key, baseline[prefix + key], None, task) for key in numbers if prefix + key in baseline
    }
    tiles: dict[str, Any] = {f"{split} {key}".replace("_", " "): scored[key] for key in numbers}
    beside = {f"{split} {key}".replace("_", " "): f"constant guess: {value}" for key, value in guessed.items()}
    tiles |= {"steps": results["total_steps"], "tokens/s, all in": results["train_tokens_per_second"]}
    tiles |= {"training": format_duration(results["train_runtime"])}
    losses = [row["loss"] for row in history if row.get("loss") is not None]
    tiles |= {"training loss, last": losses[-1]} if losses else {}
    about = [f"trained from {base_model}" if base_model else "trained from scratch"]
    if "parameters" in results:
        share = results["trained_parameters"] / results["parameters"]
        about += [f"{results['parameters']:,} parameters" + (f", {share:.2%} of them trained" if share < 1 else "")]
    write_report(folder, **shared, about=about, summary=tiles, history=history, figures=figures, tables=tables,
                 beside=beside, remarks=remarks)  # fmt: skip
    write_model_card(
        folder,
        **shared,
        figures=figures,
        task=task,
        usage=usage,
        results=numbers,
        scored=scored,
        guessed=guessed,
        remarks=remarks,
        dataset=dataset,
        split=split,
        dataset_ids=dataset_ids,
        language=language,
        base_model=base_model,
        adapter=(folder / "adapter_config.json").exists(),
    )
    for sample in samples[:3]:
        say(visible("\n".join(f"  {name:<11} {value}" for name, value in sample.items())) + "\n")
    for key in numbers:
        rival = f", a constant guess has {guessed[key]}" if key in guessed else ""
        say(visible(f"{prefix}{key}: {scored[key]}{rival}"))
    for remark in remarks:
        say(visible(f"note: {remark}"))
    say(f"model, report and card: {folder}  (open {folder / 'report.html'})")
    if config.push_to_hub:
        upload(config)


def upload(config: TrainConfig) -> None:
    """Puts the output folder on the Hub, without checkpoints.

    Raises:
        RuntimeError: the Hub cannot be reached or does not let us; with the command that uploads later.
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
    except Exception as error:  # of the network, of the Hub or of its client: they have no class in common
        later = f"hf auth login; hf upload {name} {config.output_dir} . --exclude 'checkpoint-*/**' '.*'"
        raise RuntimeError(
            f"{config.output_dir} is complete, but was not uploaded to {name}: {error}\nLater: {later}"
        ) from error
    say(f"uploaded to {url}")
