"""What a setting is where the user sets none: a function of the data and the model. docs/defaults.md tells why.

`choose` gives what decides the result, `cadence` how often a run evaluates, saves and logs. Both are pure: the same
`Known` and the same given settings give the same choices, which `fit` writes into the configuration and the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from hftrain.config.fields import TrainConfig

Task = Literal["understanding", "places", "speech", "translation", "chat", "preference", "reward", "pretraining"]
LABELLED = ("understanding", "places", "speech")  # tasks that learn labels, places in an image, or a text
NEW_RATES = {  # of models that begin from random weights, where it does not depend on their size
    "understanding": (1e-3, "a new model"),
    "places": (2e-3, "a new model that finds places in images"),
    "speech": (3e-3, "a new model of speech"),
}
BY_TOKENS = ("translation", "pretraining")  # tasks whose step is counted in tokens
BY_METRIC = "what the task is scored by; of equals, the lower loss"
LARGEST_STEP = 16384  # tokens of a step that are chosen at most
ENOUGH_TO_CHOOSE = 100  # validation rows: by fewer, an accuracy of 90 % is known to +-6 points or worse
LIMITS = {  # lowest and highest learning rate that is chosen at the usual batch
    "new": (1e-4, 4e-3),
    "new translator": (1e-4, 2e-3),
    "adapters": (1e-4, 2e-3),
    "encoder": (1e-5, 2e-4),
    "decoder": (5e-6, 1e-4),
}
RULES = {
    "global_batch_size": "more for more examples",
    "global_batch_tokens": "a share of the training tokens",
    "num_train_epochs": "more on fewer data, so that there are enough updates",
    "learning_rate": "lower for larger models; times the root of a batch of one's own / the usual one",
    "lr_scheduler_type": "by the task",
    "warmup_steps": "by the task",
    "metric_for_best_model": "the task's metric",
    "load_best_model_at_end": "true where the validation set can tell checkpoints apart",
    "eval_steps": "a few times in a short run, ten times in a long one",
    "save_steps": "as often as evaluations",
    "logging_steps": "about a hundred lines",
}


@dataclass(frozen=True)
class Known:
    """What the choice depends on.

    Args:
        tokens: of one epoch, without padding.
        parameters: of the base model, adapters aside.
        new: the model is trained from scratch.
        longest: tokens of the longest example.
        packs: of how many packs a step chooses, where several examples share one; None: examples are not packed.
        metric: what the best model is chosen by.
        validation: examples that it is computed from; None: not known.
    """

    task: Task
    examples: int
    tokens: int = 0
    parameters: int = 0
    new: bool = False
    adapters: bool = False
    longest: int = 1
    packs: int | None = None
    metric: str = "loss"
    validation: int | None = None

    def __str__(self) -> str:
        size = f"{self.tokens:,} tokens" if self.task in BY_TOKENS else _number_of(self)
        kind = "new" if self.new else "pretrained"
        number = f"{self.parameters:,}" if self.parameters < 1e5 else f"{self.parameters / 1e6:,.3g}M"
        number = f"{self.parameters / 1e9:,.3g}B" if self.parameters >= 1e9 else number
        return f"{size} and {number} {kind} parameters" + (" with adapters" if self.adapters else "")


class Choice(NamedTuple):
    value: Any
    reason: str


def choose(known: Known, given: Mapping[str, Any]) -> dict[str, Choice]:
    """Batch, length, learning rate and the metric of the best model, as far as they are not in `given`."""
    choices: dict[str, Choice] = {}
    unit = "global_batch_tokens" if known.task in BY_TOKENS else "global_batch_size"
    usual = usual_batch(known)
    if not given.keys() & {"global_batch_size", "global_batch_tokens"}:
        choices[unit] = usual
    batch = batch_in_unit(known, given, unit) or usual.value
    if not given.keys() & {"num_train_epochs", "max_steps"}:
        choices["num_train_epochs"] = epochs(known, batch)
    rate, reason = usual_rate(known)
    factor = min(4.0, max(0.25, math.sqrt(batch / usual.value)))
    if factor != 1:
        reason += f", times {factor:.2g}, the root of the batch / the usual one of {usual.value:,}"
    named = "new" if known.new else "adapters" if known.adapters else "whole"
    schedule = "linear" if known.task in LABELLED and not known.new else "cosine"
    warmup = 0.1 if known.task in (*LABELLED, "reward") else 0.05
    room = 1 - _share(given.get("decay_steps", 0.0)) if given.get("lr_scheduler_type") == "warmup_stable_decay" else 1
    others = {
        "learning_rate": Choice(_rounded(rate * factor), reason),
        "lr_scheduler_type": Choice(schedule, f"usual for {known.task}, {named} models"),
        "warmup_steps": Choice(round(min(warmup, max(0.0, room)), 6), "share of the steps"),
        "metric_for_best_model": Choice(known.metric, BY_METRIC),
        "load_best_model_at_end": keeps_best(known, given),
    }
    return choices | {name: choice for name, choice in others.items() if name not in given}


def cadence(steps: int, given: Mapping[str, Any]) -> dict[str, Choice]:
    """How often a run of `steps` evaluates, saves and logs, as far as that is not in `given`.

    Where `fit` measures that evaluating or saving takes more than a tenth of the run, it does either less often."""
    times = 3 if steps < 100 else 5 if steps < 1000 else 10
    every = math.ceil(steps / times)
    reason = f"{times} times in {steps:,} steps, less often if it takes over a tenth of the time"
    lines = max(1, min(10, steps // 20), steps // 1000)
    choices = {
        "eval_steps": Choice(every, reason),
        "save_steps": Choice(every, reason),
        "logging_steps": Choice(lines, f"about {steps // lines:,} lines, the first and last step among them"),
    }
    return {name: choice for name, choice in choices.items() if name not in given}


def stretched(every: int, seconds: float, run_seconds: float, steps: int) -> int:
    """`every`, or the multiple of it with which something that takes `seconds` takes a tenth of the run."""
    times = math.ceil(steps / every * seconds / (0.1 * max(run_seconds, 1e-9)))
    return min(every * max(1, times), max(every, steps))


def usual_batch(known: Known) -> Choice:
    """Examples, or tokens, of a step. On little data small steps win: it is updates that are missing."""
    if known.task in BY_TOKENS:
        parts, least, most = (500, 512, 8192) if known.task == "translation" else (150, 512, LARGEST_STEP)
        size = 2 ** round(math.log2(max(1, known.tokens / parts)))
        size = max(least, min(most, size), 2 ** math.ceil(math.log2(2 * known.longest)))  # no example is cut in two
        return Choice(size, f"about 1/{parts} of {known.tokens:,} tokens, from {least:,} to {most:,}")
    small, large = {"chat": (1000, 10_000), **dict.fromkeys(LABELLED, (2000, 20_000))}.get(known.task, (1000, None))
    if known.task in LABELLED and known.new:
        size = 16 if known.examples < small else 32
    else:
        size = 8 if known.examples < small else 16 if large is None or known.examples < large else 32
    if known.packs is not None:  # as many examples in a step as without packs
        size = max(1, round(size * known.packs / max(1, known.examples)))
    return Choice(size, _number_of(known))


def batch_in_unit(known: Known, given: Mapping[str, Any], unit: str) -> float | None:
    """The batch that the user sets, in examples or tokens as the task counts; None if he sets none."""
    mean = max(1.0, known.tokens / max(1, known.examples if known.packs is None else known.packs))
    size, tokens = given.get("global_batch_size"), given.get("global_batch_tokens")
    if unit == "global_batch_tokens":
        return tokens if size is None else size * mean
    return size if tokens is None else tokens / mean


def epochs(known: Known, batch: float) -> Choice:
    """Passes over the data: as many updates as teach something on little data, within limits."""
    task, one = known.task, max(1, known.tokens if known.task in BY_TOKENS else known.examples)
    if task == "pretraining":
        number = float(min(10, max(1, math.ceil(1e6 / one))))
        return Choice(number, "one from a million tokens on, up to ten below")
    if task == "chat":
        number = 3.0 if one < 5000 else 2.0 if one < 50_000 else 1.0
        return Choice(number, f"{one:,} examples")
    if task in ("preference", "reward"):
        return Choice(3.0 if one < 1000 else 1.0, f"{one:,} examples")
    if task == "translation":
        updates, least, most = (1500, 3, 60) if known.new else (1500, 2, 10)
    else:
        updates, least, most = (800 if task == "places" else 1500, 5, 40) if known.new else (400, 3, 40)
    number = float(min(most, max(least, math.ceil(updates * batch / one))))
    return Choice(number, f"towards {updates:,} updates, from {least} to {most} epochs")


def usual_rate(known: Known) -> Choice:
    """The peak learning rate at the usual batch: lower for larger models."""
    if known.task == "preference":
        return Choice(2e-5, "preferences, adapters") if known.adapters else Choice(1e-6, "preferences, a whole model")
    if known.new and known.task in LABELLED:
        return Choice(*NEW_RATES[known.task])
    if known.new:
        kind, rate, size, power = "new", 2e-3, 5e6, 0.35
        kind = "new translator" if known.task == "translation" else kind
    elif known.adapters:
        kind, rate, size, power = "adapters", 1e-3, 135e6, 0.4
    elif known.task in ("chat", "pretraining"):
        kind, rate, size, power = "decoder", 2e-5, 1e9, 0.4
    else:
        kind, rate, size, power = "encoder", 1e-4, 23e6, 0.7
    low, high = LIMITS[kind]
    value = min(high, max(low, rate * (size / max(1, known.parameters)) ** power))
    what = "adapters on a model" if known.adapters else "a new model" if known.new else "a pretrained model"
    return Choice(_rounded(value), f"{what} of {known.parameters:,} parameters")


def keeps_best(known: Known, given: Mapping[str, Any]) -> Choice:
    """Whether the best checkpoint is kept, or the last. A share of few rows takes few values and picks by luck; a loss
    does not, since each checkpoint is asked about the same rows."""
    if given.keys() & {"metric_for_best_model", "early_stopping_patience"}:
        return Choice(True, "what it is chosen by is set")
    if known.metric.removeprefix("eval_") in ("loss", "perplexity"):
        return Choice(True, f"a {known.metric} tells checkpoints apart on few examples too")
    if known.validation is None or known.validation >= ENOUGH_TO_CHOOSE:
        return Choice(True, f"by {known.metric}")
    few = f"{known.validation:,} validation examples, under {ENOUGH_TO_CHOOSE}, cannot tell checkpoints apart by"
    return Choice(False, f"{few} {known.metric}: the last is kept")


def open_settings(config: TrainConfig) -> list[str]:
    """The settings of `config` that are still to be chosen."""
    unit = "global_batch_tokens" if config.task_family in BY_TOKENS else "global_batch_size"
    given = _given(config)
    filled = {unit} if given.keys() & {"global_batch_size", "global_batch_tokens"} else set()
    filled |= {"num_train_epochs"} if "max_steps" in given else set()
    other = {"global_batch_size", "global_batch_tokens"} - {unit}
    return [name for name in RULES if name not in given.keys() | filled | other]


def fill(config: TrainConfig, known: Known, pinned: Mapping[str, Any]) -> None:
    """Chooses the open settings of `config` but those of `cadence`; what is in `pinned` is not chosen anew."""
    config.chosen_for = str(known)
    still_open = {*open_settings(config), *config.chosen}
    if "num_train_epochs" in still_open:
        still_open.add("max_steps")
    for name, value in pinned.items():
        if name in still_open:
            setattr(config, name, None)  # a recipe may have chosen it already
            config.choose(name, value, "as the checkpoint has it")
    given = _given(config)
    if "metric_for_best_model" in config.chosen:  # by the recipe, which knows the metrics; not by the user
        del given["metric_for_best_model"]
    _fill(config, choose(known, given))


def fill_cadence(config: TrainConfig, steps: int) -> None:
    """Chooses how often a run of `steps` evaluates, saves and logs."""
    _fill(config, cadence(steps, _given(config)))


def describe(config: TrainConfig) -> list[str]:
    """What was chosen for `config`, and why, a line each."""
    if not config.chosen:
        return []
    lines = [f"  {name} {choice.value}: {choice.reason}" for name, choice in config.chosen.items()]
    return [f"chosen for {config.chosen_for} (set one to choose otherwise):", *lines]


def _number_of(known: Known) -> str:
    packs = "" if known.packs is None else f" in {known.packs:,} packs"
    return f"{known.examples:,} examples{packs}"


def _given(config: TrainConfig) -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if value is not None}


def _fill(config: TrainConfig, choices: Mapping[str, Choice]) -> None:
    for name, choice in choices.items():
        config.choose(name, *choice)


def _share(value: float) -> float:
    return value if value < 1 else 0.0


def _rounded(value: float) -> float:
    """To two digits: more would look like knowledge."""
    return float(f"{value:.1e}")
