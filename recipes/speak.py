"""Speak: a model learns to read text aloud in the voices of recordings: SpeechT5 or FastSpeech2-Conformer, pretrained
or new, or a pretrained CSM or Dia.

    accelerate launch recipes/speak.py                                      # the built-in spoken digits
    accelerate launch recipes/speak.py --dataset_name LJSpeech-1.1          # its folder, with metadata.csv and wavs/
    accelerate launch recipes/speak.py --train_file clips.jsonl --model_name_or_path microsoft/speecht5_tts \\
        --vocoder microsoft/speecht5_hifigan
    accelerate launch recipes/speak.py --train_file clips.jsonl --model_name_or_path sesame/csm-1b --use_peft true

Rows name recordings and their texts (LJSpeech, LibriSpeech, Common Voice, Kaldi, or paths in jsonl, csv, tsv).
`hftrain predict OUT "a text" --output folder` speaks with what was trained.

Seen: a Whisper understands 100 of 100 of its built-in digits, mel-cepstral distance 1.5 dB, after 608 steps; and 50 of
50 digits of one speaker of FSDD, 4.2 dB, after 500 steps in 155 seconds of one CPU thread.
docs/log.md: "What speak reaches by its default now", "A voice that Whisper understands".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import speaking
from hftrain.tasks.speaking import SpeakConfig


def main(config: SpeakConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import fit, publish, start

    accelerator = start(config)
    with accelerator.local_main_process_first():  # makes the spectrograms; the others find them in the cache
        rows = speaking.load_recordings(config, seed=config.seed)
        voice = speaking.load_voice(config, rows, speaking.speakers_of(rows))
        model = speaking.load_model(config, voice)
        rows, examples = speaking.make_examples(rows, voice, config, model)
    speaking.begin_at_mean(config, model, examples["train"])
    collate = speaking.collator(voice, model)
    spoken_loss = speaking.loss_for(model)
    stage = speaking.Stage(config, accelerator, voice, examples, collate)
    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=spoken_loss.loss(),
        evaluate=stage.evaluate,
        before_step=spoken_loss.before_step(accelerator),
        after_step=stage.note_step,
        processor=voice,
        held_out=examples,
    )
    return publish(accelerator, config, results, speaking.summarize(config, rows, stage, model))


if __name__ == "__main__":
    run(main, SpeakConfig)
