"""What `hftrain prepare` costs: tokens per second of a core, and memory.

    python bench/prepare.py corpus.jsonl --tokenizer HuggingFaceTB/SmolLM2-135M

CPU seconds are counted apart for the process that reads and writes and for the workers that tokenize: workers that one
reader can feed = their seconds / its seconds, per token.
"""

import argparse
import resource
import tempfile
import time

from transformers import AutoTokenizer

from hftrain.data.tokens import TokenFiles, blocks
from hftrain.tasks.pretraining.encoding import available_cores
from hftrain.tasks.pretraining.prepare import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--num_workers", type=int, default=available_cores())
    parser.add_argument("--max_length", type=int, default=2048)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    before, began = cost(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        prepare({"text": args.source}, tokenizer, folder, num_workers=max(2, args.num_workers))
        wall, after = time.perf_counter() - began, cost()
        files = TokenFiles(folder)
        text = sum(shard["bytes"] for shard in files.shards)
        reader, workers = (after[who][0] - before[who][0] for who in ("self", "children"))
        print(f"{len(files):,} documents, {text / 1e6:.0f} MB of text, {files.tokens / 1e6:.1f} million tokens")
        print(f"a core tokenizes {files.tokens / workers:,.0f} tokens/s ({text / workers / 1e6:.2f} MB/s)")
        print(f"reading and writing: {files.tokens / reader:,.0f} tokens/s, enough for {workers / reader:.0f} workers")
        print(f"here: {files.tokens / wall:,.0f} tokens/s in {wall:.0f} s, {args.num_workers} workers")
        print(f"peak memory: main process {after['self'][1]:.0f} MB ({before['self'][1]:.0f} MB before it begins), "
              f"largest worker {after['children'][1]:.0f} MB")  # fmt: skip
        began = time.process_time()
        packed = blocks(files, args.max_length, seed=0)
        print(f"packed to {args.max_length}: {len(packed):,} packs in {time.process_time() - began:.2f} s, "
              f"{100 * packed.padding:.3f} % padding, {packed.pieces} pieces of longer documents")  # fmt: skip
        began = time.process_time()
        count = min(len(packed), 2000)
        packed.__getitems__(range(count))
        print(f"read: {packed.lengths[:count].sum() / (time.process_time() - began):,.0f} tokens/s")


def cost() -> dict[str, tuple[float, float]]:
    """CPU seconds and peak MB of this process, and of its finished children together and the largest of them."""
    used = {"self": resource.getrusage(resource.RUSAGE_SELF), "children": resource.getrusage(resource.RUSAGE_CHILDREN)}
    return {who: (usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024) for who, usage in used.items()}


if __name__ == "__main__":
    main()
