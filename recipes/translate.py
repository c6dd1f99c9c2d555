"""Translate: a new model, or any pretrained sequence-to-sequence model, trained on pairs, scored by BLEU and chrF.

    accelerate launch recipes/translate.py                    # built-in English-German dates and times
    accelerate launch recipes/translate.py --config recipes/configs/translate-multi30k.yaml
    accelerate launch recipes/translate.py --train_file pairs.tsv --source_column en --target_column de
    accelerate launch recipes/translate.py --model_name_or_path Helsinki-NLP/opus-mt-en-de --train_file p.csv --use_peft

Pairs are json, jsonl, csv, tsv, parquet, arrow, tab-separated txt (also .gz, .zst), aligned text (train.{lang}.gz), a
folder, or a data set on the Hub; a column may be nested (translation.de).
"""

from typing import Any

from hftrain import run
from hftrain.tasks.translation import TranslateConfig

NEW_MODEL = {"hidden_size": 128, "intermediate_size": 512, "num_encoder_layers": 2, "num_decoder_layers": 2}


def main(config: TranslateConfig) -> dict[str, Any]:
    from transformers import AutoModelForSeq2SeqLM

    from hftrain import text
    from hftrain.losses import sequence_to_sequence
    from hftrain.models import TransformerConfig, load
    from hftrain.report import publish
    from hftrain.tasks import translation
    from hftrain.train.evaluation import mean_loss
    from hftrain.train.loop import fit, start

    accelerator = start(config)
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        rows = translation.load_pairs(config, seed=config.seed)
        tokenizer = load.load_tokenizer(config) or text.learn_tokenizer(rows["train"], config.vocab_size)
        examples = {name: translation.tokenize(split, tokenizer, config) for name, split in rows.items()}
    shape = text.vocabulary(tokenizer) | NEW_MODEL | config.model_config
    model = load.load_model(config, AutoModelForSeq2SeqLM, new=lambda: TransformerConfig(**shape))
    translation.set_generation(model, tokenizer, config)
    collate = translation.pair_collator(tokenizer, model)
    model = load.add_adapters(model, config, "SEQ_2_SEQ_LM")

    def translate(model: Any, split: str, num_beams: int) -> tuple[list[str], dict[str, Any]]:
        hypotheses = translation.translate(
            accelerator, model, tokenizer, examples[split], config.eval_batch_size, collate=collate, num_beams=num_beams
        )
        search = {"num_beams": num_beams, "batch_size": config.eval_batch_size}
        return hypotheses, translation.score(hypotheses, rows[split]["target"], config.target_lang, **search)

    def evaluate(model: Any) -> dict[str, float]:
        validation, loss = examples["validation"], sequence_to_sequence()
        loss_value = mean_loss(accelerator, model, validation, config.eval_batch_size, collate=collate, loss=loss)
        metrics = {"loss": loss_value}
        if config.predict_with_generate:
            metrics |= {name: translate(model, "validation", 1)[1][name] for name in ("sacrebleu", "chrf")}
        return metrics

    model, results = fit(
        accelerator, model, examples["train"], config, collate=collate, processor=tokenizer,
        loss=sequence_to_sequence(config.label_smoothing_factor), evaluate=evaluate,
        held_out=examples,
    )  # fmt: skip
    hypotheses, scores = translate(model, "test", config.num_beams)
    report = translation.summarize(config, rows, examples, hypotheses, scores, tokenizer)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, TranslateConfig)
