"""Detect objects: any pretrained detector, or a new small one, trained to find a box and a class for each object.

    accelerate launch recipes/detect.py                                # the built-in scenes, composed of digits
    accelerate launch recipes/detect.py --dataset_name coco --model_name_or_path PekingU/rtdetr_v2_r18vd
    accelerate launch recipes/detect.py --train_file instances_train.json --image_folder images \\
        --model_name_or_path facebook/detr-resnet-50 --smallest_scale 0.5 --largest_scale 2 --mosaic 0.3

A data set is a folder with COCO JSON, Pascal VOC XML or YOLO's data.yaml, or rows (jsonl, parquet, the Hub) with an
image and its objects. `hftrain predict` finds the objects of new images with what was trained.

Seen: mAP 79.9 and mAP50 93.5 on the test scenes with the defaults, in 240 seconds of one CPU thread. docs/log.md:
"What detect reaches on smaller scenes with wider weights".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import detection
from hftrain.tasks.detection import DetectionConfig


def main(config: DetectionConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import fit, publish, start
    from hftrain.models.rates import layer_rates

    accelerator = start(config)
    with accelerator.local_main_process_first():  # looks at all images; the others find in the cache what they hold
        rows, names, ids = detection.load_objects(config, seed=config.seed)
        examples = {split: detection.make_examples(rows[split], names) for split in rows}
    canvas = detection.load_canvas(config, rows["train"])
    model = detection.load_detector(config, canvas, names, ids)
    collate = detection.collator(canvas)
    set_loss = detection.SetLoss(model.config)

    def find(model: Any, split: str) -> detection.Found:
        return detection.find(accelerator, model, examples[split], config.eval_batch_size, collate=collate)

    def evaluate(model: Any) -> dict[str, float]:
        result = find(model, "validation")
        return detection.numbers(result, detection.score(result, rows["validation"], names))

    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=set_loss.loss(),
        evaluate=evaluate,
        augment_at=detection.augmentation(config, examples["train"], canvas),
        before_step=set_loss.before_step(accelerator),
        processor=canvas,
        held_out=examples,
        rates=layer_rates(model, config.layer_decay, config.backbone_rate),
    )
    return publish(accelerator, config, results, detection.summarize(config, rows, names, find(model, "test")))


if __name__ == "__main__":
    run(main, DetectionConfig)
