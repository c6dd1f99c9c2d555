"""Segment images: the class of each pixel, a mask for each object, or both, by a pretrained model or a new small one.

    accelerate launch recipes/segment.py                               # the built-in scenes, composed of digits
    accelerate launch recipes/segment.py --dataset_name camvid --model_name_or_path nvidia/mit-b0
    accelerate launch recipes/segment.py --dataset_name coco --segmentation panoptic \\
        --model_name_or_path facebook/mask2former-swin-tiny-coco-panoptic --smallest_scale 0.1 --largest_scale 2

A data set is a folder with images/ and masks/, COCO JSON of objects or panoptic, or rows (jsonl, csv, parquet, the Hub)
with an image and a mask. `hftrain predict` segments new images with what was trained.

Seen: mean IoU 86.9 % and 98.1 % of the pixels of the test scenes with the defaults, in 140 seconds of one CPU thread.
docs/log.md: "What segment reaches on the scenes with a stride of 4".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import segmentation
from hftrain.tasks.segmentation import SegmentationConfig


def main(config: SegmentationConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import fit, publish, start
    from hftrain.models.rates import layer_rates

    accelerator = start(config)
    with accelerator.local_main_process_first():  # looks at all files; the others find in the cache what they hold
        rows, classes = segmentation.load_segments(config, seed=config.seed)
        examples = {split: segmentation.make_examples(rows[split], classes, config.segmentation) for split in rows}
    canvas = segmentation.load_canvas(config, rows["train"])
    model = segmentation.load_segmenter(config, canvas, classes)
    collate = segmentation.collator(canvas, config.segmentation, segmentation.predicts_sets(model))
    segment_loss = segmentation.SegmentLoss(model, config.dice_weight)

    def segment(model: Any, split: str) -> segmentation.Segments:
        return segmentation.segment(
            accelerator, model, examples[split], config.eval_batch_size, collate=collate, loss=segment_loss
        )

    def evaluate(model: Any) -> dict[str, float]:
        return segmentation.score(
            segment(model, "validation"), rows["validation"], classes, config.segmentation
        ).numbers

    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=segment_loss.loss(),
        evaluate=evaluate,
        augment_at=segmentation.augmentation(config, examples["train"], collate),
        before_step=segment_loss.before_step(accelerator),
        processor=canvas,
        held_out=examples,
        rates=layer_rates(model, config.layer_decay, config.backbone_rate),
    )
    return publish(accelerator, config, results, segmentation.summarize(config, rows, classes, segment(model, "test")))


if __name__ == "__main__":
    run(main, SegmentationConfig)
