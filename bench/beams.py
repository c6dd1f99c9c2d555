"""Beam search of the custom Transformer beside transformers', on the same weights and on a Marian of its size.

    python bench/beams.py [--quick] [--json beams.json]

A step is a batch of 32 sentences of 8 to 30 tokens with 4 beams. Weights are random; a logits processor ends each
sentence, for `narrow` within 4 tokens of a common length (as in a sorted batch), for `wide` anywhere from 4 to 40.
"""

from collections.abc import Callable
from functools import partial

import rounds
import torch
from rounds import Clock, Contestant
from transformers import GenerationMixin, LogitsProcessor, MarianConfig, MarianMTModel, PreTrainedModel

from hftrain.models import TransformerConfig, TransformerForConditionalGeneration
from hftrain.models.transformer import beams

BATCH, VOCAB, LONGEST = 32, 8000, 40
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


class EndAt(LogitsProcessor):
    """Ends a text at the length that its second token names."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, 2] = torch.where(input_ids.shape[1] >= input_ids[:, 1], 0.0, -50.0)
        return scores


def own() -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 1024, "num_encoder_layers": 3, "num_decoder_layers": 3}
    return TransformerForConditionalGeneration(TransformerConfig(vocab_size=VOCAB, **shape, **SPECIAL)).eval()


def marian() -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {
        f"{part}_{name}": n
        for part in ("encoder", "decoder")
        for name, n in {"layers": 3, "ffn_dim": 1024, "attention_heads": 4}.items()
    }
    return MarianMTModel(
        MarianConfig(vocab_size=VOCAB, d_model=256, forced_eos_token_id=None, **shape, **SPECIAL)
    ).eval()


def contest(make: Callable[[], PreTrainedModel], wide: bool, ours: bool, steps: int, clock: Clock) -> None:
    model, draw = make(), torch.Generator().manual_seed(1)
    search = beams.BeamSearchMixin._beam_search if ours else GenerationMixin._beam_search
    rules, before = beams.ROW_BY_ROW, beams.BeamSearchMixin._beam_search
    beams.ROW_BY_ROW, beams.BeamSearchMixin._beam_search = (*rules, EndAt), search  # type: ignore[method-assign]
    for _ in range(steps):
        lengths = torch.randint(8, 31, (BATCH,), generator=draw).sort().values
        middle = torch.full_like(lengths, int(lengths.float().mean()))
        ends = (
            torch.randint(4, LONGEST, (BATCH,), generator=draw)
            if wide
            else (middle + torch.randint(-4, 5, (BATCH,), generator=draw))
        )
        ids = torch.randint(3, VOCAB, (BATCH, 30), generator=draw)
        starts = torch.stack((torch.ones_like(ends), ends), dim=1)
        with torch.no_grad():
            output = model.generate(
                ids,
                attention_mask=(torch.arange(30) < lengths[:, None]).long(),
                decoder_input_ids=starts,
                num_beams=4,
                early_stopping=True,
                max_length=LONGEST + 4,
                logits_processor=[EndAt()],
            )
        clock.see(int((output > 2).sum()), output.numel())
        clock.tick()
    beams.ROW_BY_ROW, beams.BeamSearchMixin._beam_search = rules, before  # type: ignore[method-assign]


CONTESTANTS: dict[str, Contestant] = {
    f"{name}, {kind}": partial(contest, make, kind == "wide", ours)
    for kind in ("narrow", "wide")
    for name, make, ours in (("marian", marian, False), ("transformers' search", own, False), ("ours", own, True))
}


def main() -> None:
    args = rounds.parser_of(str(__doc__), CONTESTANTS).parse_args()
    if (numbers := rounds.compare(args, CONTESTANTS)) is None:
        return
    print(rounds.table(numbers, "cpu_ms", "CPU ms a batch", 0))
    print("\n| aim | | measured | |\n|---|---|---|---|")
    for kind in ("narrow", "wide"):
        if {f"ours, {kind}", f"marian, {kind}"} <= numbers.keys():
            value = 1 / rounds.ratio(numbers, "cpu_ms", f"ours, {kind}", f"marian, {kind}")
            print(rounds.judge(f"beam search / Marian's, {kind}", value, 1.5))


if __name__ == "__main__":
    main()
