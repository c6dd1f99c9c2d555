"""Exact match and F1 of answers in percent, as the script of SQuAD 1.1 (Rajpurkar et al., 2016).

    compute(predictions, references) -> {"exact_match", "f1"}

A prediction is {"id", "prediction_text"}, a reference {"id", "answers": {"text": [...], "answer_start": [...]}}.
Raises ValueError for no predictions, and for a question that is missing, comes twice or has no answer.
"""

import datasets
import evaluate

from hftrain.metrics import answers

TEXT = datasets.Value("string")


class Squad(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        right = {"text": datasets.Sequence(TEXT), "answer_start": datasets.Sequence(datasets.Value("int32"))}
        features = datasets.Features(
            predictions={"id": TEXT, "prediction_text": TEXT}, references={"id": TEXT, "answers": right}
        )
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions: list[dict], references: list[dict]) -> dict[str, float]:
        state = answers.Answers(answers.score_v1)
        predictions = answers.paired(predictions, references)
        state.add([each["prediction_text"] for each in predictions], [each["answers"]["text"] for each in references])
        return answers.squad(state)
