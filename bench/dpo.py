"""Useful tokens per CPU second of DPO with LoRA and all settings left out, beside TRL's DPOTrainer.

    python bench/dpo.py --together          # five rounds, in one process
    python bench/dpo.py --quick             # a few steps, to see that it runs

The Llama of `bench/language.py` with LoRA of rank 8; 8 pairs a step, whose prompts have 8 to 60 tokens (log-normal,
median 20) and whose answers differ in length as those of chat models do (4 to 60 tokens, median 20). The same optimizer
and beta. TRL passes the reference model in each step, hftrain once before the first: this pass is counted as a share of
each step. The held-out loss is the mean of DPO's on pairs that nothing trains on, ln 2 at the start. TRL's defaults
recompute activations, which hftrain's do not. Rounds are those of `bench/rounds.py`.
"""

import tempfile
import time
from functools import partial
from typing import Any

import rounds  # first: it sets the threads
from language import RATE, SMALL, counted, make_model, tokenizer, train_by_trl, trl_settings
from padding import sizes, tokens
from rounds import Clock, Contestant

PAIRS, LONGEST, BETA, END = 8, 60, 0.1, 2  # pairs a step; tokens of a prompt or an answer; of DPO; the end token


def pairs(steps: int, seed: int = 0) -> list[dict[str, list[int]]]:
    import numpy as np

    draw, count = np.random.default_rng(seed), steps * PAIRS
    lengths = [sizes(count, draw, LONGEST).tolist() for _ in range(3)]
    rows = []
    for prompt, chosen, rejected in zip(*lengths, strict=True):
        worse = draw.integers(1, 1000, rejected).tolist()  # random, where the chosen one can be predicted
        rows.append({"prompt": tokens(prompt, draw), "chosen": [*tokens(chosen, draw), END], "rejected": [*worse, END]})
    return rows


def length(row: dict[str, list[int]]) -> int:
    """Tokens of both sequences of a pair."""
    return 2 * len(row["prompt"]) + len(row["chosen"]) + len(row["rejected"])


def examples_of(rows: list[dict[str, list[int]]]) -> Any:
    """As hftrain tokenizes them."""
    from datasets import Dataset

    from hftrain import Examples
    from hftrain.losses import IGNORE

    examples = []
    for row in rows:
        example = {}
        for side, answer in (("first", row["chosen"]), ("second", row["rejected"])):
            example[f"{side}_input_ids"] = [*row["prompt"], *answer]
            example[f"{side}_labels"] = [IGNORE] * len(row["prompt"]) + answer
        examples.append(example)
    columns = ("first_input_ids", "second_input_ids")
    return Examples(Dataset.from_list(examples), [[len(example[column]) for column in columns] for example in examples])


def config_of(folder: str, **settings: Any) -> Any:
    from hftrain.tasks.preference import PreferenceRecipeConfig

    return PreferenceRecipeConfig(
        model_name_or_path="none", train_file=["none"], output_dir=folder, beta=BETA, use_peft=True, **settings
    )


def held_out(model: Any) -> float:
    """The mean loss of DPO, with the model without its adapters as the reference."""
    from accelerate import Accelerator

    from hftrain.tasks import preference
    from hftrain.tasks.preference.examples import collate_preferences

    accelerator, batch = Accelerator(cpu=True), collate_preferences(examples_of(pairs(8, seed=1))[:], pad_token_id=0)
    with tempfile.TemporaryDirectory() as folder:
        loss = preference.preference_loss(accelerator, config_of(folder, precompute_ref_log_probs=False))
        return float(loss.summed(model, batch)) / loss.count(batch)


def by_trl(steps: int, clock: Clock) -> None:
    from datasets import Dataset
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from trl import DPOConfig, DPOTrainer

    words = tokenizer()
    words.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    rows = [{side: f" {' '.join(map(str, ids))}" for side, ids in row.items()} for row in pairs(steps)]
    model = make_model(SMALL, adapted=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(folder, beta=BETA, **trl_settings(clock, steps, PAIRS))
        data = Dataset.from_list(rows)
        train_by_trl(clock, DPOTrainer(model, args=arguments, train_dataset=data, processing_class=words))
    clock.loss = rounds.held_out_loss(model, held_out)


def by_hftrain(steps: int, clock: Clock) -> None:
    from accelerate import Accelerator

    from hftrain.tasks import preference
    from hftrain.tasks.preference.examples import collate_preferences

    rows, model = pairs(steps), make_model(SMALL, adapted=True)
    collate = partial(collate_preferences, pad_token_id=0)

    with tempfile.TemporaryDirectory() as folder:
        config, accelerator = config_of(folder), Accelerator(cpu=True)
        began = time.process_time()
        references = preference.add_references(accelerator, model, {"train": examples_of(rows)}, config, collate)
        clock.extra = (time.process_time() - began) / steps
        loss = preference.preference_loss(accelerator, config)
    settings = {"global_batch_size": PAIRS, "learning_rate": RATE}
    rounds.hftrain(
        clock,
        model,
        references["train"],
        lambda rows: counted(clock, collate(rows)),
        loss,
        steps,
        score=held_out,
        **settings,
    )


CONTESTANTS: dict[str, Contestant] = {"dpo: TRL": by_trl, "dpo: hftrain": by_hftrain}


def main() -> None:
    parser = rounds.parser_of(str(__doc__), CONTESTANTS)
    parser.set_defaults(steps=60)
    args = parser.parse_args()
    numbers = rounds.compare(args, CONTESTANTS)
    if numbers is None:
        return
    print(rounds.table(numbers, "per_cpu_s", "useful tokens per CPU second", 0))
    print("\n| aim | | measured | |\n|---|---|---|---|")
    both = numbers.keys() >= CONTESTANTS.keys()
    value = rounds.ratio(numbers, "per_cpu_s", "dpo: hftrain", "dpo: TRL") if both else None
    print(rounds.judge("dpo: hftrain / dpo: TRL", value, 1.3))


if __name__ == "__main__":
    main()
