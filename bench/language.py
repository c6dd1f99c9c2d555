"""Useful tokens per CPU second of language models with all settings left out, beside Trainer and TRL.

    python bench/language.py --together            # five rounds of everything, in one process
    python bench/language.py --quick               # a few steps, to see that it runs

The same model, documents, optimizer and tokens of a step; one thread; tokens are counted without padding. Documents
have 8 to 100 tokens (log-normal, median 20), as captions have. The held-out loss is that of other documents.

    causal      a Llama of 4 layers, width 256, 512 tokens a step: Trainer with padding, Trainer with the text as one
                string that is cut every 128 tokens, where documents see one another, and packs of `pretrain`
    sft         the same with LoRA of rank 8 on all layers: TRL's SFTTrainer by default and with packing, `chat` by
                default and with packing
    memory      sft with the vocabulary and the width of SmolLM2-135M, 4 of its layers; only without --together: the
                memory is that of the process, and what training adds to it

Rounds are those of `bench/rounds.py`. TRL's defaults recompute activations, which hftrain's do not.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import rounds  # first: it sets the threads
import torch
from padding import VOCABULARY, score, sizes, tokens
from rounds import Clock, Contestant
from torch import nn

RATE, ROOM, STEP = 1e-3, 128, 512
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4}
LARGE = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def make_model(size: dict[str, int], adapted: bool = False) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=4, **special, **size))
    return adapt(model) if adapted else model


def adapt(model: nn.Module) -> nn.Module:
    import peft

    return peft.get_peft_model(model, peft.LoraConfig(**LORA))


def documents(steps: int, seed: int = 0) -> Any:
    """At least as many tokens as `steps` need."""
    import numpy as np
    from datasets import Dataset

    draw = np.random.default_rng(seed)
    lengths = sizes(steps * STEP // 20, draw, 100)
    return Dataset.from_dict({"input_ids": [tokens(length, draw) for length in lengths]})


def per_step(rows: Any) -> int:
    """Rows that have as many tokens as a step should see."""
    return round(STEP * len(rows) / sum(map(len, rows["input_ids"])))


def watched(clock: Clock, collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    """`collate` that counts the tokens of the rows and those of the batch."""

    def collated(rows: list[Any]) -> Any:
        batch = collate(rows)
        clock.see(sum(len(row["input_ids"]) for row in rows), batch["input_ids"].numel())
        return batch

    return collated


def padded(rows: list[Any]) -> dict[str, torch.Tensor]:
    from hftrain.text.causal import collate_causal

    return collate_causal(rows, pad_token_id=0)


def held_out(model: nn.Module) -> float:
    """The mean loss of documents that no contestant trains on."""
    from hftrain import causal_language_model

    return score(causal_language_model(), documents(4, seed=1), padded, model)


def by_trainer(steps: int, clock: Clock, joined: bool = False) -> None:
    from datasets import Dataset

    rows = documents(steps)
    if joined:
        ids = [token for row in rows["input_ids"] for token in row]
        rows = Dataset.from_dict({"input_ids": [ids[i : i + ROOM] for i in range(0, len(ids) - ROOM, ROOM)]})
    settings = {"per_device_train_batch_size": per_step(rows), "learning_rate": RATE}
    rounds.trainer(clock, make_model(SMALL), rows, watched(clock, padded), steps, score=held_out, **settings)


def by_trl(steps: int, clock: Clock, packing: bool = False, size: dict[str, int] = SMALL) -> None:
    from trl import SFTConfig, SFTTrainer

    rows = documents(steps)
    batch = STEP // ROOM if packing else per_step(rows)
    model = make_model(size, adapted=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(folder, packing=packing, max_length=ROOM, **trl_settings(clock, steps, batch))
        train_by_trl(clock, SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer()))
    clock.loss = rounds.held_out_loss(model, held_out)


def trl_settings(clock: Clock, steps: int, batch: int) -> dict[str, Any]:
    """Settings that all trainers of TRL have here: those of the other contestants, and nothing is written."""
    settings = {"max_steps": steps, "per_device_train_batch_size": batch, "learning_rate": RATE, "seed": clock.seed}
    return settings | {"save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False}


def train_by_trl(clock: Clock, trainer: Any) -> None:
    """Trains by one of TRL's trainers; the tokens of its batches are counted."""
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: counted(clock, collate(rows))
    trainer.add_callback(rounds.ticking(clock))
    clock.begin()
    trainer.train()


def counted(clock: Clock, batch: Any) -> Any:
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    clock.see(int(mask.sum()) if mask is not None else ids.numel(), ids.numel())
    return batch


def tokenizer() -> Any:
    """Of words 0 ... 999, which nothing is tokenized with: TRL wants one."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({str(number): number for number in range(VOCABULARY)}, unk_token="1")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="0", eos_token="2", unk_token="1")


def by_hftrain(steps: int, clock: Clock, adapted: bool, packing: bool, size: dict[str, int] = SMALL) -> None:
    from hftrain import Examples, causal_language_model, text
    from hftrain.data.packing import Packed, pack
    from hftrain.text.causal import collate_causal, in_blocks
    from hftrain.train.trials import attend_in_blocks, check_packing, chunk_loss

    rows = documents(steps)
    lengths, model = text.list_lengths(rows, ["input_ids"]), make_model(size)
    examples = Examples(rows, lengths)
    settings = {"global_batch_size": STEP // ROOM if packing else per_step(rows), "learning_rate": RATE}
    if packing:
        check_packing(model, int(lengths.max()))
        attend_in_blocks(model)
        examples = Packed(examples, pack(lengths, ROOM))
    if adapted:
        model = adapt(model)
    loss = causal_language_model(chunked=chunk_loss(model))
    collate = watched(clock, partial(collate_causal, pad_token_id=0, blocks=in_blocks(model)))
    rounds.hftrain(clock, model, examples, collate, loss, steps, score=held_out, **settings)


CONTESTANTS: dict[str, Contestant] = {
    "causal: Trainer": by_trainer,
    "causal: Trainer, concatenated": partial(by_trainer, joined=True),
    "causal: hftrain": partial(by_hftrain, adapted=False, packing=True),
    "sft: TRL": by_trl,
    "sft: TRL, packing": partial(by_trl, packing=True),
    "sft: hftrain": partial(by_hftrain, adapted=True, packing=False),
    "sft: hftrain, packing": partial(by_hftrain, adapted=True, packing=True),
    "memory: TRL": partial(by_trl, size=LARGE),
    "memory: hftrain": partial(by_hftrain, adapted=True, packing=False, size=LARGE),
}
AIMS = [
    ("causal: hftrain", "causal: Trainer", 2.0),
    ("causal: hftrain", "causal: Trainer, concatenated", 1.1),
    ("sft: hftrain", "sft: TRL", 1.5),
    ("sft: hftrain, packing", "sft: TRL, packing", 1.4),
]


def main() -> None:
    parser = rounds.parser_of(str(__doc__), CONTESTANTS)
    parser.set_defaults(steps=60, contestants=[name for name in CONTESTANTS if not name.startswith("memory")])
    args = parser.parse_args()
    numbers = rounds.compare(args, CONTESTANTS)
    if numbers is None:
        return
    for work in ("causal", "sft"):
        mine = {name: rows for name, rows in numbers.items() if name.startswith(work)}
        if mine:
            print(rounds.table(mine, "per_cpu_s", "useful tokens per CPU second", 0), "\n")
    mine = {name: rows for name, rows in numbers.items() if name.startswith("memory")}
    for key, unit in (("peak_mb", "MB at the peak"), ("training_mb", "MB that training adds")):
        if mine:
            print(rounds.table(mine, key, unit, 0), "\n")
    print("| aim | | measured | |\n|---|---|---|---|")
    for name, base, aim in AIMS:
        value = rounds.ratio(numbers, "per_cpu_s", name, base) if {name, base} <= numbers.keys() else None
        print(rounds.judge(f"{name} / {base}", value, aim))
    both = {"memory: hftrain", "memory: TRL"} <= numbers.keys()
    value = rounds.ratio(numbers, "training_mb", "memory: hftrain", "memory: TRL") if both else None
    print(rounds.judge("sft: what training adds to the memory, hftrain / TRL", value, 0.6, at_most=True))


if __name__ == "__main__":
    main()
