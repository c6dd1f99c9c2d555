"""What a saved model says of new texts: `hftrain predict`. The folder is loaded as anyone would load it."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ADAPTER = "adapter_config.json"


def predict(
    folder: str | Path,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    device: str | None = None,
    source_prefix: str = "",
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
) -> list[str]:
    """One prediction for each text, in the order of `texts`. What kind it is of, the model's configuration says.

    Args:
        folder: an output folder, a `checkpoint-N` in it, or what else `save_pretrained` wrote: a model or an adapter.
        batch_size: texts of similar length at a time.
        device: "cpu", "cuda:1", ...; None takes the accelerator if there is one.
        source_prefix: put before each text, as in training (T5).
        num_beams, max_new_tokens: of the search, where text is generated; None: as the folder's generation_config says.

    Raises:
        ValueError: there is no model in `folder`, or one of a kind that is not known here.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    config = read_config(Path(folder))
    if config.is_encoder_decoder:
        search = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        texts = [source_prefix + text if text.strip() else "" for text in texts]
        return translate(Path(folder), texts, batch_size, device, {k: v for k, v in search.items() if v is not None})
    kind = (config.architectures or [config.model_type])[0]
    raise ValueError(
        f"{folder} holds a {kind}: hftrain predict knows encoder-decoder models only. "
        "Load it with transformers' from_pretrained or pipeline."
    )


def read_config(folder: Path) -> Any:
    """The model's `PreTrainedConfig`; of an adapter, its base model's."""
    from transformers import AutoConfig

    import hftrain.models  # noqa: F401  registers our model types with the Auto classes

    if (folder / ADAPTER).is_file():
        from peft import PeftConfig

        return AutoConfig.from_pretrained(PeftConfig.from_pretrained(str(folder)).base_model_name_or_path)
    if not (folder / "config.json").is_file():
        raise ValueError(f"no model in {folder} (neither config.json nor {ADAPTER}): name the output folder of a run")
    return AutoConfig.from_pretrained(folder)


def translate(folder: Path, texts: list[str], batch_size: int, device: str | None, search: dict[str, int]) -> list[str]:
    """Generates from each text by an encoder-decoder, into the language it was saved for; empty texts stay empty.

    Texts longer than the model reads are cut, and how many they are is said on stderr.
    """
    import torch
    from rich.console import Console
    from rich.progress import track
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

    from hftrain.text import decode

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")  # not said to users
    device = device or str(torch.accelerator.current_accelerator() or "cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if (folder / ADAPTER).is_file():
        from peft import AutoPeftModelForSeq2SeqLM

        model = AutoPeftModelForSeq2SeqLM.from_pretrained(folder)
        if (folder / "generation_config.json").is_file():
            model.get_base_model().generation_config = GenerationConfig.from_pretrained(
                folder
            )  # and not the base model's
    else:
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    model = model.eval().to(device)

    positions = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    room = min(tokenizer.model_max_length, positions)
    whole = [len(ids) for ids in tokenizer(texts, verbose=False).input_ids] if texts else []
    if cut := sum(length > room for length in whole):
        print(f"{cut} of {len(texts)} texts are longer than the {room} tokens the model reads: cut", file=sys.stderr)

    if not (model.generation_config.max_new_tokens or model.generation_config.max_length):
        longest = min(2 * max(whole, default=0) + 16, positions - 1)  # transformers would stop after 20
        search = {"max_new_tokens": longest, **search}
    order = sorted((i for i, text in enumerate(texts) if text), key=lambda i: whole[i], reverse=True)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    found = [""] * len(texts)
    for batch in track(batches, "predicting", console=Console(stderr=True), transient=True, disable=len(batches) < 2):
        inputs = tokenizer(
            [texts[i] for i in batch], padding=True, truncation=True, max_length=room, return_tensors="pt"
        ).to(device)
        with torch.no_grad():
            output = model.generate(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **search)
        for i, text in zip(batch, decode(tokenizer, output), strict=True):
            found[i] = text
    return found
