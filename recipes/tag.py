"""Tag: a pretrained model learns a tag for each word, of entities or parts of speech; scored by F1, or accuracy.

    accelerate launch recipes/tag.py --config recipes/configs/tag-wnut17.yaml
    accelerate launch recipes/tag.py --model_name_or_path bert-base-cased --train_file train.conll
    accelerate launch recipes/tag.py --model_name_or_path bert-base-cased --train_file train.conllu --use_peft
    hftrain predict output "Anna moved to Rome."

Words and tags are CoNLL columns (a word a line, a blank line after each sentence), tables with a word a row (csv, tsv),
or rows with a list of words and one of tags, or with a text and the places of its entities (jsonl, json, csv, parquet,
arrow, a folder of `save_to_disk`, a data set on the Hub). Long sentences are read in windows, and no word is lost; a
step's batch counts windows.
"""

from typing import Any

from hftrain import run
from hftrain.config.defaults import BY_METRIC
from hftrain.tasks.tagging import TagConfig


def main(config: TagConfig) -> dict[str, Any]:
    from transformers import AutoModelForTokenClassification

    from hftrain.metrics import rehearse
    from hftrain.models import load
    from hftrain.models.fit import check_fit
    from hftrain.report import publish
    from hftrain.tasks import tagging
    from hftrain.train.loop import fit, start

    accelerator = start(config)
    tokenizer = tagging.load_tokenizer(config)
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        rows, scheme = tagging.load_sentences(config, seed=config.seed)
        names = tagging.label_names(rows, config)
        examples = {name: tagging.tokenize(split, tokenizer, names, config) for name, split in rows.items()}
    metrics = config.metrics or ["accuracy" if scheme == "none" else "seqeval"]
    right = {name: rows[name]["tags"] for name in ("validation", "test")}
    best = rehearse(metrics, "token_classification", right, best=config.metric_for_best_model)
    config.choose("metric_for_best_model", best, BY_METRIC)
    model = load.load_model(config, AutoModelForTokenClassification, settings=tagging.model_settings(names, config))
    check_fit(model, tokenizer, max_seq_length=config.max_seq_length)
    model = load.add_adapters(model, config, "TOKEN_CLS")
    collate = tagging.collator(tokenizer)

    def tag(model: Any, split: str) -> list[tagging.Tagged]:
        return tagging.tag(accelerator, model, examples[split], config.eval_batch_size, collate)

    def evaluate(model: Any) -> dict[str, float]:
        return tagging.score(tag(model, "validation"), right["validation"], names, metrics)[0]

    model, results = fit(
        accelerator, model, examples["train"], config, collate=collate,
        processor=tokenizer, loss=tagging.loss(config.label_smoothing_factor),
        evaluate=evaluate, held_out=examples,
    )  # fmt: skip
    found = tag(model, "test")
    report = tagging.summarize(config, rows, examples, found, names, metrics)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, TagConfig)
