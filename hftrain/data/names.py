"""Names of classes that are spelt alike, and are told apart all the same."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping

logger = logging.getLogger(__name__)

SHOWN = 20


def alike(names: Mapping[str, int]) -> list[list[str]]:
    """Names that differ only in case, blanks or Unicode form, together; the most frequent of each first."""
    groups: dict[str, list[str]] = {}
    for name in names:
        key = "".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split())
        groups.setdefault(key, []).append(name)
    return [sorted(group, key=lambda name: (-names[name], name)) for group in groups.values() if len(group) > 1]


def report_names(
    counts: Mapping[str, int], what: str, setting: str, everywhere: Mapping[str, int] | None = None
) -> None:
    """Logs the names with their counts, and those that are alike.

    Args:
        counts: name -> how often it stands in the training rows.
        what: they are, "classes".
        setting: where the user finds them, "column 'label'".
        everywhere: the counts in all rows, where names are looked at for being alike; None: those of the training rows.
    """
    frequent = sorted(counts, key=lambda name: (-counts[name], name))
    listed = ", ".join(f"{name} {counts[name]:,}" for name in frequent[:SHOWN])
    more = f" and {len(frequent) - SHOWN:,} more" if len(frequent) > SHOWN else ""
    logger.warning("%s of the training rows: %s%s", what, listed, more)
    counts = everywhere or counts
    for group in alike(counts):
        listed = " and ".join(f"{name!r} ({counts[name]:,})" for name in group)
        logger.warning(
            "%s differ only in case, blanks or Unicode form, and are told apart: if one class is meant, write %r "
            "everywhere in %s",
            *(listed, group[0], setting),
        )
