"""The contract: JSON values of the caller that must be equal for two starts to be the same run."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hftrain.config.nested import flatten_json


def check_contract(
    saved: Mapping[str, Any], current: Mapping[str, Any], allow: Iterable[str], optional: Collection[str] = ()
) -> list[str]:
    """Compares two contracts; returns a line for each difference that `allow` lets through.

    Nested keys are joined with dots ("model.d_ff"; "model" allows all of them). Numbers are compared as text: 1 is not
    1.0, and 0.1 + 0.2 is not 0.3.

    Args:
        optional: keys that are compared only if both contracts have them, since an older version did not record them;
            one more line names those that the saved contract lacks.

    Raises:
        ValueError: there are other differences (the message has both values), or a name in `allow` is not a key.
    """
    before, now, allow = flatten_json(saved), flatten_json(current), set(allow)
    known = {parent for key in {**before, **now} for parent in _parents(key)}
    for name in allow - known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise ValueError(f"--resume_allow {name}: no such key; did you mean {nearest[0]}?")
    changed = differences(saved, current, optional)
    refused = [key for key in changed if not _parents(key) & allow]
    if refused:
        lines = "\n".join(f"  {changed[key]}" for key in refused)
        names = ",".join([*sorted(allow), *refused])
        if any(key.endswith("_data") for key in refused):
            lines += (
                "\n  (a fingerprint of data changes with the files, their content, their @weights and #limits, "
                "and with what makes tokens of them)"
            )
        raise ValueError(
            f"not the run that was saved:\n{lines}\nSet them back, or continue with --resume_allow {names}"
        )
    lines_allowed = [f"--resume_allow accepts {line}" for line in changed.values()]
    missing = [key for key in current if key in optional and key not in saved]
    if missing:
        shown = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        lines_allowed.append(f"not compared, since this checkpoint does not record them: {shown}")
    return lines_allowed


def differences(saved: Mapping[str, Any], current: Mapping[str, Any], optional: Collection[str] = ()) -> dict[str, str]:
    """A line with both values for each key that differs; see `check_contract`."""
    both = [key for key in {**saved, **current} if key not in optional or (key in saved and key in current)]
    before, now = (flatten_json({key: side[key] for key in both if key in side}) for side in (saved, current))
    return {
        key: f"{key}: {before.get(key, 'absent')} when saved, {now.get(key, 'absent')} now"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    }


def _parents(key: str) -> set[str]:
    """'a.b.c' -> {'a', 'a.b', 'a.b.c'}."""
    return {key, *(key[: dot.start()] for dot in re.finditer(r"\.", key))}
