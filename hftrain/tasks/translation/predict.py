"""Text from text, by an encoder-decoder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from hftrain.models.fit import count_positions, longest_text
from hftrain.models.saved import ADAPTER, Saved, load, warn_of_cuts


def translate(saved: Saved, texts: list[str], batch_size: int, search: dict[str, int]) -> list[str]:
    """Translates each text into the language the model was saved for; empty texts stay empty.

    Texts longer than the model reads are cut; stderr shows how many.

    Args:
        search: `num_beams` and `max_new_tokens`, in place of those of the folder's generation_config.
    """
    from transformers import GenerationConfig

    from hftrain.data.examples import Examples
    from hftrain.tasks.translation import scoring
    from hftrain.train.evaluation import OneProcess

    folder = saved.folder
    model, tokenizer, device = load(saved, "AutoModelForSeq2SeqLM")
    if (folder / ADAPTER).is_file() and (folder / "generation_config.json").is_file():  # and not the base model's
        model.get_base_model().generation_config = GenerationConfig.from_pretrained(folder)

    most = longest_text(model, tokenizer)
    lengths = [len(ids) for ids in tokenizer(texts, verbose=False).input_ids] if texts else []
    warn_of_cuts(lengths, most)
    if not (model.generation_config.max_new_tokens or model.generation_config.max_length):
        longest = 2 * max(lengths, default=0) + 16  # transformers would stop after 20 tokens
        positions = count_positions(model)[0] or sys.maxsize
        search = {"max_new_tokens": min(longest, positions - 1), **search}
    filled = [i for i, text in enumerate(texts) if text]
    translations = [""] * len(texts)
    if not filled:
        return translations

    def collate(texts: Sequence[str]) -> dict[str, Any]:
        return dict(tokenizer(list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt"))

    examples = Examples([texts[i] for i in filled], [min(lengths[i], most) for i in filled])
    one = OneProcess(device)
    written = scoring.translate(one, model, tokenizer, examples, batch_size, collate=collate, **search)
    for i, text in zip(filled, written, strict=True):
        translations[i] = text
    return translations
