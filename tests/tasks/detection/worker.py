"""What each process of a launch runs: the recipe with each of the settings in FOLDER/jobs.json -> FOLDER/results.json.

accelerate launch ... tests/tasks/detection/worker.py FOLDER
"""

import json
import os
import sys
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState

from hftrain.tasks.detection import DetectionConfig
from recipes.detect import main


def steps_of(settings: dict) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm of each step."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    main(DetectionConfig(**settings))
    rows = map(json.loads, (Path(settings["output_dir"]) / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in rows if "grad_norm" in row}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results = {
        job["name"]: {"steps": steps_of(job["settings"])} for job in json.loads((folder / "jobs.json").read_text())
    }
    if os.environ.get("RANK", "0") == "0":
        (folder / "results.json").write_text(json.dumps(results))
