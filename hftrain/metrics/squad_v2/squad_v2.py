"""Exact match and F1 of answers in percent, as the script of SQuAD 2.0, whose questions may have none.

    compute(predictions, references, no_answer_threshold=1.0)
    -> {"exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total", "NoAns_exact", "NoAns_f1", "NoAns_total",
        "best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"}

A prediction is {"id", "prediction_text", "no_answer_probability"}, a reference {"id", "answers": {"text": [...],
"answer_start": [...]}}, without texts if there is no answer (Rajpurkar et al., 2018, https://arxiv.org/abs/1806.03822).
Raises ValueError for no predictions, and for a question that is missing or comes twice.
"""

import datasets
import evaluate

from hftrain.metrics import answers

TEXT = datasets.Value("string")


class SquadV2(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        right = {"text": datasets.Sequence(TEXT), "answer_start": datasets.Sequence(datasets.Value("int32"))}
        prediction = {"id": TEXT, "prediction_text": TEXT, "no_answer_probability": datasets.Value("float64")}
        features = datasets.Features(predictions=prediction, references={"id": TEXT, "answers": right})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(
        self, predictions: list[dict], references: list[dict], no_answer_threshold: float = 1.0
    ) -> dict[str, float]:
        state = answers.Answers(answers.score_v2)
        predictions = answers.paired(predictions, references)
        texts, right = (
            [each["prediction_text"] for each in predictions],
            [each["answers"]["text"] for each in references],
        )
        state.add(texts, right, [each["no_answer_probability"] for each in predictions])
        return answers.squad_v2(state, no_answer_threshold)
