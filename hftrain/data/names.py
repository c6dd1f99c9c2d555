"""Names of classes that are spelt alike but treated as different classes."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping

logger = logging.getLogger(__name__)

SHOWN = 20


def alike(names: Mapping[str, int]) -> list[list[str]]:
    """Groups of names that differ only in case, blanks, invisible characters or Unicode form, the most frequent name
    first."""
    groups: dict[str, list[str]] = {}
    for name in names:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        key = "".join(letter for letter in folded if not letter.isspace() and unicodedata.category(letter) != "Cf")
        groups.setdefault(key, []).append(name)
    return [sorted(group, key=lambda name: (-names[name], name)) for group in groups.values() if len(group) > 1]


def report_names(
    counts: Mapping[str, int], what: str, setting: str, everywhere: Mapping[str, int] | None = None
) -> None:
    """Logs the names with their counts, and those that are spelt alike.

    Args:
        counts: name -> occurrences in the training rows.
        what: the kind of names, "classes".
        setting: the place where the user finds them, "column 'label'".
        everywhere: the counts in all rows, used to find names that are alike; None: the counts in the training rows.
    """
    frequent = sorted(counts, key=lambda name: (-counts[name], name))
    listed = ", ".join(f"{name} {counts[name]:,}" for name in frequent[:SHOWN])
    more = f" and {len(frequent) - SHOWN:,} more" if len(frequent) > SHOWN else ""
    logger.warning("%s of the training rows: %s%s", what, listed, more)
    counts = everywhere or counts
    for group in alike(counts):
        listed = " and ".join(f"{name!r} ({counts[name]:,})" for name in group)
        logger.warning(
            "%s differ only in case, blanks, invisible characters or Unicode form, but are different classes: to join "
            "them, write %r everywhere in %s",
            *(listed, group[0], setting),
        )
