"""Whisper on short recordings: transformers' speech example beside hftrain, in seconds of audio per CPU second.

    python bench/speech.py --steps 24 --rounds 3       # 2 to 10 CPU seconds a step with a window of 30 s
    python bench/speech.py --quick                     # a few steps of a small model, to see that it runs

A Whisper of tiny.en's shape with random weights; clips are noise of 0.2 to 2 s with 4 to 8 labels, 8 a step: no time
depends on their content. The example (run_speech_recognition_seq2seq.py) makes the features of all clips beforehand,
which is not counted, and its Seq2SeqTrainer takes the steps of Trainer; hftrain makes them in each step, which is.
"hftrain, 30 s" hears what the example hears; "hftrain" cuts the window to the longest clip, as it does by default.
"""

from functools import partial
from typing import Any

import numpy as np
import rounds  # first: it sets the threads
import torch
from rounds import Clock, Contestant

RATE, CLIPS, BATCH, START = 16_000, 200, 8, 50257
SHAPE: dict[str, Any] = {
    "d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6, "vocab_size": 51864,
    "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "pad_token_id": 50256,
    "bos_token_id": 50256, "eos_token_id": 50256, "decoder_start_token_id": START,
}  # fmt: skip
SMALL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
SMALL |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}


def make() -> Any:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    return WhisperForConditionalGeneration(WhisperConfig(**SHAPE))


def clips() -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    lengths = np.clip(np.exp(draw.normal(np.log(0.5), 0.5, CLIPS)), 0.2, 2.0)
    return [
        {
            "wave": draw.normal(0, 0.1, int(length * RATE)).astype(np.float32),
            "labels": [*draw.integers(0, 50_000, draw.integers(3, 8)).tolist(), 50256],
        }
        for length in lengths
    ]


def frames(rows: list[dict[str, Any]]) -> int:
    """Hundredths of seconds."""
    return sum(len(row["wave"]) * 100 // RATE for row in rows)


def example(steps: int, clock: Clock) -> None:
    from transformers import WhisperFeatureExtractor

    extractor, rows = WhisperFeatureExtractor(), clips()
    for row in rows:
        row["input_features"] = torch.tensor(extractor(row["wave"], sampling_rate=RATE).input_features[0])

    def collate(rows: list[Any]) -> Any:
        """As its DataCollatorSpeechSeq2SeqWithPadding."""
        labels = [torch.tensor(row["labels"]) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        features = torch.stack([row["input_features"] for row in rows])
        clock.see(frames(rows), features.shape[0] * features.shape[2])
        return {"input_features": features, "labels": padded}

    rounds.trainer(clock, make(), rows, collate, steps, per_device_train_batch_size=BATCH, learning_rate=1e-5)


def ours(steps: int, clock: Clock, window: int) -> None:
    from transformers import WhisperFeatureExtractor

    from hftrain import Examples
    from hftrain.audio.features import Features
    from hftrain.audio.windows import hear_less
    from hftrain.tasks.speech_recognition import Listener, collator, recognition

    class Tokens:
        pad_token_id = 50256

    model, rows = make(), clips()
    hear_less(model, window)
    made = collator(Listener(Features(WhisperFeatureExtractor(), window), Tokens(), START, "unchanged"))

    def collate(rows: list[Any]) -> Any:
        batch = made(rows)
        clock.see(frames(rows), batch["input_features"].shape[0] * batch["input_features"].shape[2])
        return batch

    lengths = np.array([[frames([row])] for row in rows])
    rounds.hftrain(
        clock, model, Examples(rows, lengths), collate, recognition(model), steps, global_batch_size=BATCH,
        learning_rate=1e-5, train_sampling_strategy="random",
    )  # fmt: skip


CONTESTANTS: dict[str, Contestant] = {
    "transformers": example,
    "hftrain, 30 s": partial(ours, window=30),
    "hftrain": partial(ours, window=2),
}


def main() -> None:
    args = rounds.parser_of(str(__doc__), CONTESTANTS).parse_args()
    if args.quick:
        SHAPE.update(SMALL)
    numbers = rounds.compare(args, CONTESTANTS)
    if numbers is None:
        return
    for rows in numbers.values():
        for row in rows:
            row["seconds_per_cpu_s"] = row["per_cpu_s"] / 100
    print(rounds.table(numbers, "seconds_per_cpu_s", "seconds of audio per CPU second", 2))


if __name__ == "__main__":
    main()
