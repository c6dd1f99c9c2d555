"""`hftrain predict`: predictions of a saved model for new texts. The model's configuration decides its kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hftrain.audio.kinds import classifies_audio, transcribes
from hftrain.labels import predict as labels
from hftrain.models.saved import Saved, is_segmenter, kind, read_config, recall
from hftrain.tasks.answering import predict as answering
from hftrain.tasks.audio_classification import predict as hearing
from hftrain.tasks.classification import predict as classifying
from hftrain.tasks.detection import predict as detecting
from hftrain.tasks.image_classification import predict as imaging
from hftrain.tasks.image_pretraining import predict as embedding
from hftrain.tasks.segmentation import predict as segmenting
from hftrain.tasks.speaking import predict as speaking
from hftrain.tasks.speech_recognition import predict as listening
from hftrain.tasks.tagging import predict as tagging
from hftrain.tasks.translation.predict import translate
from hftrain.terminal import visible


def predict(
    folder: str | Path,
    texts: Sequence[Any],
    *,
    pairs: Sequence[str] | None = None,
    batch_size: int = 32,
    device: str | None = None,
    source_prefix: str | None = None,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    base: str | None = None,
    trust_remote_code: bool = False,
    each_word: bool = False,
    threshold: float = detecting.THRESHOLD,
    times: bool = False,
    vocoder: str | None = None,
    speaker: str | None = None,
    language_model: str | Path | None = None,
    language_model_weight: float | None = None,
) -> list[Any]:
    """One prediction for each text, in the order of `texts`, by the kind of the model:

    - encoder-decoder: the generated text;
    - sequence classification: the class, the labels or the number, see `classifying.classify`;
    - token classification: the entities, or the tag of each word, see `tagging.tag`; a text may be a list of its words;
    - image classification: the same for image files, see `imaging.classify`;
    - audio classification: the same for audio files, see `hearing.classify`;
    - speech recognition: the text that is spoken in audio files, see `listening.listen`;
    - object detection: the objects in image files, see `detecting.detect`;
    - image segmentation: the segments of image files, see `segmenting.segment`;
    - speech synthesis: the wave of each text, see `speaking.speak`;
    - masked image modelling, MAE: the features of image files, see `embedding.embed`;
    - question answering: the answer to each of `texts` from its context in `pairs`, see `answering.answer`.

    Args:
        folder: an output folder, a `checkpoint-N` in it, or any folder of `save_pretrained`: a model or an adapter.
        pairs: the second text of each pair, if the model was trained on pairs.
        batch_size: texts of similar length at a time.
        device: "cpu", "cuda:1", ...; None: the accelerator if there is one.
        source_prefix: prepended to each text (T5); None: as in training.
        base: the base model of an adapter, if it differs from the one that the adapter names.
        num_beams, max_new_tokens: for generated text; None: the values of the folder's generation_config.
        trust_remote_code: run Python code that comes with the model.
        each_word: token classification returns the tag of each word, never entities.
        threshold: least score of a detected or segmented object.
        times: speech recognition returns {"text", "segments"} with the times of the segments.
        language_model, language_model_weight: n-grams for speech recognition by CTC, see `listening.listen`.
        vocoder, speaker: how speech sounds, see `speaking.speak`.

    Raises:
        ValueError: `folder` has no model, or one of an unsupported kind.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if pairs is not None and len(pairs) != len(texts):
        raise ValueError(f"{len(texts)} texts, but {len(pairs)} second texts")
    folder = Path(folder)
    config = read_config(folder, base, trust_remote_code=trust_remote_code)
    what, saved = kind(folder, config), Saved(folder, config, device, trust_remote_code)
    if pairs is not None and not any(task in what for task in ("ForSequenceClassification", "ForQuestionAnswering")):
        raise ValueError(
            f"{folder} contains a {what}, which reads single texts: remove pairs (--pair_column, --context)"
        )
    if language_model is not None and not transcribes(config, what):
        raise ValueError(f"{folder} contains a {what}: a language model is for speech recognition by CTC")
    if times and not transcribes(config, what):
        raise ValueError(f"{folder} contains a {what}: only speech recognition has times")
    if classifies_audio(config, what):
        return hearing.classify(saved, texts, batch_size)
    if transcribes(config, what):
        return listening.listen(
            saved,
            texts,
            batch_size,
            times=times,
            num_beams=num_beams,
            language_model=language_model,
            language_model_weight=language_model_weight,
        )
    if "ForImageClassification" in what:
        return imaging.classify(saved, texts, batch_size)
    if "ForObjectDetection" in what:
        return detecting.detect(saved, texts, batch_size, threshold)
    if embedding.is_reconstructor(what):
        return embedding.embed(saved, texts, batch_size)
    if is_segmenter(what):
        return segmenting.segment(saved, texts, batch_size, threshold)
    if "ForTokenClassification" in what:
        if config.num_labels == 1:
            raise ValueError(f"{folder} contains a {what} with one number for each token, not tags: load it in Python")
        return tagging.tag(saved, texts, batch_size, each_word)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{folder} contains a {what}, which reads texts, not lists of words")
    if speaking.is_voice(what):
        return speaking.speak(saved, texts, vocoder, speaker)
    if "ForSequenceClassification" in what:
        return classifying.classify(saved, texts, pairs, batch_size)
    if "ForQuestionAnswering" in what:
        return answering.answer(saved, texts, pairs, batch_size)
    if config.is_encoder_decoder:
        search = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        if source_prefix is None:
            source_prefix = (recall(config, "translation") or {}).get("source_prefix", "")
        texts = [source_prefix + text if text.strip() else "" for text in texts]
        chosen = {key: value for key, value in search.items() if value is not None}
        return translate(saved, texts, batch_size, chosen)
    raise ValueError(
        f"{folder} contains a {what}, which hftrain predict does not support. "
        "Load it with transformers' from_pretrained or pipeline; for a language model use hftrain chat."
    )


def line(prediction: object) -> str:
    """A prediction as a line of text, for people and for `cut -f1`."""
    if isinstance(prediction, str):
        words = " ".join(prediction.splitlines())
    elif isinstance(prediction, list) and prediction and "box" in prediction[0]:
        words = detecting.line(prediction)
    elif isinstance(prediction, dict) and "features" in prediction:
        words = embedding.line(prediction)
    elif isinstance(prediction, list) and prediction and "segmentation" in prediction[0]:
        words = segmenting.line(prediction)
    elif isinstance(prediction, list):
        words = tagging.line(prediction)
    elif isinstance(prediction, dict) and "answer" in prediction:
        words = answering.line(prediction)
    else:
        words = labels.line(prediction)
    return visible(words)


__all__ = ["line", "predict"]
