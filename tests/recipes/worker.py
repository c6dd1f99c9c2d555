"""What each process of a launch runs: a recipe with each of the settings in FOLDER/jobs.json -> FOLDER/results.json.

accelerate launch ... tests/recipes/worker.py FOLDER
"""

import importlib
import json
import os
import sys
import typing
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState


def steps_of(recipe: str, settings: dict) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm of each step."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    main = importlib.import_module(f"recipes.{recipe}").main
    main(typing.get_type_hints(main)["config"](**settings))
    rows = map(json.loads, (Path(settings["output_dir"]) / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in rows if "grad_norm" in row}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    jobs = json.loads((folder / "jobs.json").read_text())
    results = {job["name"]: {"steps": steps_of(job["recipe"], job["settings"])} for job in jobs}
    if os.environ.get("RANK", "0") == "0":
        (folder / "results.json").write_text(json.dumps(results))
