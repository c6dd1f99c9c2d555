"""Pretraining on images: the hidden patches of each are reconstructed."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.image_pretraining.config import ImagePretrainingConfig
    from hftrain.tasks.image_pretraining.examples import Hiding, augmentation, collator, make_examples
    from hftrain.tasks.image_pretraining.losses import reconstruction_loss
    from hftrain.tasks.image_pretraining.model import load_reconstructor, make_hiding
    from hftrain.tasks.image_pretraining.report import pictures, summarize
    from hftrain.tasks.image_pretraining.rows import load_images
    from hftrain.tasks.image_pretraining.scoring import Probe
    from hftrain.vision.sizes import load_pixels
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "Hiding",
    "ImagePretrainingConfig",
    "Probe",
    "augmentation",
    "collator",
    "load_images",
    "load_pixels",
    "load_reconstructor",
    "make_examples",
    "make_hiding",
    "pictures",
    "reconstruction_loss",
    "summarize",
]
