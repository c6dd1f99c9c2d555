"""Settings that all tasks of images have, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from hftrain.config import RecipeConfig, at_least


@dataclass
class ImageConfig(RecipeConfig):
    """Images: how they are decoded."""

    counted: ClassVar[str] = "images"
    BUILT_IN: ClassVar[str]  # the data set that needs no download

    dataloader_num_workers: Annotated[int, at_least(0)] = 2
    """Worker processes that decode and augment images; 0: the training process itself."""

    @property
    def built_in(self) -> bool:
        return self.train_file is None and self.dataset_name == self.BUILT_IN

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.tokenizer_name_or_path is not None:
            yield ("tokenizer_name_or_path",), "has no use here: images need no tokenizer"
