"""The models that are pretrained: new ones of any architecture, or pretrained ones that go on."""

from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from hftrain.models import load
from hftrain.models.fit import check_fit
from hftrain.models.new import new_shape
from hftrain.tasks.pretraining.config import PretrainConfig, PretrainMlmConfig
from hftrain.tasks.pretraining.denoising import AUTO
from hftrain.text import vocabulary


def load_causal_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The model that `config` names, or a new one of the architecture `config.model`; without adapters yet.

    Raises:
        ValueError: `max_length` is more than the model has positions for.
    """
    return _load(config, tokenizer, AutoModelForCausalLM, {"num_encoder_layers": 0})


def load_denoiser(config: PretrainMlmConfig, tokenizer: PreTrainedTokenizerBase) -> Any:
    """As `load_causal_model`, of the class that the objective needs, and with adapters if asked for."""
    masked = config.objective == "masked_tokens"
    model = _load(config, tokenizer, AUTO[config.objective], {"num_decoder_layers": 0} if masked else {})
    return load.add_adapters(model, config, None if masked else "SEQ_2_SEQ_LM")


def _load(
    config: PretrainConfig | PretrainMlmConfig,
    tokenizer: PreTrainedTokenizerBase,
    auto_class: Any,
    form: dict[str, int],
) -> Any:
    def shape() -> Any:
        return new_shape(config.model, config.model_config, vocabulary(tokenizer), config.max_length, form)

    model = load.load_model(config, auto_class, new=shape)
    check_fit(model, max_length=config.max_length)
    return model
