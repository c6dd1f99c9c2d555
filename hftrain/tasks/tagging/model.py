"""What a tagging model remembers: its tags, and the windows that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hftrain.tasks.tagging.config import TaggingConfig


def model_settings(names: Sequence[str], config: TaggingConfig) -> dict[str, Any]:
    """The keys of the model's configuration that `hftrain predict` needs to give the same predictions."""
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "use_cache": False,
        "hftrain": {"windows": {"max_seq_length": config.max_seq_length, "doc_stride": config.doc_stride}},
    }
