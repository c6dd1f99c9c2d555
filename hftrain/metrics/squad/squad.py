"""Exact match and F1 of answers in percent, as the script of SQuAD 1.1 (Rajpurkar et al., 2016).

    compute(predictions, references) -> {"exact_match", "f1"}

A prediction is {"id", "prediction_text"}, a reference {"id", "answers": {"text": [...], "answer_start": [...]}}.
Raises ValueError for no predictions, and for a question that is missing, comes twice or has no answer.
"""

from hftrain.metrics import face


class Squad(face.Face): ...
