"""Exact match and F1 of answers in percent, as the script of SQuAD 2.0, whose questions may have none.

    compute(predictions, references, no_answer_threshold=1.0)
    -> {"exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total", "NoAns_exact", "NoAns_f1", "NoAns_total",
        "best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"}

A prediction is {"id", "prediction_text", "no_answer_probability"}, a reference {"id", "answers": {"text": [...],
"answer_start": [...]}}, without texts if there is no answer (Rajpurkar et al., 2018, https://arxiv.org/abs/1806.03822).
Raises ValueError for no predictions, and for a question that is missing or comes twice.
"""

from hftrain.metrics import face


class SquadV2(face.Face): ...
