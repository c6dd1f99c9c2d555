"""What a run tells trackers (wandb, trackio, mlflow, ...), and how fast it was."""

import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from hftrain.config import TrainConfig
from hftrain.train.flops import peak_flops


class Trackers:
    """Those of `report_to`, under the name of the run."""

    def __init__(self, accelerator: Accelerator, config: TrainConfig):
        self.accelerator, self.names = accelerator, config.report_to
        if config.report_to:
            flat = {k: v if isinstance(v, int | float | str) else str(v) for k, v in asdict(config).items()}
            name = config.run_name or Path(config.output_dir).resolve().name
            names: dict[str, Any] = {"wandb": {"name": name}, "trackio": {"name": name}, "mlflow": {"run_name": name}}
            accelerator.init_trackers(os.environ.get("WANDB_PROJECT", "hftrain"), config=flat, init_kwargs=names)

    def log(self, values: dict[str, Any], step: int) -> None:
        try:
            self.accelerator.log(values, step=step)
        except OSError as error:  # a full disk or a deleted folder: not worth ending the run
            warnings.warn(f"the trackers ({', '.join(self.names)}) lost values: {error}", stacklevel=2)


def speed(accelerator: Accelerator, flops: float, seconds: float, prefix: str = "") -> dict[str, Any]:
    """Model TFLOP/s of a device, and their share of its peak (MFU); nothing if the recipe counts no FLOPs."""
    if not flops:
        return {}
    rate, peak = flops / seconds / accelerator.num_processes, peak_flops(accelerator.device)
    return {f"{prefix}tflops": rate / 1e12, f"{prefix}mfu": rate / peak if peak else "unknown"}
