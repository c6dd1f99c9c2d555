"""What a pack of short documents costs beside the documents as rows: attention with a mask, and block by block.

    python bench/packs.py                          # packs of 256, 1,024 and 4,096 tokens
    python bench/packs.py --quick                  # few tokens, to see that it runs

A new Llama of 4 layers (width 256, vocabulary of 1,000) computes the loss and the gradients of 4,096 tokens. CPU
seconds of one thread, the best of `--repeat`. Documents have 16 tokens each, or 8 to 40, when they pad as rows.
"""

import argparse
import os
import time
from functools import partial
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")

import numpy as np
import torch

from hftrain import causal_language_model
from hftrain.data.packing import Packed, pack
from hftrain.models.blocks import BLOCKS
from hftrain.text.causal import collate_causal

VOCABULARY = 1000


def make_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, bos_token_id=None, eos_token_id=None, **size))


def make_documents(shortest: int, longest: int, tokens: int) -> list[dict[str, np.ndarray]]:
    draw, documents = np.random.default_rng(0), []
    while tokens:
        length = min(tokens, int(draw.integers(shortest, longest + 1)))
        documents.append({"input_ids": draw.integers(1, VOCABULARY, length)})
        tokens -= length
    return documents


def seconds(model: Any, batch: dict[str, Any], repeat: int) -> tuple[float, float]:
    """The loss, and the CPU seconds of forward and backward."""
    times, value = [], 0.0
    for _ in range(repeat):
        model.zero_grad()
        began = time.process_time()
        summed = causal_language_model().summed(model, batch)
        summed.backward()
        times.append(time.process_time() - began)
        value = float(summed.detach())
    return value, min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--packs", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="256 tokens, once")
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.packs, args.repeat = 256, [64], 1
    torch.set_num_threads(1)
    model, collate = make_model(), partial(collate_causal, pad_token_id=0)
    print("| documents | packs of | rows, s | mask, s | blocks, s | mask / rows | blocks / rows | losses apart by |")
    print("|---|---|---|---|---|---|---|---|")
    for shortest, longest in ((16, 16), (8, 40)):
        documents = make_documents(shortest, longest, args.tokens)
        lengths = [len(document["input_ids"]) for document in documents]
        model.set_attn_implementation("sdpa")
        _, rows = seconds(model, collate(documents), args.repeat)
        for room in args.packs:
            packs = Packed(documents, pack(lengths, room))
            model.set_attn_implementation("sdpa")
            expected, mask = seconds(model, collate(packs[:]), args.repeat)
            model.set_attn_implementation(BLOCKS)
            loss, blocks = seconds(model, collate(packs[:], blocks=True), args.repeat)
            cells = [f"{shortest} to {longest} tokens", f"{room:,}", f"{rows:.2f}", f"{mask:.2f}", f"{blocks:.2f}"]
            cells += [f"{mask / rows:.2f}", f"{blocks / rows:.2f}", f"{abs(loss - expected) / expected:.0e}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
