"""Answer: a pretrained model learns to find the answer to a question in a text, or that it is not there; EM and F1.

    accelerate launch recipes/answer.py --config recipes/configs/answer-xquad.yaml
    accelerate launch recipes/answer.py --model_name_or_path google-bert/bert-base-uncased \\
        --train_file train-v2.0.json --validation_file dev-v2.0.json
    hftrain predict output --file questions.jsonl --column question --pair_column context

Questions are the JSON of SQuAD 1.1 or 2.0, or rows (jsonl, json, csv, parquet, arrow, a folder of `save_to_disk`, a
data set on the Hub) of context, question, answers {text, answer_start}, or these two as columns. Rows set aside for
validation and test are of whole articles (title). Long contexts are read in windows; a step's batch counts windows.
"""

from typing import Any

from hftrain import run
from hftrain.config.defaults import BY_METRIC
from hftrain.tasks.answering import AnswerConfig


def main(config: AnswerConfig) -> dict[str, Any]:
    from transformers import AutoModelForQuestionAnswering

    from hftrain.metrics import rehearse
    from hftrain.models import load
    from hftrain.models.fit import check_fit
    from hftrain.report import publish
    from hftrain.tasks import answering
    from hftrain.train.loop import fit, start

    accelerator = start(config)
    tokenizer = answering.load_tokenizer(config)
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        rows = answering.load_questions(config, seed=config.seed)
        examples = {name: answering.tokenize(split, tokenizer, config) for name, split in rows.items()}
    metrics = config.metrics or ["squad" if all(all(split["answers"]) for split in rows.values()) else "squad_v2"]
    right = {name: rows[name]["answers"] for name in ("validation", "test")}
    best = rehearse(metrics, "question_answering", right, best=config.metric_for_best_model)
    config.choose("metric_for_best_model", best, BY_METRIC)
    model = load.load_model(config, AutoModelForQuestionAnswering, settings=answering.model_settings(config))
    check_fit(model, tokenizer, max_seq_length=config.max_seq_length)
    collate = answering.collator(tokenizer, model)
    model = load.add_adapters(model, config, "QUESTION_ANS")

    def answer(model: Any, split: str) -> list[answering.Found]:
        return answering.answer(accelerator, model, examples[split], config, collate)

    def evaluate(model: Any) -> dict[str, float]:
        found = answer(model, "validation")
        return answering.score(found, rows["validation"], len(examples["validation"]), metrics)

    model, results = fit(
        accelerator, model, examples["train"], config, collate=collate,
        processor=tokenizer, loss=answering.loss(config.label_smoothing_factor),
        evaluate=evaluate, held_out=examples,
    )  # fmt: skip
    threshold = results.get("eval_no_answer_threshold", 1.0)  # of the kept model, by validation rows
    answering.save_threshold(accelerator, model, config.output_dir, threshold)
    found = answer(model, "test")
    report = answering.summarize(config, rows, examples, found, metrics, threshold)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, AnswerConfig)
