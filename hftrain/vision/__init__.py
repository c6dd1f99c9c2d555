"""Images: decoding, sizes and contents, pixels as a model reads them, augmentation."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.vision.augment import Augmentation
    from hftrain.vision.decoding import decode, read
    from hftrain.vision.pixels import Pixels
    from hftrain.vision.sources import ENDINGS
else:
    __getattr__ = lazily(__name__)

__all__ = ["ENDINGS", "Augmentation", "Pixels", "decode", "read"]
