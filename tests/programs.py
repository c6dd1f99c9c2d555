"""Programs that tests start: recipes and workers, on one process or on two."""

import os
import socket
import subprocess
import sys
from typing import Any


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def launcher(*strategy: str) -> list[str]:
    """What to put before a script to run it on two processes: under DDP, or under what these options say."""
    strategy = strategy or ("--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    command = [sys.executable, "-m", "accelerate.commands.launch", *strategy]
    return [*command, "--num_processes", "2", "--main_process_port", free_port()]


def run(*command: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command, which has to succeed."""
    words, variables = [str(word) for word in command], os.environ | environment
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, env=variables)
    assert done.returncode == 0, done.stderr[-3000:]
    return done
