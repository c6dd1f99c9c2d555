"""Small chat models as folders, for tests: a Llama of random weights with a tokenizer and a template."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from hftrain.text import train_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKS = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


def make_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = train_tokenizer(["a few words of no weight", "some more words, and numbers: 1 2 3"] * 3, 320)
    tokenizer.add_tokens(MARKS, special_tokens=True)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_folder(folder: Path, *, seed: int = 0, scale: float = 0.3, **changes) -> Path:
    """Saves a model with the tokenizer; weights large enough that its opinions are clear."""
    tokenizer = make_tokenizer()
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": scale}
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "max_position_embeddings": 512}
    ids["eos_token_id"] = tokenizer.convert_tokens_to_ids("<|end|>")
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**shape | ids | changes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, *, load: dict | None = None, **settings) -> Path:
    """Saves a LoRA adapter whose weights are random, as after training, with the tokenizer beside it."""
    import peft

    model = LlamaForCausalLM.from_pretrained(base, **load or {})
    arguments = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    model = peft.get_peft_model(model, peft.LoraConfig(**arguments))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
