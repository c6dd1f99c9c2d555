"""Translate: a new model, or any pretrained sequence-to-sequence model, trained on pairs, scored by BLEU and chrF.

    accelerate launch recipes/translate.py                    # built-in English-German dates and times
    accelerate launch recipes/translate.py --config recipes/configs/translate-multi30k.yaml
    accelerate launch recipes/translate.py --train_file pairs.tsv --source_column en --target_column de
    accelerate launch recipes/translate.py --model_name_or_path Helsinki-NLP/opus-mt-en-de --train_file p.csv --use_peft

Pairs are json, jsonl, csv, tsv, parquet, arrow, tab-separated txt (also .gz, .zst), aligned text (train.{lang}.gz), a
folder, or a data set on the Hub; a column may be nested (translation.de).

Seen: 99.39 BLEU on the built-in test rows after 123 seconds of training on 2 CPU cores; 35.35 BLEU on Multi30k's
test_2016_flickr after about 50 minutes of one CPU thread. docs/log.md: "`make demo` on a fresh machine", "Multi30k
English-German from scratch on a CPU".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import translation
from hftrain.tasks.translation import TranslateConfig


def main(config: TranslateConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import fit, mean_loss, publish, sequence_to_sequence, start

    accelerator = start(config)
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        rows = translation.load_pairs(config, seed=config.seed)
        tokenizer = translation.load_tokenizer(rows["train"], config)
        examples = {split: translation.tokenize(rows[split], tokenizer, config) for split in rows}
    model = translation.load_translator(config, tokenizer)
    collate = translation.pair_collator(tokenizer, model)
    loss = sequence_to_sequence(config.label_smoothing_factor)
    compared = translation.spread(examples["validation"], rows["validation"])

    def translate(model: Any, examples: Any, references: list[str], num_beams: int) -> tuple[list[str], dict[str, Any]]:
        batch_size = config.eval_batch_size
        hypotheses = translation.translate(
            accelerator, model, tokenizer, examples, batch_size, collate=collate, num_beams=num_beams
        )
        scores = translation.score(
            hypotheses, references, config.target_lang, num_beams=num_beams, batch_size=batch_size
        )
        return hypotheses, scores

    def evaluate(model: Any) -> dict[str, float]:
        plain = sequence_to_sequence()  # without label smoothing
        held_out = examples["validation"]
        metrics = {"loss": mean_loss(accelerator, model, held_out, config.eval_batch_size, collate=collate, loss=plain)}
        if config.predict_with_generate:
            _, scores = translate(model, *compared, num_beams=1)
            metrics |= {name: scores[name] for name in ("sacrebleu", "chrf")}
        return metrics

    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=loss,
        evaluate=evaluate,
        processor=tokenizer,
        held_out=examples,
    )
    hypotheses, scores = translate(model, examples["test"], rows["test"]["target"], config.num_beams)
    report = translation.summarize(config, rows, examples, hypotheses, scores, tokenizer)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, TranslateConfig)
