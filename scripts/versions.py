#!/usr/bin/env python3
"""Run the unit tests on other versions of the libraries than the pinned ones.

    .venv/bin/python scripts/versions.py lowest     # the lower bounds of pyproject.toml
    .venv/bin/python scripts/versions.py newest     # the newest transformers, accelerate, peft and datasets

Each set has an environment of its own, `.venv-lowest` or `.venv-newest`, which holds what differs from the environment
that runs this script and finds all else there. torch stays as it is: a build for CPUs is not on every index.
"""

import re
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
NEWEST = ("transformers", "accelerate", "peft", "datasets")
TORCH = f"torch=={version('torch')}"


def requirements(which: str) -> list[str]:
    """What pip is to install for `which` ("lowest" or "newest").

    Raises:
        ValueError: a dependency in pyproject.toml has no lower bound, or `which` is unknown.
    """
    if which == "newest":
        return ["--upgrade", *NEWEST, TORCH]
    if which != "lowest":
        raise ValueError(f"{which}: choose lowest or newest")
    pinned = []
    for dependency in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        bound = re.fullmatch(r"([\w-]+)>=([\d.]+)", dependency)
        if bound is None:
            raise ValueError(f"pyproject.toml: the dependency {dependency!r} is not of the form name>=version")
        pinned.append(TORCH if bound[1] == "torch" else f"{bound[1]}=={bound[2]}")
    return pinned


def make_environment(which: str) -> Path:
    """Makes the environment anew, and returns its Python."""
    folder = ROOT / f".venv-{which}"
    venv.create(folder, clear=True, with_pip=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "beside.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-warn-conflicts"]
    subprocess.run([*pip, *requirements(which)], check=True)
    return python


def main(names: list[str]) -> int:
    for which in names or ["lowest", "newest"]:
        python = str(make_environment(which))
        shown = f"import importlib.metadata as m; print(*(n + ' ' + m.version(n) for n in {NEWEST}), sep=', ')"
        print(f"{which}: ", end="", flush=True)
        subprocess.run([python, "-c", shown], check=True)
        status = subprocess.run([python, "-m", "pytest", "-m", "unit"], cwd=ROOT).returncode
        if status:
            print(f"the unit tests fail on the {which} versions", file=sys.stderr)
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
