"""Precision, recall and F1 (0 to 1) of named entities, whole spans of one type, as conlleval and seqeval count them.

    compute(predictions, references, scheme=None, mode=None)
    -> {type: {"precision", "recall", "f1", "number"}, "overall_precision", "overall_recall", "overall_f1",
        "overall_accuracy"}

Tags are those of IOB2 or IOBES (BIOES), a list for each sentence. `mode="strict"` counts as entities only what
`scheme`, "IOB2" or "IOBES", does. Raises ValueError for no tags, other tags, or sentences of another length.
"""

from hftrain.metrics import face


class Seqeval(face.Face): ...
