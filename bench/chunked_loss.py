"""Time and peak memory of the loss over a large vocabulary: full logits against the head that sums in chunks.

    python bench/chunked_loss.py                       # 2,048 tokens, width 768, 50,257 classes
    python bench/chunked_loss.py --tokens 16384 --dtype bfloat16
    python bench/chunked_loss.py --quick               # 64 tokens, to see that it runs

Forward and backward of the output layer alone, in a process of its own for each. Memory is what is allocated above the
inputs, the weight and its gradient: on a GPU as the allocator counts it, on a CPU as the system does (peak RSS). Time
on a CPU is the process's own.
"""

import argparse
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from hftrain.losses import chunked_cross_entropy, cross_entropy


def peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, args: argparse.Namespace) -> None:
    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", getattr(torch, args.dtype)
    torch.manual_seed(0)
    hidden = torch.randn(1, args.tokens, args.width, device=device, dtype=dtype, requires_grad=True)
    weight = (torch.randn(args.classes, args.width, device=device, dtype=dtype) * 0.02).requires_grad_()
    labels = torch.randint(args.classes, (1, args.tokens), device=device)
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    losses = {
        "full": lambda h, y: cross_entropy(F.linear(h, weight), y),
        "chunked": lambda h, y: chunked_cross_entropy(h, weight, None, y),
    }
    loss = losses[name]
    clock = time.perf_counter if device == "cuda" else time.process_time  # of a busy machine, only what is ours
    before, times = peak(device), []
    for _ in range(args.repeat):
        began = clock()
        value = loss(hidden, labels)
        if device == "cuda":
            torch.cuda.synchronize()
        forward = clock()
        value.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append((forward - began, clock() - forward))
    forward, backward = min(times, key=sum)
    print(
        f"{name:8} forward {forward:7.3f} s  backward {backward:7.3f} s  both {forward + backward:7.3f} s  "
        f"memory {(peak(device) - before) / 2**20:8.0f} MiB  loss {float(value.detach()) / args.tokens:.6f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=50257)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="64 tokens, width 32, 500 classes, once")
    parser.add_argument("--only", choices=("full", "chunked"), help="measure in this process")
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.width, args.classes, args.repeat = 64, 32, 500, 1
    if args.only:
        return measure(args.only, args)
    for name in ("full", "chunked"):
        subprocess.run([sys.executable, *sys.argv, "--only", name], check=True)


if __name__ == "__main__":
    main()
