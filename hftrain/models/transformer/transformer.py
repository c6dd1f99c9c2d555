"""The Transformer of hftrain: encoder-decoder, encoder-only and decoder-only from the same blocks.

"Attention Is All You Need" (Vaswani et al. 2017), sections 3.1 to 3.5, with what has proved itself since as switches
of [`TransformerConfig`]: norm before the sublayer, RMSNorm, SwiGLU, grouped-query attention, relative and rotary
positions. From the bottom up:

    attention.py     positions, masks; SelfAttention and CrossAttention (sections 3.2 and 3.5)
    blocks.py        FeedForward (3.3), TransformerLayer and TransformerStack, an encoder or a decoder (3.1)
    transformer.py   TransformerModel: embeddings (3.4) and one or two stacks
    heads.py         with an output on it: TransformerForConditionalGeneration, ...ForMaskedLM, ...ForCausalLM

Shapes: B examples, L length of the target, S of the source, D hidden_size, V vocab_size; `attention.py` has the rest.

Copied into saved folders, so that they load with `trust_remote_code=True` where hftrain is not installed: imports
torch, transformers and neighbours only.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPast,
    Seq2SeqModelOutput,
)
from transformers.utils import can_return_tuple

from .attention import Layout, read_layout, sinusoids
from .blocks import TransformerStack
from .configuration import TransformerConfig


class TransformerPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of all that follows."""

    config_class = TransformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["TransformerLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The law of every parameter, by the kind of module that has it. D is hidden_size.

            tables (token embeddings, learned positions,      N(0, 1/D): unit variance once scaled by sqrt(D), and
                T5 buckets, Shaw distances)                   logits of unit variance where the output is tied
            matrices (attention, feed-forward, untied output) Glorot uniform: variance 2 / (fan_in + fan_out)
            tables and matrices, if initializer is normal     N(0, initializer_range^2)
            biases, shifts of norms                           0
            scales of norms                                   1

        transformers marks parameters that came from a checkpoint, and `init` leaves those alone.
        """
        config = self.config
        if isinstance(module, nn.Embedding | nn.Linear):
            if config.initializer == "normal":
                init.normal_(module.weight, std=config.initializer_range)
            elif isinstance(module, nn.Embedding):
                init.normal_(module.weight, std=config.hidden_size**-0.5)
            else:
                init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            init.ones_(module.weight)
        if isinstance(bias := getattr(module, "bias", None), Tensor):
            init.zeros_(bias)


class TransformerModel(TransformerPreTrainedModel):
    """Token embeddings and the stacks the configuration asks for; hidden states out, no head."""

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        both = config.form == "encoder-decoder"
        # No padding_idx: padding is never looked at, and where pad is eos its embedding must learn like any other.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = self.decoder = None
        if layers := config.num_encoder_layers:
            self.encoder = TransformerStack(config, layers, causal=False)
        if layers := config.num_decoder_layers:
            self.decoder = TransformerStack(config, layers, causal=True, cross_attention=both)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        target_lengths: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutput | BaseModelOutputWithPast | Seq2SeqModelOutput:
        """Hidden states of the last layer. A model with one stack takes the arguments without `decoder_` for it.

        Args:
            input_ids: [B, S] of the source, or of the only sequence. Or `inputs_embeds` [B, S, D] as
                `get_input_embeddings()` gives them; they are scaled here.
            attention_mask: [B, S], 1 for tokens and 0 for padding; left out: all tokens. In a decoder it covers what
                is cached too, and padding on the right needs none: no token looks there.
            position_ids: [B or 1, S]; left out: 0, 1, 2, ... Where they do not go up by one a new document starts;
                without attention mask and cache, documents packed into a row do not see each other. A packed source
                needs a packed target: their documents are matched in order.
            decoder_input_ids, decoder_attention_mask, decoder_position_ids, decoder_inputs_embeds: of the target.
            encoder_outputs: its last hidden states [B, S, D] come first; the encoder is then not run.
            past_key_values: keys and values of earlier positions; the inputs are then the next ones only.
            target_lengths: with `length_embedding`, how many tokens the decoder takes in all, [B], or [B, L] where
                each document of a row has its own. In an encoder-decoder that is how many it produces, eos included;
                decoder-only, prompt and eos count too. Left out: counted by the attention mask or the documents, else
                as the ids that are not padding.
            use_cache: return `past_key_values`. Not by default.
            output_hidden_states: return all hidden states too: those that enter each layer, then the last.

        Raises:
            ValueError: arguments that do not fit the form of the model or each other.
        """
        config = self.config
        if output_attentions:
            raise ValueError("output_attentions is not supported: fused attention does not return its weights")
        if target_lengths is not None and not config.length_embedding:
            raise ValueError("target_lengths given to a model that was built without length_embedding")
        if not config.is_encoder_decoder and (decoder_input_ids is not None or decoder_inputs_embeds is not None):
            raise ValueError(f"this model is {config.form}: it takes input_ids and no decoder_input_ids")
        output_hidden_states = bool(
            config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )

        if self.encoder is None:
            return self.decode(
                input_ids=input_ids,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                target_lengths=target_lengths,
                use_cache=use_cache,
                output_hidden_states=output_hidden_states,
            )
        if encoder_outputs is None:
            encoder_outputs, source_layout = self.encode(
                input_ids, inputs_embeds, attention_mask, position_ids, output_hidden_states
            )
        else:
            encoder_outputs = BaseModelOutput(*encoder_outputs[:2])
            source = encoder_outputs[0]
            source_layout = read_layout(source.shape[1], source.device, attention_mask, position_ids)
        if self.decoder is None:
            return encoder_outputs
        decoded = self.decode(
            input_ids=decoder_input_ids,
            inputs_embeds=decoder_inputs_embeds,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            source=encoder_outputs[0],
            source_layout=source_layout,
            past_key_values=past_key_values,
            target_lengths=target_lengths,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            past_key_values=decoded.past_key_values,  # type: ignore[arg-type]
            decoder_hidden_states=decoded.hidden_states,
            encoder_last_hidden_state=encoder_outputs[0],
            encoder_hidden_states=encoder_outputs.hidden_states,
        )

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return super().get_encoder(modality) if self.encoder is None else SourceEncoder(self)

    def embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """[B, L] ids, or [B, L, D] embeddings -> [B, L, D], times sqrt(D) if so configured (section 3.4)"""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(
                "a stack takes token ids or embeddings, one of the two: input_ids or inputs_embeds, and for "
                "the target of an encoder-decoder decoder_input_ids or decoder_inputs_embeds"
            )
        embeddings = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        return embeddings * math.sqrt(self.config.hidden_size) if self.config.scale_embedding else embeddings

    def encode(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        output_hidden_states: bool = False,
    ) -> tuple[BaseModelOutput, Layout]:
        """The source, once through the encoder."""
        assert self.encoder is not None
        embeddings = self.embed(input_ids, inputs_embeds)
        layout = read_layout(embeddings.shape[1], embeddings.device, attention_mask, position_ids)
        states, passed = self.encoder(embeddings, layout, output_hidden_states=output_hidden_states)
        return BaseModelOutput(last_hidden_state=states, hidden_states=passed), layout

    def decode(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: Any,
        target_lengths: Tensor | None,
        use_cache: bool | None,
        output_hidden_states: bool,
        source: Tensor | None = None,
        source_layout: Layout | None = None,
    ) -> BaseModelOutputWithPast:
        """The next positions of the target, or of the only sequence, through the decoder."""
        assert self.decoder is not None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
            if source is not None:
                past_key_values = EncoderDecoderCache(past_key_values, DynamicCache())
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        embeddings = self.embed(input_ids, inputs_embeds)
        layout = read_layout(
            embeddings.shape[1], embeddings.device, attention_mask, position_ids, causal=True, past=past
        )
        packed = layout.documents is not None
        if source_layout is not None and past == 0 and packed != (source_layout.documents is not None):
            raise ValueError(
                "source and target are packed together or not at all: give position_ids and decoder_position_ids that "
                "restart at each document, and neither attention_mask nor decoder_attention_mask"
            )
        if self.config.length_embedding:
            if target_lengths is None:
                if past:
                    raise ValueError("after cached positions length_embedding needs target_lengths to be given")
                target_lengths = self.count_tokens(embeddings, input_ids, attention_mask, layout)
            total = target_lengths.unsqueeze(-1) if target_lengths.dim() == 1 else target_lengths
            left = (total - layout.position_ids).clamp(min=0)
            embeddings = embeddings + sinusoids(left, self.config.hidden_size).type_as(embeddings)
        states, passed = self.decoder(embeddings, layout, source, source_layout, past_key_values, output_hidden_states)
        return BaseModelOutputWithPast(last_hidden_state=states, past_key_values=past_key_values, hidden_states=passed)

    def count_tokens(
        self, embeddings: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None, layout: Layout
    ) -> Tensor:
        """[B] tokens of each row, or [B, L] of each token's document, for training with `length_embedding`."""
        if layout.documents is not None:
            return (layout.documents.unsqueeze(-1) == layout.documents.unsqueeze(-2)).sum(dim=-1)
        if attention_mask is not None:
            return attention_mask.sum(dim=-1)
        if input_ids is not None and self.config.pad_token_id is not None:
            # The first token counts whatever it is: many models start their decoder with pad.
            return 1 + (input_ids[:, 1:] != self.config.pad_token_id).sum(dim=-1)
        return torch.full(embeddings.shape[:1], embeddings.shape[1], device=embeddings.device)


class SourceEncoder(nn.Module):
    """`TransformerModel.encode` as a module that takes token ids, which is what `generate` asks `get_encoder` for.

    Its parameters are those of the embeddings and of the encoder, as in the encoders of transformers.
    """

    def __init__(self, model: TransformerModel):
        super().__init__()
        self.embed_tokens, self.stack = model.embed_tokens, model.encoder
        self.encode = model.encode

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        return self.encode(input_ids, inputs_embeds, attention_mask, position_ids, bool(output_hidden_states))[0]
