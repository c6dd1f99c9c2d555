"""hftrain: a task is four values (examples, `collate`, `loss`, `evaluate`); `hftrain.train.loop.fit` takes them."""

__version__ = "0.1.0"
