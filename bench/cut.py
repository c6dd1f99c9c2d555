"""Fine-tuning a language model with adapters: a step at once, beside the cut that `fit` chooses by its measurement.

    python bench/cut.py --steps 4 --rounds 3       # 10 to 20 CPU seconds a step
    python bench/cut.py --quick                    # a few steps of a small model, to see that it runs

A Llama of the shape of SmolLM2-135M with LoRA of rank 8 (no dropout), 16 rows a step; lengths are drawn as those of
short instructions are (log-normal, median 52 tokens), the content is random: no time depends on it. The measurement is
made in the first round and read from the cache in the others. Rounds are those of `bench/rounds.py`; the memory is the
peak of the process, of which the weights are 0.5 GB and the libraries 0.3 GB.
"""

import contextlib
from functools import partial
from typing import Any

import numpy as np
import rounds  # first: it sets the threads
import torch
from rounds import Clock, Contestant

BATCH, LONG = 16, 1000  # rows a step; steps of the run that is broken off
SHAPE = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


class Enough(Exception):
    """All steps that are to be measured were taken."""


def train(steps: int, clock: Clock, **settings: Any) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from hftrain import Examples, causal_language_model
    from hftrain.text.causal import collate_causal
    from hftrain.train.trials import chunk_loss

    torch.manual_seed(0)
    adapters = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**SHAPE)), adapters)
    draw = np.random.default_rng(0)
    sizes = np.clip(np.exp(draw.normal(np.log(52), 0.5, 1000)).astype(int), 8, 256)
    rows = [{"input_ids": draw.integers(1, SHAPE["vocab_size"], size).tolist()} for size in sizes]

    def collate(rows: list[Any]) -> Any:
        batch = collate_causal(rows, pad_token_id=0)
        clock.see(sum(len(row["input_ids"]) for row in rows), batch["input_ids"].numel())
        return batch

    def ended(step: int, _: Any) -> None:
        if step == steps:
            raise Enough

    with contextlib.suppress(Enough):
        rounds.hftrain(
            clock, model, Examples(rows, sizes[:, None]), collate,
            causal_language_model(chunked=chunk_loss(model)), LONG, global_batch_size=BATCH, learning_rate=1e-3,
            train_sampling_strategy="random", ended=ended, **settings,
        )  # fmt: skip


CONTESTANTS: dict[str, Contestant] = {"at once": partial(train, micro_batch_size=BATCH), "chosen": train}


def main() -> None:
    args = rounds.parser_of(str(__doc__), CONTESTANTS).parse_args()
    if args.quick:
        SHAPE.update(SMALL, num_key_value_heads=2, vocab_size=500)
    numbers = rounds.compare(args, CONTESTANTS)
    if numbers is None:
        return
    print(rounds.table(numbers, "per_cpu_s", "useful tokens per CPU second", 0), "\n")
    print(rounds.table(numbers, "peak_mb", "peak memory, MB", 0))


if __name__ == "__main__":
    main()
