"""What comes before training: CPU seconds of the import, of the help, and until the first step of a run is done.

    python bench/start.py                          # the fastest of three each
    python bench/start.py --profile                # the functions in which the start of the run spends its time
    python bench/start.py --quick                  # once, without the run

The run is `translate` with its built-in sentences and all settings left out: it reads, tokenizes, makes the model, and
tries its promises. All processes have one thread.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "`import hftrain`": (["-c", "import hftrain"], 0.5),
    "`hftrain --help`": (["-m", "hftrain.cli", "--help"], 0.5),
    "`hftrain run translate --help`": (["-m", "hftrain.cli", "run", "translate", "--help"], 0.5),
}
FIRST_STEP = """
import cProfile, os, pstats, runpy, sys
profile, profiled = cProfile.Profile(), sys.argv[1:] == ["profile"]
if profiled:
    profile.enable()
import hftrain.train.loop as loop
take_step = loop.take_step

def first(*args, **kwargs):
    take_step(*args, **kwargs)
    if profiled:
        profile.disable()
        pstats.Stats(profile).sort_stats("cumulative").print_stats(80)
    sys.stdout.flush()
    os._exit(0)

loop.take_step = first
sys.argv = ["translate.py", "--output_dir", os.environ["FOLDER"]]
runpy.run_path("recipes/translate.py", run_name="__main__")
"""


def seconds(arguments: list[str], folder: str, *, show: bool = False) -> float:
    """CPU seconds of a Python process and those that it starts."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FOLDER": folder}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, check=True, stdout=None if show else subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", action="store_true", help="no effect: each is a process of its own")
    parser.add_argument("--profile", action="store_true", help="print the functions of the run's start")
    parser.add_argument("--quick", action="store_true", help="once, without the run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.profile:
            seconds(["-c", FIRST_STEP, "profile"], f"{folder}/out", show=True)
            return
        print("| aim | | measured | |\n|---|---|---|---|")
        for name, (command, aim) in COMMANDS.items():
            value = min(seconds(command, folder) for _ in range(1 if args.quick else args.rounds))
            verdict = "reached" if value <= aim else "not reached"
            print(f"| CPU seconds of {name} | <= {aim} | {value:.2f} | {verdict} |", flush=True)
        if not args.quick:
            values = [seconds(["-c", FIRST_STEP], f"{folder}/{number}") for number in range(args.rounds)]
            print(f"\nCPU seconds until the first step of `translate` is done: {min(values):.1f}")


if __name__ == "__main__":
    main()
