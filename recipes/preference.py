"""Preference: teach a chat model which of two answers people prefer (DPO, IPO, SimPO, ORPO), or which are good (KTO).

    accelerate launch recipes/preference.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \\
        --train_file pairs.jsonl --use_peft
    accelerate launch recipes/preference.py ... --loss_type kto          # {"prompt", "completion", "label"}

Rows are prompt, chosen, rejected, each text or messages; chosen and rejected that begin alike (dialogues in one text
too); OpenAI's input, preferred_output, non_preferred_output; and for KTO prompt, completion, label. Reward accuracy,
margin and the answers' log-probabilities on held-out pairs are in the log and the report.

Seen: DPO on SmolLM2-135M-Instruct with LoRA, 6 steps of 4 short pairs: reward accuracy 83.3 % of 24 test pairs (a
guess: 50 %), in 2.3 minutes of one CPU thread, loading and the reference's pass included; 0.938 after 24 steps of 8
pairs. docs/log.md: "What a recipe reaches, and how long it takes", "DPO on SmolLM2-135M-Instruct".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import chat, preference
from hftrain.tasks.preference import PreferenceRecipeConfig


def main(config: PreferenceRecipeConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import fit, publish, start

    accelerator = start(config)
    unpaired = config.loss_type == "kto"  # single answers, good or bad, in place of pairs
    template = chat.load_template(config)
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        rows = preference.load_preferences(config, seed=config.seed, unpaired=unpaired)
        examples = {
            split: preference.tokenize_preferences(rows[split], template, config, unpaired=unpaired) for split in rows
        }
    model = preference.load_policy(config, template)
    collate = preference.collator(template)
    examples = preference.add_references(accelerator, model, examples, config, collate)  # by the untrained model
    reference_point = preference.ReferencePoint(accelerator, config) if unpaired else None

    def evaluate(model: Any, split: str = "validation") -> dict[str, float]:
        return preference.evaluate_preferences(
            accelerator, model, examples[split], config.eval_batch_size, config, collate
        )

    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=preference.preference_loss(accelerator, config, reference_point),
        evaluate=evaluate,
        before_step=reference_point.measure if reference_point else None,  # KTO needs a mean over the whole step
        processor=template.tokenizer,
        held_out=examples,
    )
    report = preference.summarize_preferences(config, rows, examples, evaluate(model, "test"))
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, PreferenceRecipeConfig)
