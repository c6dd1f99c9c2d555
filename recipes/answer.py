"""Answer: a pretrained model learns to find the answer to a question in a text, or that it is not there; EM and F1.

    accelerate launch recipes/answer.py --config recipes/configs/answer-xquad.yaml
    accelerate launch recipes/answer.py --model_name_or_path google-bert/bert-base-uncased \\
        --train_file train-v2.0.json --validation_file dev-v2.0.json
    hftrain predict output --file questions.jsonl --column question --pair_column context

Questions are the JSON of SQuAD 1.1 or 2.0, or rows (jsonl, json, csv, parquet, arrow, a folder of `save_to_disk`, a
data set on the Hub) of context, question, answers {text, answer_start}, or these two as columns. Validation and
test rows are complete articles (title). Long contexts are read in windows; a step's batch counts windows.

Seen: F1 42.5 and exact match 28.4 on questions of XQuAD with answer-xquad.yaml (MiniLM, 168 steps); a step takes 5.8
seconds of one CPU thread, so that is about 16 minutes. docs/log.md: "Sentences, words and questions with MiniLM",
"What a recipe reaches, and how long it takes".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import answering
from hftrain.tasks.answering import AnswerConfig


def main(config: AnswerConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import fit, publish, start

    accelerator = start(config)
    tokenizer = answering.load_tokenizer(config)
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        rows = answering.load_questions(config, seed=config.seed)
        examples = {split: answering.tokenize(rows[split], tokenizer, config) for split in rows}
    metrics = answering.choose_metrics(config, rows)
    model = answering.load_answerer(config, tokenizer)
    collate = answering.collator(tokenizer, model)

    def answer(model: Any, split: str) -> list[answering.Found]:
        return answering.answer(accelerator, model, examples[split], config, collate)

    def evaluate(model: Any) -> dict[str, float]:
        answers = answer(model, "validation")
        return answering.score(answers, rows["validation"], len(examples["validation"]), metrics)

    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=answering.loss(config.label_smoothing_factor),
        evaluate=evaluate,
        processor=tokenizer,
        held_out=examples,
    )
    # The threshold on the probability of no answer, above which no answer is given; chosen on the validation rows.
    threshold = results.get("eval_no_answer_threshold", 1.0)
    answering.save_threshold(accelerator, model, config.output_dir, threshold)
    report = answering.summarize(config, rows, examples, answer(model, "test"), metrics, threshold)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, AnswerConfig)
