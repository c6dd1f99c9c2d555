"""What libraries say to one another's authors is kept from the user, for whom it hides what is said to them."""

import logging
import os
import warnings


def hush_libraries() -> None:
    """Called where a program of ours begins; a library never calls it. Errors are still heard."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it for any adapter
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one for each model that is loaded
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"(torch|transformers|peft|accelerate|deepspeed)\b"
    )
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # Accelerate imports DeepSpeed where it is installed
