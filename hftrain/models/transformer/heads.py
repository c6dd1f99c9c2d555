"""Language models, a `TransformerModel` with an output matrix on it (section 3.4), and models that understand text: an
encoder with a small matrix on it.

Shapes are those of `transformer.py`: B examples, L length of the target, S of the source, D hidden_size, V vocab_size,
K num_labels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    Seq2SeqLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple

from .beams import BeamSearchMixin
from .configuration import TransformerConfig
from .transformer import TransformerModel, TransformerPreTrainedModel


class TransformerOfForm(TransformerPreTrainedModel):
    """A `TransformerModel` of the form that a subclass is for, as `model`; the subclass puts a head on it."""

    form: str  # the `TransformerConfig.form` a subclass is for

    def __init__(self, config: TransformerConfig):
        if config.form != self.form:
            raise ValueError(
                f"{type(self).__name__} is {self.form}, and num_encoder_layers={config.num_encoder_layers}, "
                f"num_decoder_layers={config.num_decoder_layers} is {config.form}: change the layers or take "
                f"{MODEL_OF_FORM[config.form]}"
            )
        super().__init__(config)
        self.model = TransformerModel(config)


class TransformerWithHead(TransformerOfForm):
    """A `TransformerModel` and the output matrix, tied to the embeddings or not (section 3.4)."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


class LengthGenerationMixin(GenerationMixin):
    """`generate`, which a model with `length_embedding` has to tell how much to write."""

    def prepare_inputs_for_generation(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if self.config.length_embedding and kwargs.get("target_lengths") is None:
            raise ValueError(
                "this model needs the number of tokens to produce (length_embedding): pass "
                "generate(target_lengths=...), a tensor of one whole number for each row"
            )
        return GenerationMixin.prepare_inputs_for_generation(self, *args, **kwargs)


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """[B, L, V], [B, L] -> mean over the labels that are not -100, in float32, smoothed as in section 5.4."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), label_smoothing=label_smoothing)


class TransformerForConditionalGeneration(TransformerWithHead, BeamSearchMixin, LengthGenerationMixin):
    """Encoder-decoder, P(target | source): translation, summarisation, any text to text."""

    form = "encoder-decoder"

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
        labels: Tensor | None = None,
        label_smoothing: float = 0.0,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Seq2SeqLMOutput:
        """Logits [B, L, V] of the token that follows each decoder input; the other arguments are `TransformerModel`'s.

        Args:
            labels: [B, L], -100 for no label. With them the loss is returned too, and decoder inputs that are
                left out are the labels shifted right.
            label_smoothing: share of probability spread over the vocabulary in that loss.
        """
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            decoder_position_ids=decoder_position_ids,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            target_lengths=target_lengths,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(outputs.last_hidden_state)
        return Seq2SeqLMOutput(
            loss=None if labels is None else cross_entropy(logits, labels, label_smoothing),
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.decoder_hidden_states,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
        )

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """[B, L] -> [B, L]: the start token, then the labels but for the last; -100 becomes padding."""
        if self.config.decoder_start_token_id is None or self.config.pad_token_id is None:
            raise ValueError(
                "decoder inputs from labels need decoder_start_token_id and pad_token_id in the configuration"
            )
        shifted = F.pad(labels[:, :-1], (1, 0), value=self.config.decoder_start_token_id)
        return shifted.masked_fill(shifted == -100, self.config.pad_token_id)


class TransformerForMaskedLM(TransformerWithHead):
    """Encoder-only, P(hidden tokens | the others) (Devlin et al. 2019)."""

    form = "encoder-only"

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        label_smoothing: float = 0.0,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> MaskedLMOutput:
        """Logits [B, S, V] of the token at each position; the other arguments are `TransformerModel`'s.

        Args:
            labels: [B, S], -100 where nothing is to be guessed. With them the loss is returned too.
            label_smoothing: share of probability spread over the vocabulary in that loss.
            use_cache: taken and ignored, as by the encoders of transformers: there is nothing to cache.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(outputs.last_hidden_state)
        return MaskedLMOutput(
            loss=None if labels is None else cross_entropy(logits, labels, label_smoothing),
            logits=logits,
            hidden_states=outputs.hidden_states,
        )


class TransformerForCausalLM(TransformerWithHead, LengthGenerationMixin):
    """Decoder-only, P(next token | those before) (Radford et al. 2018)."""

    form = "decoder-only"

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        target_lengths: Tensor | None = None,
        labels: Tensor | None = None,
        label_smoothing: float = 0.0,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """Logits [B, L, V] of the token that follows each input; the other arguments are `TransformerModel`'s.

        Args:
            labels: [B, L], the input ids themselves, -100 where there is no loss; they are shifted here. With them the
                loss is returned too.
            label_smoothing: share of probability spread over the vocabulary in that loss.
            logits_to_keep: only for the last so many positions; 0 for all.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            target_lengths=target_lengths,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(
            loss=None if labels is None else cross_entropy(logits[:, :-1], labels[:, 1:], label_smoothing),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )


class TransformerForSequenceClassification(TransformerOfForm):
    """A text's class, its classes or a number, from the mean of the encoder's states over the text's tokens."""

    form = "encoder-only"

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Logits [B, K]; labels [B], or [B, K] of several at once (`config.problem_type`), add the loss."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        states = outputs.last_hidden_state
        weights = torch.ones_like(states[..., :1]) if attention_mask is None else attention_mask.unsqueeze(-1)
        pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
        logits = self.classifier(self.dropout(pooled.type_as(states)))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class TransformerForTokenClassification(TransformerOfForm):
    """Each token's class, from the encoder's state there."""

    form = "encoder-only"

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> TokenClassifierOutput:
        """Logits [B, S, K]; labels [B, S], -100 for no label, add the loss."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None if labels is None else self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class TransformerForQuestionAnswering(TransformerOfForm):
    """Where in the text an answer begins and ends, from the encoder's states (Devlin et al. 2019, section 4.2)."""

    form = "encoder-only"

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> QuestionAnsweringModelOutput:
        """Logits of the first and of the last token, [B, S] each, of padding too; positions [B] add the loss."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        start_logits, end_logits = self.qa_outputs(outputs.last_hidden_state).unbind(dim=-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start_logits, end_logits, start_positions, end_positions)
        return QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_logits, end_logits=end_logits, hidden_states=outputs.hidden_states
        )


MODEL_OF_FORM = {
    model.form: model.__name__
    for model in (TransformerForConditionalGeneration, TransformerForMaskedLM, TransformerForCausalLM)
}
