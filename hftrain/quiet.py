"""Silences messages of libraries to developers, which would hide the messages to the user."""

import logging
import os
import warnings


def hush_libraries() -> None:
    """Called at the start of our programs, never by a library. Errors are still shown."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it for any adapter
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one bar for each loaded model
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"(torch|transformers|peft|accelerate|deepspeed)\b"
    )
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # Accelerate imports DeepSpeed where it is installed
