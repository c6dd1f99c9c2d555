"""Folders as earlier versions wrote them."""

import json
import shutil
from pathlib import Path


def without_the_key(folder: Path, copy: Path) -> Path:
    """A copy of an output folder whose config.json has each of the settings for `hftrain predict` as a key of its own,
    as version 0.1.0 wrote them."""
    shutil.copytree(folder, copy)
    config = json.loads((folder / "config.json").read_text())
    remembered = config.pop("hftrain")
    assert remembered and not remembered.keys() & config.keys()
    (copy / "config.json").write_text(json.dumps(config | remembered))
    return copy
