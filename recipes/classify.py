"""Classify: any pretrained model, or a new small one, trained to say a text's class, its labels, or a number.

    accelerate launch recipes/classify.py --config recipes/configs/classify-trec.yaml
    accelerate launch recipes/classify.py --model_name_or_path distilbert/distilbert-base-uncased \\
        --dataset_name nyu-mll/glue --dataset_config_name rte --text_column sentence1 --text_pair_column sentence2
    accelerate launch recipes/classify.py --train_file mails.jsonl --label_column topics \\
        --problem_type multi_label_classification              # "topics": ["billing", "urgent"]
    accelerate launch recipes/classify.py --train_file reviews.csv --label_column stars --problem_type regression

Rows are json, jsonl, csv, tsv, parquet, arrow, tab-separated txt (also .gz, .zst), a folder, or a data set on
the Hub. Labels are names or whole numbers. `hftrain predict` labels new texts with what was trained.
"""

from typing import Any

from hftrain import run
from hftrain.config.defaults import BY_METRIC
from hftrain.tasks.classification import ClassificationConfig


def main(config: ClassificationConfig) -> dict[str, Any]:
    from hftrain.metrics import rehearse
    from hftrain.report import publish
    from hftrain.tasks import classification
    from hftrain.train.loop import fit, start

    accelerator = start(config)
    problem = config.problem_type
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        rows = classification.load_labelled(config, seed=config.seed)
        names, ids = classification.number_classes(rows, config)
        tokenizer = classification.load_tokenizer(rows["train"], config)
        examples = {name: classification.tokenize(split, tokenizer, ids, config) for name, split in rows.items()}
    right = {name: classification.references(split, problem, len(names)) for name, split in examples.items()}
    held = {name: right[name] for name in ("validation", "test")}
    best = rehearse(config.metrics, problem, held, labels=names, best=config.metric_for_best_model)
    config.choose("metric_for_best_model", best, BY_METRIC)

    model = classification.load_classifier(config, tokenizer, names)
    collate = classification.collator(tokenizer, model, config)

    def score(model: Any, split: str) -> classification.Scores:
        batch_size = config.eval_batch_size
        return classification.score(accelerator, model, examples[split], batch_size, collate=collate, problem=problem)

    def evaluate(model: Any) -> dict[str, float]:
        return classification.measure(score(model, "validation"), right["validation"], config, names)[0]

    loss = classification.classification(
        problem,
        weights=classification.weights(examples["train"], names, config),
        label_smoothing=config.label_smoothing_factor,
        focal_gamma=config.focal_gamma,
    )
    model, results = fit(
        accelerator, model, examples["train"], config, processor=tokenizer, loss=loss,
        collate=collate, evaluate=evaluate,
        augment=classification.augmentation(config, tokenizer), held_out=examples,
    )  # fmt: skip
    thresholds = classification.choose_thresholds(accelerator, model, config, score, right["validation"])
    report = classification.summarize(config, rows, examples, score(model, "test"), right, names, ids, thresholds)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, ClassificationConfig)
