"""Classify recordings: any pretrained model, or a new small one, trained to say a class, labels, or a number.

    accelerate launch recipes/classify_audio.py                        # the built-in spoken digits
    accelerate launch recipes/classify_audio.py --dataset_name sounds --model_name_or_path facebook/wav2vec2-base \\
        # sounds/train/dog/1.wav, or sounds/dog/1.wav
    accelerate launch recipes/classify_audio.py --train_file clips.csv --audio_column file --label_column emotion \\
        --model_name_or_path openai/whisper-base --metrics accuracy f1_macro roc_auc

Rows name recordings by paths relative to their file (json, jsonl, csv, tsv), or hold them (parquet, arrow, a data set
on the Hub). `hftrain predict` says the class of new recordings with what was trained.

Seen: 100 % accuracy on 200 built-in test digits, in 61 seconds of one CPU thread. docs/log.md: "What transcribe and
classify_audio reach by their defaults".
"""

from typing import Any

from hftrain import labels, run
from hftrain.tasks import audio_classification as audio
from hftrain.tasks.audio_classification import AudioClassificationConfig


def main(config: AudioClassificationConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import fit, publish, start
    from hftrain.train.choosing import choose_best_metric

    accelerator = start(config)
    problem = config.problem_type
    with accelerator.local_main_process_first():  # hears all recordings; the others find in the cache what they hold
        rows = audio.load_recordings(config, seed=config.seed)
        names, ids = labels.number_classes(rows, config)
        features = audio.load_features(config, rows)  # chooses how much of a recording is heard
        examples = {split: audio.make_examples(rows[split], ids, config) for split in rows}
    references = {split: labels.references(examples[split], problem, len(names)) for split in rows}
    choose_best_metric(config, problem, config.metrics, references, labels=names)
    model = audio.load_classifier(config, names, features.window)
    collate = audio.collator(features, problem, len(names))

    def score(model: Any, split: str) -> labels.Scores:
        batch_size = features.together(accelerator.unwrap_model(model).config, config.eval_batch_size)
        return labels.score(accelerator, model, examples[split], batch_size, collate=collate, problem=problem)

    def evaluate(model: Any) -> dict[str, float]:
        scores, _ = labels.measure(score(model, "validation"), references["validation"], config, names)
        return scores

    loss = labels.classification(
        problem,
        weights=labels.weights(examples["train"], names, config),
        label_smoothing=config.label_smoothing_factor,
        focal_gamma=config.focal_gamma,
    )
    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=loss,
        evaluate=evaluate,
        augment=audio.augmentation(config, features),
        processor=features,
        held_out=examples,
    )
    thresholds = labels.choose_thresholds(accelerator, model, config, score, references["validation"])
    tested = labels.Tested(rows, examples, score(model, "test"), references, names, ids, thresholds)
    return publish(accelerator, config, results, audio.summarize(config, tested, features.window))


if __name__ == "__main__":
    run(main, AudioClassificationConfig)
