"""Preference: teach a chat model which of two answers people prefer (DPO, IPO, SimPO, ORPO), or which are good (KTO).

    accelerate launch recipes/preference.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \\
        --train_file pairs.jsonl --use_peft
    accelerate launch recipes/preference.py ... --loss_type kto          # {"prompt", "completion", "label"}

Rows are prompt, chosen, rejected, each text or messages; chosen and rejected that begin alike (dialogues in one text
too); OpenAI's input, preferred_output, non_preferred_output; and for KTO prompt, completion, label. Reward accuracy,
margin and the answers' log-probabilities on held-out pairs are in the log and the report.
"""

from functools import partial
from typing import Any

from hftrain import run
from hftrain.tasks.preference import PreferenceRecipeConfig


def main(config: PreferenceRecipeConfig) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    from hftrain.models import load
    from hftrain.report import publish
    from hftrain.tasks import chat, preference
    from hftrain.train.inspect import inspecting
    from hftrain.train.loop import fit, start

    accelerator, unpaired = start(config), config.loss_type == "kto"
    template = chat.Template(load.load_tokenizer(config), config.chat_template, config.new_tokens)
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        rows = preference.load_preferences(config, seed=config.seed, unpaired=unpaired)
        tokenize = partial(preference.tokenize_preferences, template=template, config=config, unpaired=unpaired)
        examples = {name: tokenize(split) for name, split in rows.items()}
    data = preference.describe(rows, examples)

    model = load.load_model(config, AutoModelForCausalLM)
    chat.fit_model(model, template, config.max_length)
    model = load.add_adapters(model, config, "CAUSAL_LM", new_tokens=template.new_ids)
    collate = partial(preference.collate_preferences, pad_token_id=template.tokenizer.pad_token_id)
    if config.needs_reference and config.precompute_ref_log_probs and not inspecting():
        for name, split in examples.items():
            examples[name] = preference.with_reference(accelerator, model, split, config.eval_batch_size, collate)
    point = preference.ReferencePoint(accelerator, config) if unpaired else None

    def evaluate(model: Any, split: str = "validation") -> dict[str, float]:
        return preference.evaluate_preferences(
            accelerator, model, examples[split], config.eval_batch_size, config, collate
        )

    model, results = fit(
        accelerator, model, examples["train"], config, collate=collate, evaluate=evaluate,
        loss=preference.preference_loss(accelerator, config, point),
        before_step=point.measure if point else None, processor=template.tokenizer, held_out=examples,
    )  # fmt: skip
    report = preference.summarize_preferences(config, rows, examples, data, evaluate(model, "test"))
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, PreferenceRecipeConfig)
