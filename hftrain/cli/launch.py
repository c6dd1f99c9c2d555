"""The launcher of `hftrain run`: `accelerate launch` that forwards signals and keeps exit codes.

`accelerate launch` itself dies on SIGTERM and leaves its training process running; it turns every exit code into 1,
also 75 ("saved, resume me"); without a GPU it ignores --num_processes and starts one process with one thread.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys

import psutil
import torch
from accelerate.commands.config.config_args import default_config_file, load_config_from_file
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from hftrain.cli import program
from hftrain.distributed import die_with_parent
from hftrain.signals import EXIT_INTERRUPTED, exit_code, relay


def launch(arguments: list[str]) -> int:
    """Runs `[accelerate options] recipe.py [its arguments]` and waits for it.

    Returns:
        The exit code of the process that failed first, 128 + N if signal N ended it (75 if it was one that was passed
        on); 0 if none failed.
    """
    args = launch_command_parser().parse_args(arguments)
    os.environ["HFTRAIN_RUN"] = "1"  # the command to resume is that of hftrain run
    if not (args.module or args.no_python):
        args.training_script_args = [args.training_script, *args.training_script_args]
        args.training_script = program.FILE
    fill_in(args)
    args.signals_to_handle = (
        "SIGQUIT"  # torchrun's own handling would give its workers 30 seconds to save, and lose their exit code
    )
    # Only the training processes, not their children: that would end the workers that load their data.
    sent = relay(lambda: [process.pid for process in psutil.Process().children()])
    try:
        launch_command(args)
    except subprocess.CalledProcessError as error:
        code = error.returncode
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        if code != EXIT_INTERRUPTED and -code not in sent:
            how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
            who = f"rank {rank} (host {platform.node()}, pid {failure.pid})"
            print(f"hftrain: {who} failed first: {how}", file=sys.stderr)
    else:
        code = 0
    return exit_code(code, sent)


def fill_in(args: argparse.Namespace) -> None:
    """Defaults without options: the cores of the machine, divided between its processes; without a configuration file
    of Accelerate either all GPUs, or one process."""
    file = args.config_file or (default_config_file if os.path.isfile(default_config_file) else None)
    if file:
        config = load_config_from_file(file)
        share_cores(args, args.num_processes or config.num_processes, args.num_machines or config.num_machines)
        return
    strategy = (args.use_deepspeed, args.use_fsdp, args.use_megatron_lm, args.tpu)
    args.num_processes = args.num_processes or max(1, 0 if args.cpu else torch.accelerator.device_count())
    args.num_machines = args.num_machines or 1
    args.mixed_precision = args.mixed_precision or "no"  # the recipe's configuration decides
    args.dynamo_backend = args.dynamo_backend or "no"
    if args.num_processes > 1 and not any(strategy):
        if args.cpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        args.multi_gpu, args.cpu = True, False  # torchrun; despite the name it also runs on CPUs
    share_cores(args, args.num_processes, args.num_machines)


def share_cores(args: argparse.Namespace, processes: int, machines: int) -> None:
    """Sets the threads of each process, unless the user does; Accelerate would set one."""
    if args.num_cpu_threads_per_process is None and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        args.num_cpu_threads_per_process = max(1, cores * machines // processes)


if __name__ == "__main__":
    die_with_parent()
    sys.exit(launch(sys.argv[1:]))
