"""The shape of the custom Transformer: every field with its meaning, checked when the configuration is made.

Copied into saved folders beside the model, so it imports transformers and nothing of hftrain.
"""

from typing import ClassVar

from transformers import PreTrainedConfig

CHOICES = {
    "position_embedding_type": ("sinusoidal", "learned", "shaw", "t5", "rotary"),
    "norm_type": ("layer_norm", "rms_norm"),
    "norm_position": ("pre", "post"),
    "hidden_act": ("relu", "gelu", "swiglu"),
    "initializer": ("xavier", "normal"),
}
AT_LEAST_ONE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "max_relative_position",
)
RATES = ("dropout", "attention_dropout", "activation_dropout")
POSITIVE = ("rope_theta", "norm_eps", "initializer_range")
SWITCHES = ("length_embedding", "use_bias", "scale_embedding", "tie_word_embeddings", "use_cache")


class TransformerConfig(PreTrainedConfig):
    r"""Shape of a [`TransformerModel`] and of its three language models.

    The two layer counts choose the form: both positive is encoder-decoder, `num_decoder_layers=0` encoder-only
    (masked language model), `num_encoder_layers=0` decoder-only (causal language model).

    Args:
        vocab_size: tokens of the one vocabulary that source and target share.
        hidden_size: width D of the residual stream (d_model of Vaswani et al. 2017).
        intermediate_size: inner width of the feed-forward sublayer (d_ff).
        num_encoder_layers, num_decoder_layers: depth of each stack, 0 for none.
        num_attention_heads: heads H; each is D / H wide.
        num_key_value_heads: key/value heads G, shared by H / G query heads each (grouped-query attention,
            Ainslie et al. 2023). Left out: H, ordinary multi-head attention.
        position_embedding_type: `sinusoidal` (Vaswani et al. 2017, section 3.5), `learned` (one table per stack),
            `shaw` (relative keys and values, Shaw et al. 2018, eq. 3-4), `t5` (bucketed relative bias, Raffel et al.
            2020, section 2.1) or `rotary` (Su et al. 2021, RoFormer). The last three act in self-attention alone.
        max_position_embeddings: rows of the `learned` table; the other kinds have no limit, and for them it only
            tells tokenizers and users what length was meant.
        max_relative_position: distance k at which `shaw` clips.
        relative_attention_num_buckets, relative_attention_max_distance: buckets of `t5`, and the distance from which
            all share the last one.
        rope_theta: base of the `rotary` angles.
        length_embedding: tell the decoder, at each position, how many tokens are left to produce, by a sinusoid of
            that number added to its input (Takase & Okazaki 2019, length-difference encoding beside the positions).
            See `target_lengths` of the models.
        norm_type: `layer_norm` or `rms_norm` (Zhang & Sennrich 2019).
        norm_position: `post`, norm(x + f(x)), as Vaswani et al. 2017; `pre`, x + f(norm(x)) with a norm after the
            last layer, which trains without a careful warmup (Xiong et al. 2020).
        norm_eps: added to the variance.
        hidden_act: `relu`, `gelu`, or the gated `swiglu` (Shazeer 2020), which has three matrices.
        use_bias: biases in linear layers and in LayerNorm.
        tie_word_embeddings: one matrix for source, target and output embeddings (section 3.4). Off: the output has
            its own; source and target always share.
        scale_embedding: multiply embeddings by sqrt(D) (section 3.4).
        dropout: rate on the embedding sum and on each sublayer's output (section 5.4).
        attention_dropout: rate on attention weights. Above 0, the CPU has no fused kernel in training.
        activation_dropout: rate inside the feed-forward sublayer.
        initializer: `xavier` (matrices Glorot uniform, tables N(0, 1/D)) or `normal` (all N(0, initializer_range^2)).
        initializer_range: standard deviation of `normal`.
        pad_token_id, bos_token_id, eos_token_id: as in the tokenizer. No computation looks at a token's id, except
            that padding of decoder inputs is skipped where lengths are counted for `length_embedding`.
        decoder_start_token_id: first decoder input; left out: bos, or pad where there is no bos.
        use_cache: whether `generate` keeps keys and values. A plain forward keeps them only if `use_cache=True`
            is passed to it.

    Raises:
        ValueError: a value that cannot be built, with its name and what would do.
    """

    model_type: ClassVar[str] = "hftrain_transformer"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int = 32000
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = None  # type: ignore[assignment]  # __post_init__ fills it in
    position_embedding_type: str = "sinusoidal"
    max_position_embeddings: int = 1024
    max_relative_position: int = 16
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    rope_theta: float = 10000.0
    length_embedding: bool = False
    norm_type: str = "layer_norm"
    norm_position: str = "pre"
    norm_eps: float = 1e-5
    hidden_act: str = "relu"
    use_bias: bool = True
    tie_word_embeddings: bool = True
    scale_embedding: bool = True
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    initializer: str = "xavier"
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = None
    use_cache: bool = True

    def __post_init__(self, **kwargs):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.pad_token_id if self.bos_token_id is None else self.bos_token_id
        self._check()
        self.is_encoder_decoder = self.form == "encoder-decoder"
        super().__post_init__(**kwargs)

    @classmethod
    def shape_fields(cls) -> set[str]:
        """Names a user may set; the vocabulary's size and special ids are the tokenizer's to say, so not among them."""
        return {name for name in TransformerConfig.__annotations__ if not name.endswith("_token_id")} - {
            "vocab_size",
            "model_type",
            "keys_to_ignore_at_inference",
        }

    @property
    def form(self) -> str:
        """`encoder-decoder`, `encoder-only` or `decoder-only`."""
        if self.num_encoder_layers and self.num_decoder_layers:
            return "encoder-decoder"
        return "encoder-only" if self.num_encoder_layers else "decoder-only"

    @property
    def num_hidden_layers(self) -> int:
        """Layers that have a key-value cache; transformers sizes its caches by this name."""
        return self.num_decoder_layers or self.num_encoder_layers

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def _check(self) -> None:
        for name, choices in CHOICES.items():
            self._demand(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        for name in AT_LEAST_ONE:
            self._demand(name, _is_whole(getattr(self, name)) and getattr(self, name) >= 1, "a whole number >= 1")
        for name in ("num_encoder_layers", "num_decoder_layers"):
            self._demand(name, _is_whole(getattr(self, name)) and getattr(self, name) >= 0, "a whole number >= 0")
        for name in RATES:
            self._demand(name, _is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in POSITIVE:
            self._demand(name, _is_number(getattr(self, name)) and getattr(self, name) > 0, "a number > 0")
        for name in SWITCHES:
            self._demand(name, isinstance(getattr(self, name), bool), "true or false")
        for name in ("pad_token_id", "bos_token_id", "decoder_start_token_id"):
            value = getattr(self, name)
            inside = value is None or (_is_whole(value) and 0 <= value < self.vocab_size)
            self._demand(name, inside, f"an id of the vocabulary, 0 to {self.vocab_size - 1}")

        if not self.num_encoder_layers and not self.num_decoder_layers:
            raise ValueError("num_encoder_layers and num_decoder_layers are both 0: give one of them layers")
        D, H, G = self.hidden_size, self.num_attention_heads, self.num_key_value_heads
        self._demand("hidden_size", D % H == 0, f"a multiple of num_attention_heads={H}, such as {-(-D // H) * H}")
        self._demand("num_key_value_heads", H % G == 0, f"a divisor of num_attention_heads={H}")
        if self.position_embedding_type == "sinusoidal" or self.length_embedding:
            self._demand("hidden_size", D % 2 == 0, "even: sinusoids fill it with pairs of sine and cosine")
        if self.position_embedding_type == "rotary":
            self._demand("hidden_size", D // H % 2 == 0, f"an even multiple of num_attention_heads={H}: pairs rotate")
        if self.position_embedding_type == "t5":
            buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
            enough = _is_whole(buckets) and buckets >= 4 and buckets % 2 == 0
            self._demand("relative_attention_num_buckets", enough, "even and >= 4: half of them for each direction")
            beyond = _is_whole(distance) and distance > buckets // 2
            self._demand("relative_attention_max_distance", beyond, f"above {buckets // 2}, half the buckets")
        if self.length_embedding and not self.num_decoder_layers:
            raise ValueError(
                "length_embedding tells a decoder how much to write, and num_decoder_layers is 0: drop one"
            )

    def _demand(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {wanted}; it is {getattr(self, name)!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
