"""Tiny models of random weights with real tokenizers, saved as pretrained ones are: the one place that makes them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from transformers import BertTokenizerFast, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from hftrain.text import train_tokenizer

SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}

THREE_STEPS: dict[str, Any] = {  # the settings of a recipe that trains for three steps
    "global_batch_size": 6,
    "micro_batch_size": 6,
    "dataloader_num_workers": 0,
    "learning_rate": 3e-3,
    "max_steps": 3,
    "logging_steps": 1,
    "seed": 3,
}


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


def learn_pieces(folder: Path, name: str, texts: list[str], **options: Any) -> dict[str, int]:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / name),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.model"))
    (folder / f"{name}.vocab").unlink()
    return {model.id_to_piece(number): number for number in range(model.get_piece_size())}


def translator(kind: str, folder: Path, pairs: list[tuple[str, str]]) -> Path:
    """Saves a "marian", "t5", "nllb", "mbart" or "mbart50", with a tokenizer that was learnt from pairs of texts."""
    folder.mkdir()
    texts = [text for pair in pairs for text in pair]
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    size |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    if kind == "marian":
        words = learn_pieces(folder, "source", texts[::2]) | learn_pieces(folder, "target", texts[1::2])
        vocabulary = ["</s>", "<unk>", *sorted(words.keys() - {"</s>", "<unk>", "<s>"}), "<pad>"]
        (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(vocabulary)}))
        files = [str((folder / f"{side}.model").rename(folder / f"{side}.spm")) for side in ("source", "target")]
        tokenizer = transformers.MarianTokenizer(*files, str(folder / "vocab.json"))
        last = len(vocabulary) - 1
        ids = {"pad_token_id": last, "eos_token_id": 0, "decoder_start_token_id": last, "forced_eos_token_id": 0}
        config = transformers.MarianConfig(vocab_size=len(vocabulary), **ids, **size)
    elif kind == "t5":
        learn_pieces(folder, "spiece", texts, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
        tokenizer = transformers.T5Tokenizer.from_pretrained(folder, extra_ids=5)
        config = transformers.T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    elif kind == "nllb":
        learn_pieces(folder, "sentencepiece.bpe", texts, model_type="bpe")
        learnt = transformers.NllbTokenizer.from_pretrained(folder).backend_tokenizer.to_str()
        (folder / "sentencepiece.bpe.model").unlink()
        pieces = json.loads(learnt)["model"]
        tokenizer = transformers.NllbTokenizer(vocab=pieces["vocab"], merges=list(map(tuple, pieces["merges"])))
        config = transformers.M2M100Config(vocab_size=len(tokenizer), **size)
    else:  # mBART ends a text in its language, mBART-50 begins it with it
        learn_pieces(folder, "sentencepiece.bpe", texts)
        names = {"mbart": transformers.MBartTokenizer, "mbart50": transformers.MBart50Tokenizer}
        tokenizer = names[kind].from_pretrained(folder)
        first = {"decoder_start_token_id": 2} if kind == "mbart50" else {}
        config = transformers.MBartConfig(vocab_size=len(tokenizer) + 1, **first, **size)
    torch.manual_seed(0)
    transformers.AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
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


PLANTED = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({marker!r}).write_text("this code has run")


class PlantedConfig(LlamaConfig):
    model_type = "planted"


class PlantedModel(LlamaForCausalLM):
    config_class = PlantedConfig


class PlantedTokenizer(PreTrainedTokenizerFast):
    pass
"""


def plant(folder: Path, marker: Path) -> Path:
    """Makes the model in `folder` one that needs the Python beside it, which writes `marker`."""
    (folder / "planted.py").write_text(PLANTED.format(marker=str(marker)))
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "planted", "architectures": ["PlantedModelForCausalLM"]}
        classes = ("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModelForSeq2SeqLM")
        classes += ("AutoModelForTokenClassification", "AutoModelForQuestionAnswering", "AutoModelForMaskedLM")
        config["auto_map"] = dict.fromkeys(classes, "planted.PlantedModel") | {"AutoConfig": "planted.PlantedConfig"}
        (folder / "config.json").write_text(json.dumps(config))
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"tokenizer_class": "PlantedTokenizer"}
    settings["auto_map"] = {"AutoTokenizer": [None, "planted.PlantedTokenizer"]}
    file.write_text(json.dumps(settings))
    return folder
