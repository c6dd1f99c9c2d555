"""Pairs of texts, and a tokenizer that was learnt from them."""

import pytest

from hftrain.tasks.translation.cldr import generate
from hftrain.text import (
    train_tokenizer,
)


@pytest.fixture(scope="session")
def rows():
    return generate(train=600, validation=1, test=1)["train"]


@pytest.fixture(scope="session")
def texts(rows):
    return [*rows["source"], *rows["target"]]


@pytest.fixture(scope="session")
def tokenizer(texts):
    return train_tokenizer(texts, 400)
