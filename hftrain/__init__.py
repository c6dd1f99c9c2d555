"""hftrain: a task is four values (examples, `collate`, `loss`, `evaluate`); `fit` takes them.

The names below are the public ones. Each is imported when it is first used, so that `import hftrain` needs no torch.
`hftrain.predict` is a module: `from hftrain.predict import predict`.
"""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hftrain.config import (
        Config,
        ConfigError,
        DataConfig,
        FineTuneConfig,
        LoraConfig,
        ModelConfig,
        RecipeConfig,
        TrainConfig,
        parse,
    )
    from hftrain.data.examples import Examples
    from hftrain.data.rows import Rows, load_rows
    from hftrain.data.splits import load_splits
    from hftrain.losses import Loss, causal_language_model, sequence_to_sequence
    from hftrain.metrics import load_metric, load_metrics
    from hftrain.models import TransformerConfig
    from hftrain.models.adapters import add_adapters
    from hftrain.models.load import load_model, load_tokenizer
    from hftrain.report.publishing import Report, publish
    from hftrain.train.evaluation import mean_loss
    from hftrain.train.loop import fit, start
    from hftrain.train.recipe import run
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "Config",
    "ConfigError",
    "DataConfig",
    "Examples",
    "FineTuneConfig",
    "LoraConfig",
    "Loss",
    "ModelConfig",
    "RecipeConfig",
    "Report",
    "Rows",
    "TrainConfig",
    "TransformerConfig",
    "add_adapters",
    "causal_language_model",
    "fit",
    "load_metric",
    "load_metrics",
    "load_model",
    "load_rows",
    "load_splits",
    "load_tokenizer",
    "mean_loss",
    "parse",
    "publish",
    "run",
    "sequence_to_sequence",
    "start",
]


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
