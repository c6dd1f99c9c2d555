"""hftrain: a task is four values (examples, `collate`, `loss`, `evaluate`), and `hftrain.loop.fit` is the loop that takes them."""

__version__ = "0.1.0"
