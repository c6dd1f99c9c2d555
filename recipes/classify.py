"""Classify: any pretrained model, or a new small one, trained to say a text's class, its labels, or a number.

    accelerate launch recipes/classify.py --config recipes/configs/classify-trec.yaml
    accelerate launch recipes/classify.py --model_name_or_path distilbert/distilbert-base-uncased \\
        --dataset_name nyu-mll/glue --dataset_config_name rte --text_column sentence1 --text_pair_column sentence2
    accelerate launch recipes/classify.py --train_file mails.jsonl --label_column topics \\
        --problem_type multi_label_classification              # "topics": ["billing", "urgent"]
    accelerate launch recipes/classify.py --train_file reviews.csv --label_column stars --problem_type regression

Rows are json, jsonl, csv, tsv, parquet, arrow, tab-separated txt (also .gz, .zst), a folder, or a data set on
the Hub. Labels are names or whole numbers. `hftrain predict` labels new texts with what was trained.

Seen: 95.0 % accuracy on TREC-6 with classify-trec.yaml and --num_train_epochs 1, in 3.4 minutes of one CPU thread;
96.5 % after the 3 epochs that it asks for (mean of 3 seeds). docs/log.md: "What a recipe reaches, and how long it
takes", "Sentences, words and questions with MiniLM".
"""

from typing import Any

from hftrain import labels, run
from hftrain.tasks import classification
from hftrain.tasks.classification import ClassificationConfig


def main(config: ClassificationConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import fit, publish, start
    from hftrain.train.choosing import choose_best_metric

    accelerator = start(config)
    problem = config.problem_type
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        rows = classification.load_labelled(config, seed=config.seed)
        names, ids = labels.number_classes(rows, config)
        tokenizer = classification.load_tokenizer(rows["train"], config)
        examples = {split: classification.tokenize(rows[split], tokenizer, ids, config) for split in rows}
    references = {split: labels.references(examples[split], problem, len(names)) for split in rows}
    choose_best_metric(config, problem, config.metrics, references, labels=names)
    model = classification.load_classifier(config, tokenizer, names)
    collate = classification.collator(tokenizer, model, config)

    def score(model: Any, split: str) -> labels.Scores:
        batch_size = config.eval_batch_size
        return labels.score(accelerator, model, examples[split], batch_size, collate=collate, problem=problem)

    def evaluate(model: Any) -> dict[str, float]:
        scores, _ = labels.measure(score(model, "validation"), references["validation"], config, names)
        return scores

    loss = labels.classification(
        problem,
        weights=labels.weights(examples["train"], names, config),
        label_smoothing=config.label_smoothing_factor,
        focal_gamma=config.focal_gamma,
    )
    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=loss,
        evaluate=evaluate,
        augment=classification.augmentation(config, tokenizer),
        processor=tokenizer,
        held_out=examples,
    )
    thresholds = labels.choose_thresholds(accelerator, model, config, score, references["validation"])
    tested = labels.Tested(rows, examples, score(model, "test"), references, names, ids, thresholds)
    return publish(accelerator, config, results, classification.summarize(config, tested))


if __name__ == "__main__":
    run(main, ClassificationConfig)
