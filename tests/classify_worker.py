"""What the two-process test of classification runs: the recipe, once for each configuration in FOLDER/jobs.json.

accelerate launch ... tests/classify_worker.py FOLDER        # -> FOLDER/results.json
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState

spec = importlib.util.spec_from_file_location("classify", Path(__file__).parents[1] / "recipes" / "classify.py")
assert spec and spec.loader
recipe = importlib.util.module_from_spec(spec)
sys.modules["classify"] = recipe
spec.loader.exec_module(recipe)


def run(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [recipe.main(recipe.ClassifyConfig(**job)) for job in jobs]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results = run(json.loads((folder / "jobs.json").read_text()))
    if PartialState().is_main_process:
        told = {"processes": PartialState().num_processes, "results": results}
        (folder / "results.json").write_text(json.dumps(told))
