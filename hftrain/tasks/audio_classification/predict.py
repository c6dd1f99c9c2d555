"""Labels with probabilities, or a number, of audio files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hftrain.labels.predict import no_label, predictions, problem_of
from hftrain.models.saved import Saved, load_weights, recall


def classify(saved: Saved, recordings: Sequence[Any], batch_size: int) -> list[Any]:
    """For each recording the same as `hftrain.tasks.classification.predict.classify` for a text. A recording is a path,
    or what a row has in its column: bytes, or the dict of datasets.Audio.

    Raises:
        ValueError: a recording that cannot be read, or is on the network.
    """
    from hftrain.audio.features import Features, load_extractor
    from hftrain.audio.sources import located
    from hftrain.audio.windows import hear_less
    from hftrain.data.examples import Examples
    from hftrain.tasks.audio_classification.examples import FRAMES, collator

    config, problem = saved.config, problem_of(saved.config)
    features = Features(load_extractor(str(saved.folder), trust_remote_code=saved.trust_remote_code))
    known = located(recordings)
    longest = recall(config, "longest_seconds")
    items = [
        {"audio": path, "start": None, "end": longest if longest and facts.seconds > longest else None}
        | no_label(problem)
        for path, facts in known
    ]
    lengths = [max(1, round(min(facts.seconds, longest or facts.seconds) * FRAMES)) for _, facts in known]
    model, device = load_weights(saved, "AutoModelForAudioClassification")
    if features.window is not None:
        hear_less(model, features.window)  # what the folder of an adapter lacks
    collate = collator(features, problem, config.num_labels or 0)
    examples = Examples(items, lengths)
    return predictions(saved, model, device, examples, features.together(config, batch_size), collate)
