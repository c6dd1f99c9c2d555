"""The built-in data set `cldr`: the same date, time, interval or relative time in two languages.

The rows are generated from the Unicode Common Locale Data Repository with the Babel package, offline and
unlimited. The task is narrow: a model that masters it writes dates well and translates nothing else.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import babel
from babel import Locale, UnknownLocaleError, dates, localedata

from hftrain.data.files import cache, make_once

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

# CLDR uses several kinds of space that no keyboard has; both languages get the plain one.
PLAIN_SPACES = str.maketrans(dict.fromkeys("\u00a0\u202f\u2009", " "))

FIRST_DAY = date(1900, 1, 1).toordinal()
LAST_DAY = date(2099, 12, 31).toordinal()
SECONDS = dict(dates.TIMEDELTA_UNITS)  # second, minute, hour, day, week, month (30 days), year (365 days)


class Family(NamedTuple):
    """A kind of value and the ways to write it: each `form(value, locale=...)` returns a text."""

    weight: int
    draw: Callable[[Random], Any]
    forms: list[Callable[..., str]]


def load(source_locale: str, target_locale: str, **sizes: int) -> dict[str, Rows]:
    """The rows of `generate`. They are generated once for a version of Babel, which takes longer than the imports of
    torch, and cached."""
    from datasets import Dataset

    from hftrain.data.rows import Rows

    key = f"{babel.__version__} {source_locale} {target_locale} {sizes} {Path(__file__).read_text()}"
    folder = cache() / "cldr" / hashlib.sha256(key.encode()).hexdigest()

    def make(stage: Path) -> None:
        rows = generate(source_locale, target_locale, **sizes)
        (stage / "rows.json").write_text(json.dumps({split: part.data.to_dict() for split, part in rows.items()}))

    make_once(folder, make)
    columns = json.loads((folder / "rows.json").read_text())
    return {split: Rows(Dataset.from_dict(part), split=split) for split, part in columns.items()}


def generate(
    source_locale: str = "en",
    target_locale: str = "de",
    *,
    train: int = 24_000,
    validation: int = 500,
    test: int = 500,
    seed: int = 0,
) -> dict[str, Rows]:
    """Rows {"source", "target"}: the same moment in two languages; the same rows for a seed and a Babel version.

        No source has two targets or is in two splits: values that only the source locale writes alike ("May 5, 2024" is
    both the long and the medium form) are left out. No-break and thin spaces become plain spaces.

        Args:
            source_locale, target_locale: any that Babel knows: "en", "de", "pt-BR", "zh_Hant".
            train, validation, test: rows of each split.

        Returns:
            {"train", "validation", "test"}.

        Raises:
            ValueError: the locale is unknown (the error names the nearest), both are equal, or the pair has fewer rows.
    """
    from datasets import Dataset

    from hftrain.data.rows import Rows

    source, target = _locale(source_locale), _locale(target_locale)
    if source == target:
        raise ValueError(f"source and target locale are both {source_locale!r}")
    families = _families()
    weights = [family.weight for family in families]
    random = Random(seed)
    wanted = test + validation + train
    targets: dict[str, str] = {}
    ambiguous: set[str] = set()
    for _ in range(2 * wanted):
        family = random.choices(families, weights)[0]
        value = family.draw(random)
        # Write the value in every form, to find forms that look alike in the source; two of the pairs are used.
        pairs_of_value = [
            pair for form in family.forms if all(pair := (_say(form, value, source), _say(form, value, target)))
        ]
        chosen = random.sample(pairs_of_value, min(2, len(pairs_of_value)))
        for text, translation in pairs_of_value:
            others = {other for same, other in pairs_of_value if same == text}
            if len(others) > 1 or targets.get(text, translation) != translation:
                ambiguous.add(text)
                targets.pop(text, None)
            elif (text, translation) in chosen and text not in ambiguous:
                targets[text] = translation
        if len(targets) >= wanted:
            break
    else:
        raise ValueError(
            f"{source_locale} to {target_locale} has only {len(targets)} rows, fewer than the {wanted} asked for"
        )

    pairs = list(targets.items())[:wanted]
    bounds = {"train": (test + validation, wanted), "validation": (test, test + validation), "test": (0, test)}
    return {
        split: Rows(
            Dataset.from_dict(dict(zip(("source", "target"), zip(*pairs[first:last], strict=True), strict=True))),
            split=split,
        )
        for split, (first, last) in bounds.items()
    }


def _locale(name: str) -> Locale:
    try:
        return Locale.parse(name.replace("-", "_"))
    except (ValueError, UnknownLocaleError):
        near = difflib.get_close_matches(name.replace("-", "_"), localedata.locale_identifiers(), n=3)
        hint = f"; similar: {', '.join(near)}" if near else ""
        raise ValueError(f"Babel has no locale {name!r}{hint}") from None


def _say(form: Callable[..., str], value: object, locale: Locale) -> str:
    try:
        return form(value, locale=locale).translate(PLAIN_SPACES)
    except (KeyError, NotImplementedError):  # some locales lack a form, and Babel lacks some fields
        return ""


def _families() -> list[Family]:
    def skeleton(name: str) -> Callable[..., str]:
        return lambda day, locale: dates.format_skeleton(name, day, locale=locale)

    def interval(name: str) -> Callable[..., str]:
        return lambda ends, locale: dates.format_interval(ends[0], ends[1], name, locale=locale)

    def relative(**how: Any) -> Callable[..., str]:
        return lambda when, locale: dates.format_timedelta(
            when[0], granularity=when[1], threshold=10**9, locale=locale, **how
        )

    def forms(function: Callable[..., str], names: Iterable[str]) -> list[Callable[..., str]]:
        return [partial(function, format=name) for name in names]

    dated = [skeleton(name) for name in ("yMMMEd", "MMMMd", "MMMEd", "yMMMM", "yQQQQ", "yw")]
    return [
        Family(5, _day, forms(dates.format_date, ("full", "long", "medium", "short")) + dated),
        Family(2, _moment, forms(dates.format_datetime, ("medium", "short"))),
        Family(1, _moment, forms(dates.format_time, ("medium", "short"))),
        Family(3, _days, [interval(name) for name in ("yMMMd", "yMMMEd", "MMMd", "yMMMM")]),
        Family(1, _hours, [interval("Hm")]),
        Family(2, _distance, [relative(add_direction=True), relative(add_direction=True, format="short"), relative()]),
    ]


def _day(random: Random) -> date:
    return date.fromordinal(random.randint(FIRST_DAY, LAST_DAY))


def _moment(random: Random) -> datetime:
    return datetime.combine(_day(random), datetime.min.time()) + timedelta(seconds=random.randrange(86_400))


def _days(random: Random) -> tuple[date, date]:
    first = _day(random)
    return first, first + timedelta(days=random.randint(1, 90))


def _hours(random: Random) -> tuple[datetime, datetime]:
    start, end = sorted(random.sample(range(24 * 60), 2))
    return datetime(2000, 1, 1, start // 60, start % 60), datetime(2000, 1, 1, end // 60, end % 60)


def _distance(random: Random) -> tuple[timedelta, str]:
    unit = random.choice(sorted(SECONDS))
    return timedelta(seconds=random.choice((-1, 1)) * random.randint(1, 99) * SECONDS[unit]), unit
