"""Reward: a model that gives a conversation a number, learnt from which of two answers people prefer (Bradley-Terry).

    accelerate launch recipes/reward.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \\
        --train_file pairs.jsonl --use_peft

Rows are pairs as recipes/preference.py reads them: prompt, chosen, rejected, each text or messages, and so on. The
model is one for sequence classification with one label, whose logit is the reward. Accuracy is the share of held-out
pairs whose chosen answer gets the higher reward.

Seen: 79.2 % of 48 test pairs right (a guess: 50 %) after 12 steps of 16 pairs with MiniLM as the model, in 39 seconds
of one CPU thread, loading and scoring included. docs/log.md: "What a recipe reaches, and how long it takes".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import chat, preference
from hftrain.tasks.preference import RewardConfig


def main(config: RewardConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import fit, publish, start

    accelerator = start(config)
    template = chat.load_template(config)
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        rows = preference.load_preferences(config, seed=config.seed)
        examples = {split: preference.tokenize_preferences(rows[split], template, config) for split in rows}
    model = preference.load_reward_model(config, template)
    collate = preference.collator(template)

    def evaluate(model: Any, split: str = "validation") -> dict[str, float]:
        return preference.evaluate_rewards(accelerator, model, examples[split], config.eval_batch_size, collate)

    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=preference.reward_loss(config.center_rewards_coefficient),
        evaluate=evaluate,
        processor=template.tokenizer,
        held_out=examples,
    )
    report = preference.summarize_rewards(config, rows, examples, evaluate(model, "test"))
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, RewardConfig)
