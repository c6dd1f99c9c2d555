"""Tiny models of random weights with real tokenizers, saved as pretrained ones are: the one place that makes them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import BertTokenizerFast, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from hftrain.text import train_tokenizer

SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def model(kind: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model of this class, say "BertForMaskedLM", of `SIZE` and 50 tokens but for `changes` of its configuration."""
    made = getattr(transformers, kind)
    torch.manual_seed(seed)
    return made(made.config_class(**SIZE | {"vocab_size": 50} | changes))


def wordpiece(folder: Path, words: Iterable[str], **options: Any) -> BertTokenizerFast:
    """Saves a tokenizer of BERT's kind that has these words, and returns it."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), **options)
    tokenizer.save_pretrained(folder)
    return tokenizer


def bert_folder(folder: Path, words: Iterable[str], kind: str = "BertModel", **changes: Any) -> Path:
    """Saves a BERT of this class with a tokenizer that has these words, for up to 64 tokens."""
    tokenizer = wordpiece(folder, words, model_max_length=64)
    model(kind, **{"vocab_size": len(tokenizer), "max_position_embeddings": 64} | changes).save_pretrained(folder)
    return folder


TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKS = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


def chat_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = train_tokenizer(["a few words of no weight", "some more words, and numbers: 1 2 3"] * 3, 320)
    tokenizer.add_tokens(MARKS, special_tokens=True)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def chat_folder(folder: Path, *, seed: int = 0, scale: float = 0.3, **changes: Any) -> Path:
    """Saves a Llama with tokenizer and chat template; its weights are so large that it prefers clearly."""
    tokenizer = chat_tokenizer()
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": scale}
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "max_position_embeddings": 512}
    ids["eos_token_id"] = tokenizer.convert_tokens_to_ids("<|end|>")
    model("LlamaForCausalLM", seed=seed, **shape | ids | changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def adapter_folder(base: Path, folder: Path, *, load: dict[str, Any] | None = None, **settings: Any) -> Path:
    """Saves a LoRA adapter whose weights are random, as after training, with the tokenizer beside it."""
    import peft

    adapted = LlamaForCausalLM.from_pretrained(base, **load or {})
    arguments = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    adapted = peft.get_peft_model(adapted, peft.LoraConfig(**arguments))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    return folder
