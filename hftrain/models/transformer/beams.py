"""Beam search of an encoder-decoder in which a finished sentence leaves the batch, and beams share their source.

The search is that of transformers (`GenerationMixin._beam_search`), with the same result. There, a batch goes on whole
until its last sentence is finished, and each beam has its own copy of the source's keys and values, which every step
reorders.

Shapes: B sentences, A of them unfinished, K beams, C >= 2K candidates of a sentence, L tokens so far, T at most.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList, generation
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

NEVER = -1e9  # a score below that of any sentence
ROW_BY_ROW = (  # these look at each row alone, so that rows may leave
    generation.EosTokenCriteria,
    generation.ForcedBOSTokenLogitsProcessor,
    generation.ForcedEOSTokenLogitsProcessor,
    generation.InfNanRemoveLogitsProcessor,
    generation.LogitNormalization,
    generation.MaxLengthCriteria,
    generation.MinLengthLogitsProcessor,
    generation.MinNewTokensLengthLogitsProcessor,
    generation.NoBadWordsLogitsProcessor,
    generation.NoRepeatNGramLogitsProcessor,
    generation.RepetitionPenaltyLogitsProcessor,
    generation.SequenceBiasLogitsProcessor,
    generation.SuppressTokensAtBeginLogitsProcessor,
    generation.SuppressTokensLogitsProcessor,
)


class BeamSearchMixin(GenerationMixin):
    """`generate` of a model whose cross-attention takes B rows of the source and B x K of the target."""

    def _beam_search(
        self: Any,
        input_ids: Any,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        **kwargs: Any,
    ) -> Any:
        config, mask, lengths = generation_config, kwargs.get("attention_mask"), kwargs.get("target_lengths")
        other = config.do_sample or config.return_dict_in_generate or config.low_memory or not config.use_cache
        other = other or any(type(rule) not in ROW_BY_ROW for rule in (*logits_processor, *stopping_criteria))
        other = other or "decoder_attention_mask" in kwargs or (self.config.length_embedding and lengths is None)
        if other or synced_gpus:
            return GenerationMixin._beam_search(
                self, input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, **kwargs
            )
        beams = config.num_beams
        finished = Finished(input_ids.unflatten(0, (-1, beams)), config)
        source = kwargs["encoder_outputs"][0][::beams]  # [A, S, D]
        mask, lengths = (None if rows is None else rows[::beams] for rows in (mask, lengths))
        cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
        alive = torch.arange(len(source), device=input_ids.device)  # [A]
        scores = torch.zeros(len(source), beams, device=input_ids.device)
        scores[:, 1:] = NEVER  # at first all beams are alike
        inputs = input_ids
        while True:
            logits = self(
                encoder_outputs=(source,),
                attention_mask=mask,
                decoder_input_ids=inputs,
                past_key_values=cache,
                use_cache=True,
                target_lengths=None if lengths is None else lengths.repeat_interleave(beams, dim=0),
            ).logits[:, -1]
            words = logits_processor(input_ids, logits.float().log_softmax(dim=-1))
            totals = words.unflatten(0, (-1, beams)) + scores[:, :, None]
            top, index = totals.flatten(1).topk(finished.candidates)  # [A, C]
            beam, word = index // words.shape[-1], index % words.shape[-1]
            texts = torch.cat((select(input_ids.unflatten(0, (-1, beams)), beam), word[..., None]), dim=-1)
            ends = stopping_criteria(texts.flatten(0, 1), None).unflatten(0, beam.shape)
            finished.take(alive, texts, top, ends)
            scores, chosen = (top + NEVER * ends).topk(beams)
            beam, texts = beam.gather(1, chosen), select(texts, chosen)
            stay = finished.improvable(alive, scores, texts.shape[-1])  # [A]
            if ends.all() or not stay.any():
                return finished.best()
            rows = (torch.arange(len(alive), device=alive.device)[:, None] * beams + beam)[stay].flatten()
            keep(cache.self_attention_cache, rows)
            if not stay.all():
                keep(cache.cross_attention_cache, stay)
                alive, source, scores, texts = alive[stay], source[stay], scores[stay], texts[stay]
                mask, lengths = (None if rows is None else rows[stay] for rows in (mask, lengths))
            input_ids = texts.flatten(0, 1)
            inputs = input_ids[:, -1:]


def select(texts: Tensor, index: Tensor) -> Tensor:
    """[A, N, L], [A, M] -> [A, M, L]: the texts of each sentence that `index` names."""
    return texts.gather(1, index[..., None].expand(-1, -1, texts.shape[-1]))


def keep(cache: Any, rows: Tensor) -> None:
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[rows], layer.values[rows]


class Finished:
    """The best finished texts of each sentence.

    Args:
        prompts: [B, K, L], what the decoder begins with.
    """

    def __init__(self, prompts: Tensor, settings: Any):
        ends, pad = settings._eos_token_tensor, settings._pad_token_tensor
        self.config, self.prompt = settings, prompts.shape[-1]
        self.candidates = max(2, 1 + (0 if ends is None else len(ends))) * settings.num_beams
        fill = -1 if ends is None else int(pad or ends[0])  # as transformers fills
        self.texts = prompts.new_full((*prompts.shape[:2], settings.max_length), fill)
        self.texts[..., : self.prompt] = prompts
        self.scores = torch.full(prompts.shape[:2], NEVER, device=prompts.device)
        self.lengths = torch.zeros_like(self.scores, dtype=torch.long)  # tokens behind the prompt

    def take(self, alive: Tensor, texts: Tensor, scores: Tensor, ends: Tensor) -> None:
        """Keeps the K best of what is there and of the first K candidates [A, C, L + 1] that `ends`."""
        beams, length = self.config.num_beams, texts.shape[-1] - self.prompt
        if not ends[:, :beams].any():
            return
        scores = scores / length**self.config.length_penalty + NEVER * ~ends
        scores[:, beams:] += NEVER
        merged = torch.cat((self.scores[alive], scores), dim=1)
        self.scores[alive], best = merged.topk(beams)
        padded = self.texts[alive][:, :1].expand(-1, texts.shape[1], -1).clone()
        padded[..., : texts.shape[-1]] = texts
        lengths = torch.full_like(best[:, :1], length).expand(-1, texts.shape[1])
        both = torch.cat((self.texts[alive], padded), dim=1)
        self.texts[alive] = select(both, best)
        self.lengths[alive] = torch.cat((self.lengths[alive], lengths), dim=1).gather(1, best)

    def improvable(self, alive: Tensor, running: Tensor, length: int) -> Tensor:
        """[A], whether a running beam can still get among the best; `running` [A, K] are their scores."""
        early, penalty = self.config.early_stopping, self.config.length_penalty
        longest = self.config.max_length if early == "never" and penalty > 0 else length
        complete = (self.scores[alive] > NEVER / 2).all(dim=1)
        worst = torch.where(complete, self.scores[alive].min(dim=1).values, NEVER)
        better = running[:, 0] / (longest - self.prompt) ** penalty > worst
        return better & ~complete if early is True else better

    def best(self) -> Tensor:
        """[B x num_return_sequences, T] tokens, cut behind the longest."""
        several = self.config.num_return_sequences
        longest = int(self.lengths[:, :several].max())
        return self.texts[:, :several, : self.prompt + longest].flatten(0, 1)
