"""What the report of a pretrained model shows: perplexity, bits per byte, continuations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from hftrain import text
from hftrain.data.examples import Examples
from hftrain.data.packing import Packed
from hftrain.data.tokens import TokenFiles
from hftrain.metrics import perplexity
from hftrain.metrics.guesses import unigram_guess
from hftrain.metrics.intervals import Interval
from hftrain.report import Report
from hftrain.tasks.pretraining.config import PretrainConfig, PretrainingConfig, PretrainMlmConfig
from hftrain.tasks.pretraining.denoising import AUTO
from hftrain.train.evaluation import predict

if TYPE_CHECKING:
    from hftrain.losses import Batch


def readings(loss: float, examples: Examples, files: TokenFiles) -> dict[str, float]:
    """A causal model's mean loss in nats, its perplexity per token, and bits per byte of the documents' UTF-8.

    Bits per byte compares models with different tokenizers: the loss of all tokens (with end tokens, without the first
    of each document, which is never predicted) over all bytes.
    """
    sequences = len(examples.packs.members) if isinstance(examples, Packed) else len(examples)
    predicted = int(examples.lengths.sum()) - sequences
    size = sum(shard["bytes"] for shard in files.shards)
    return perplexity.readings(loss) | {"bits_per_byte": loss * predicted / math.log(2) / size}


def judge(
    training: Sequence[Any],
    validation: Sequence[Any],
    vocabulary: int,
    tested: tuple[float, Interval | None],
    read: Callable[[float], Mapping[str, float]],
) -> dict[str, Any]:
    """`baseline` and `intervals` for `publish`. The baseline guesses each token by its frequency in the training
    examples.

    Args:
        tested: the loss of the validation examples and its interval.
        read: a loss -> the scores that follow from it.
    """
    guess = unigram_guess(training, validation, vocabulary)
    return {
        "baseline": {f"eval_{name}": value for name, value in guess.items()},
        "intervals": perplexity.intervals(tested[1], read, "eval_"),
    }


def describe(files: dict[str, TokenFiles], examples: dict[str, Any]) -> dict[str, Any]:
    """The table of each split: documents, tokens, bytes, examples, padding and pieces."""

    def describe_split(documents: TokenFiles, blocks: Any) -> dict[str, Any]:
        return {
            "documents": len(documents),
            **_by_source(documents),
            "tokens": documents.tokens,
            "bytes of text": sum(shard["bytes"] for shard in documents.shards),
            "examples": len(blocks),
            "padding, were all as long as the longest may be": f"{100 * blocks.padding:.2f} %",
            "pieces of longer documents": getattr(blocks, "examples", blocks).pieces,
            "fingerprint": documents.fingerprint[:16],
        }

    return {name: describe_split(files[name], examples[name]) for name in files}


def _by_source(documents: TokenFiles) -> dict[str, int]:
    if len(documents.sources) < 2:
        return {}
    return {f"documents of {name}": end - first for name, (first, end) in documents.sources.items()}


def continuations(
    accelerator: Accelerator,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    files: TokenFiles,
    tokens: int,
    length: int,
) -> list[dict[str, str]]:
    """The model's continuations of the beginnings (16 tokens) of eight documents, or of eight places in one: `tokens`
    tokens, sampled at temperature 0.8 from the 200 most probable, at most `length` tokens in all."""
    module, start = accelerator.unwrap_model(model).eval(), min(16, length // 2)
    places = files.edges[:-1][:8] if len(files) >= 8 else np.linspace(0, max(0, files.tokens - start), 8).astype(int)
    prompts = [files.read(int(place), min(int(place) + start, files.tokens)).astype(np.int64) for place in places]

    def generate(batch: Batch) -> list[str]:
        read = batch["input_ids"].shape[1]
        ids = module.generate(
            **batch,
            do_sample=True,
            temperature=0.8,
            top_k=min(200, len(tokenizer)),
            max_new_tokens=min(tokens, length - read),
            pad_token_id=tokenizer.pad_token_id,
        )
        return text.decode(tokenizer, ids[:, read:])

    def collate(rows: Sequence[Any]) -> Any:
        ids = text.pad(rows, 0)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    if not tokens:
        return []
    beginnings = Examples(prompts, [len(prompt) for prompt in prompts])
    written = predict(accelerator, beginnings, 1, collate=collate, generate=generate)
    starts = text.decode(tokenizer, [prompt.tolist() for prompt in prompts])
    return [
        {"prompt": begun, "continuation": continuation} for begun, continuation in zip(starts, written, strict=True)
    ]


GENERATE = """inputs = tokenizer("Once", return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=30, do_sample=True)[0]))"""
FILL_IN = {
    "masked_tokens": """from transformers import pipeline

print(pipeline("fill-mask", model=model, tokenizer=tokenizer)(f"To be, or not to {tokenizer.mask_token}."))""",
    "span_corruption": """ids = tokenizer("To be<extra_id_0> to be.", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=20)[0]))""",
}


def usage(config: PretrainingConfig, auto_class: str, example: str) -> str:
    """Python code that loads the trained model and uses it; `example` is its last line."""
    folder = config.hub_model_id or config.output_dir
    own_code = any(Path(config.output_dir).glob("*.py"))
    trust = ", trust_remote_code=True" if own_code else ""
    return f"""from transformers import {auto_class}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({folder!r}{trust})
model = {auto_class}.from_pretrained({folder!r}{trust})
{example}"""


def summarize(
    config: PretrainConfig,
    files: dict[str, TokenFiles],
    examples: dict[str, Any],
    samples: Sequence[dict[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    tested: tuple[float, Interval | None],
) -> Report:
    """What the report of a causal language model shows. `tested`: as in `judge`."""

    def read(loss: float) -> dict[str, float]:
        return readings(loss, examples["validation"], files["validation"])

    return Report(
        split="validation",
        title="Causal language model",
        task="text-generation",
        metric="perplexity",
        usage=usage(config, "AutoModelForCausalLM", GENERATE),
        data=describe(files, examples),
        samples=samples,
        **judge(examples["train"], examples["validation"], len(tokenizer), tested, read),
    )


def summarize_denoising(
    config: PretrainMlmConfig,
    files: dict[str, TokenFiles],
    examples: dict[str, Any],
    noised: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    tested: tuple[float, Interval | None],
) -> Report:
    """What the report of a denoising model shows. `noised`: `examples` after the noise; `tested`: as in `judge`."""
    masked = config.objective == "masked_tokens"
    return Report(
        split="validation",
        title="Masked language model" if masked else "Span-filling encoder-decoder",
        task="fill-mask" if masked else "text2text-generation",
        metric="perplexity",
        usage=usage(config, AUTO[config.objective].__name__, FILL_IN[config.objective]),
        data=describe(files, examples),
        **judge(noised["train"], noised["validation"], len(tokenizer), tested, perplexity.readings),
    )
