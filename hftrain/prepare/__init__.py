"""Text into token files, once, before training."""

from hftrain.prepare.writing import prepare

__all__ = ["prepare"]
