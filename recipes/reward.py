"""Reward: a model that gives a conversation a number, learnt from which of two answers people prefer (Bradley-Terry).

    accelerate launch recipes/reward.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \\
        --train_file pairs.jsonl --use_peft

Rows are pairs as recipes/preference.py reads them: prompt, chosen, rejected, each text or messages, and so on. The
model is one for sequence classification with one label, whose logit is the reward. Accuracy is the share of held-out
pairs whose chosen answer gets the higher reward.
"""

from functools import partial
from typing import Any

from hftrain import run
from hftrain.tasks.preference import RewardConfig


def main(config: RewardConfig) -> dict[str, Any]:
    from transformers import AutoModelForSequenceClassification

    from hftrain.models import load
    from hftrain.report import publish
    from hftrain.tasks import chat, preference
    from hftrain.train.loop import fit, start

    accelerator = start(config)
    template = chat.Template(load.load_tokenizer(config), config.chat_template, config.new_tokens)
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        rows = preference.load_preferences(config, seed=config.seed)
        examples = {name: preference.tokenize_preferences(split, template, config) for name, split in rows.items()}

    model = load.load_model(config, AutoModelForSequenceClassification, settings={"num_labels": 1})
    chat.fit_model(model, template, config.max_length)
    model = load.add_adapters(model, config, "SEQ_CLS", new_tokens=template.new_ids)
    collate = partial(preference.collate_preferences, pad_token_id=template.tokenizer.pad_token_id)

    def evaluate(model: Any, split: str = "validation") -> dict[str, float]:
        return preference.evaluate_rewards(accelerator, model, examples[split], config.eval_batch_size, collate)

    model, results = fit(
        accelerator, model, examples["train"], config, collate=collate, evaluate=evaluate,
        loss=preference.reward_loss(config.center_rewards_coefficient),
        processor=template.tokenizer, held_out=examples,
    )  # fmt: skip
    report = preference.summarize_rewards(config, rows, examples, evaluate(model, "test"))
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, RewardConfig)
