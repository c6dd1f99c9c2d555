"""Tag: a pretrained model learns a tag for each word, of entities or parts of speech; scored by F1, or accuracy.

    accelerate launch recipes/tag.py --config recipes/configs/tag-wnut17.yaml
    accelerate launch recipes/tag.py --model_name_or_path bert-base-cased --train_file train.conll
    accelerate launch recipes/tag.py --model_name_or_path bert-base-cased --train_file train.conllu --use_peft
    hftrain predict output "Anna moved to Rome."

Words and tags are CoNLL columns (a word a line, a blank line after each sentence), tables with a word a row (csv, tsv),
or rows with a list of words and one of tags, or with a text and the places of its entities (jsonl, json, csv, parquet,
arrow, a folder of `save_to_disk`, a data set on the Hub). Long sentences are read in windows, and no word is lost; a
step's batch counts windows.

Seen: entity F1 0.430 on WNUT17's test sentences with tag-wnut17.yaml (MiniLM, seed 1, 428 steps); a step takes 1.1
seconds of one CPU thread, so that is about 8 minutes. docs/log.md: "Sentences, words and questions with MiniLM",
"What a recipe reaches, and how long it takes".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import tagging
from hftrain.tasks.tagging import TagConfig


def main(config: TagConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import fit, publish, start

    accelerator = start(config)
    tokenizer = tagging.load_tokenizer(config)
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        rows, scheme = tagging.load_sentences(config, seed=config.seed)
        names = tagging.label_names(rows, config)
        examples = {split: tagging.tokenize(rows[split], tokenizer, names, config) for split in rows}
    metrics = tagging.choose_metrics(config, rows, scheme)
    model = tagging.load_tagger(config, tokenizer, names)
    collate = tagging.collator(tokenizer)

    def tag(model: Any, split: str) -> list[tagging.Tagged]:
        return tagging.tag(accelerator, model, examples[split], config.eval_batch_size, collate)

    def evaluate(model: Any) -> dict[str, float]:
        scores, _ = tagging.score(tag(model, "validation"), rows["validation"]["tags"], names, metrics)
        return scores

    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=tagging.loss(config.label_smoothing_factor),
        evaluate=evaluate,
        processor=tokenizer,
        held_out=examples,
    )
    report = tagging.summarize(config, rows, examples, tag(model, "test"), names, metrics)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, TagConfig)
