"""Transcribe speech: Whisper, a pretrained CTC encoder, or a new small one, trained to write what is spoken.

    accelerate launch recipes/transcribe.py                            # the built-in spoken digits, a new CTC model
    accelerate launch recipes/transcribe.py --dataset_name LibriSpeech --model_name_or_path openai/whisper-tiny.en
    accelerate launch recipes/transcribe.py --train_file calls.jsonl --audio_column file --text_column words \\
        --model_name_or_path openai/whisper-large-v3 --language de --use_peft

A data set has the layout of LibriSpeech, LJSpeech, Common Voice or Kaldi, or rows (jsonl, csv, tsv, parquet, the Hub)
with a recording and its text. `hftrain predict` transcribes new recordings with what was trained.

Seen: 1.4 % of words wrong on the built-in test strings, in 195 seconds of one CPU thread. docs/log.md: "What transcribe
and classify_audio reach by their defaults".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import speech_recognition as speech
from hftrain.tasks.speech_recognition import TranscribeConfig


def main(config: TranscribeConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import fit, publish, start
    from hftrain.audio import load_speech

    accelerator = start(config)
    with accelerator.local_main_process_first():  # hears all recordings; the others find in the cache what they hold
        rows = load_speech(config, seed=config.seed)
    listener = speech.load_listener(config, rows)
    model = speech.load_recogniser(config, listener)
    rows, examples = speech.make_examples(rows, listener, model, config)
    collate = speech.collator(listener)

    def transcribe(model: Any, split: str) -> speech.Heard:
        batch_size = config.eval_batch_size
        return speech.transcribe(accelerator, model, listener, examples[split], batch_size, collate=collate)

    def evaluate(model: Any) -> dict[str, float]:
        scores = speech.measure(transcribe(model, "validation"), rows["validation"]["text"], config.normalizer)
        return {name: value for name, value in scores.items() if name != "normalizer"}

    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=speech.recognition(model, config.label_smoothing_factor),
        evaluate=evaluate,
        augment=speech.augmentation(config, listener, model),
        processor=listener,
        held_out=examples,
    )
    heard = transcribe(model, "test")
    return publish(
        accelerator, config, results, speech.summarize(config, rows, examples, heard, listener.features.window)
    )


if __name__ == "__main__":
    run(main, TranscribeConfig)
