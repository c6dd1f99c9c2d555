"""Merges adapters into their weights and converts models to another precision; the result is read back from the disk
and compared with the trained model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hftrain.data.files import staged
from hftrain.data.sealed import seal
from hftrain.models.adapters import four_bits, load_adapted, load_base
from hftrain.models.load import DTYPES
from hftrain.models.saved import ADAPTER, kind, read_config
from hftrain.models.trust import refusing_code
from hftrain.models.weights import naming_damage
from hftrain.report import carry_model_card
from hftrain.train import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "ForCausalLM": "AutoModelForCausalLM",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
}
PROMPTS = (
    "The capital of France is",
    "Write a short poem about the sea.",
    "def quicksort(items):\n    if len(items) < 2:\n        return items\n",
    "Rewrite this sentence in the passive voice: The dog chased the cat.",
    "1, 1, 2, 3, 5, 8, 13,",
    "Übersetze ins Englische: Der Zug kommt heute etwas später an.",
    "Q: A train leaves at 9:40 and arrives at 11:15. How long does it take?\nA:",
    '{"name": "Ada Lovelace", "born": 1815, "known_for": [',
)
# Limits for rounding of weights: 100 times the value of SmolLM2-135M. A wrong merge exceeds them by far.
MAX_KL = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


class NotTheSame(ValueError):
    """The written model differs from the trained model."""


class Parity(NamedTuple):
    """The difference of two models' outputs over all positions of some prompts."""

    max_difference: float  # maximum over all logits
    mean_kl: float  # KL(first || second) of the distributions, in nats
    top1_agreement: float  # share of positions with the same most probable class

    def __str__(self) -> str:
        return (
            f"max |dlogit| {self.max_difference:.2g}, mean KL {self.mean_kl:.2g}, "
            f"top-1 agreement {100 * self.top1_agreement:.2f} %"
        )


def compare(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> Parity:
    """The comparison of logits (T, V) of each prompt. A single number, such as a reward, counts as the logit of yes."""
    a, b = torch.cat(list(first)).double(), torch.cat(list(second)).double()
    if a.shape[-1] == 1:
        a, b = (torch.nn.functional.pad(logits, (0, 1)) for logits in (a, b))
    kl = (a.softmax(-1) * (a.log_softmax(-1) - b.log_softmax(-1))).sum(-1)
    return Parity(float((a - b).abs().max()), float(kl.mean()), float((a.argmax(-1) == b.argmax(-1)).double().mean()))


@torch.no_grad()
def logits_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[torch.Tensor]:
    """(T, V) fp32 on the CPU for each prompt, a chat if the tokenizer has a template; (1, V) for a classifier."""
    logits_of_prompts = []
    for prompt in prompts:
        if tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}]
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        else:
            ids = tokenizer(prompt)["input_ids"]
        inputs = {"input_ids": torch.tensor([ids], device=model.device)}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        output = model(**inputs)
        if "logits" in output:
            logits = output.logits
        else:  # the first and last token of an answer: one independent number per token
            logits = torch.stack([output.start_logits, output.end_logits]).unsqueeze(-1)
        logits_of_prompts.append(logits.float().cpu().flatten(0, -2))
    return logits_of_prompts


def merge(
    folder: str | Path,
    output: str | Path,
    *,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
    prompts: Sequence[str] = PROMPTS,
    max_kl: float | None = None,
    load_in_4bit: bool | None = None,
    device: str | None = None,
    base: str | None = None,
    trust_remote_code: bool = False,
) -> Parity:
    """Writes the model of `folder`, with its adapter merged into the weights if it is one, to `output`.

    The model is loaded and merged in fp32; a base in 4 bits is dequantized. The written model is read back, and its
    logits, computed in fp32, are compared with those of the trained model.

    Args:
        folder: an output folder, or any folder of `save_pretrained`.
        dtype: format of the written weights, for instance "bfloat16"; None: the base model's.
        max_shard_size: maximum size of one file.
        prompts: texts to compare on.
        max_kl: the allowed mean KL divergence; None: `MAX_KL` for `dtype`.
        base: the base model of an adapter, if it differs from the one that the adapter names.
        load_in_4bit: whether the base was in 4 bits; None: as in the run's checkpoints.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        NotTheSame: the models differ by more than allowed; the written files are deleted.
        ValueError: `output` exists already, or the model cannot read texts.
    """
    folder, output = Path(folder), Path(output)
    load_in_4bit = trained_in_4bit(folder) if load_in_4bit is None else load_in_4bit
    if output.exists():
        raise ValueError(f"{output} exists already: choose another --output, or delete it")
    config = read_config(folder, base, trust_remote_code=trust_remote_code)
    name = kind(folder, config)
    auto_class = next((auto for ending, auto in AUTO_CLASSES.items() if name.endswith(ending)), None)
    if auto_class is None or not (
        trust_remote_code or type(config) in getattr(transformers, auto_class)._model_mapping
    ):
        raise ValueError(f"{folder} contains a {name}, which cannot be compared on texts: merge it with peft")
    adapter, auto = (folder / ADAPTER).is_file(), getattr(transformers, auto_class)
    trust: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    with refusing_code(folder), naming_damage(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    device = device or str(torch.accelerator.current_accelerator() or "cpu")
    quantized: dict[str, Any] = {"quantization_config": four_bits("float32")} if adapter and load_in_4bit else {}
    with refusing_code(folder):
        if adapter:
            model = load_adapted(folder, auto, base_name=base, dtype=torch.float32, **trust, **quantized)
        else:
            with naming_damage(folder):
                model = auto.from_pretrained(folder, dtype=torch.float32, **trust)
    before = logits_of(model.eval().to(device), tokenizer, prompts)
    if quantized:  # a separate base, without adapters in it
        plain = load_base(folder, auto, base, dtype=torch.float32, **trust, **quantized)
        model = load_adapted(folder, auto, plain.dequantize().to(torch.float32), **trust)
    if adapter:
        model = merged(model)
    stored: Any = DTYPES[dtype] if dtype else config.dtype or torch.float32
    with staged(output) as stage:
        model.to(stored).save_pretrained(stage, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(stage)
        del model
        again = auto.from_pretrained(stage, dtype=torch.float32, **trust)
        parity = compare(before, logits_of(again.eval().to(device), tokenizer, prompts))
        rounded = torch.bfloat16 if quantized else stored  # in bf16 bitsandbytes multiplies on GPUs, in fp32 runs too
        allowed = max(MAX_KL[stored], MAX_KL[rounded]) if max_kl is None else max_kl
        if not parity.mean_kl <= allowed:
            raise NotTheSame(
                f"the written model is not the model that was trained: {parity}, but a mean KL of only "
                f"{allowed:.2g} is allowed (max_kl). It was deleted"
            )
        became = "The adapter is merged into the weights" if adapter else "The weights are converted"
        changed = f"{became}, as {str(stored).removeprefix('torch.')}."
        note = f"{changed} Compared with the model that has these scores: {parity}."
        try:
            carry_model_card(folder, stage, place=output, auto_class=auto_class, note=note)
        except Exception as error:  # the card may have been edited in any way; it is not worth losing the model
            warnings.warn(f"the card {folder / 'README.md'} is not carried over: {error}", stacklevel=2)
        seal(stage)
    return parity


def merged(model: Any) -> Any:
    """The base model of a `PeftModel` with the adapter in its weights. If input and output embeddings are one matrix
    and the adapter makes them differ, they become two."""
    base = model.get_base_model()
    settings = base.config.get_text_config()
    inputs, outputs = base.get_input_embeddings(), base.get_output_embeddings()
    tied = outputs is not None and settings.tie_word_embeddings
    if tied:
        shared = {id(parameter) for parameter in inputs.parameters()}
        for module in outputs.modules():  # the layer itself, or the one inside an adapter
            weight = module._parameters.get("weight")
            if id(weight) in shared:
                module.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that they are no longer tied
        model = model.merge_and_unload(safe_merge=True)
    if tied:
        inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
        settings.tie_word_embeddings = torch.equal(inputs.weight, outputs.weight)
        if settings.tie_word_embeddings:
            model.tie_weights()
    return model


def trained_in_4bit(folder: Path) -> bool:
    """Whether the base was loaded in 4 bits, by the run's newest checkpoint."""
    saved = checkpoint.checkpoints(folder)
    return bool(saved) and "quantization_config" in checkpoint.read(saved[-1]).contract.get("model", {})
