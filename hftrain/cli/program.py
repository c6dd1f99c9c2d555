"""Runs a recipe like `python FILE`, except that installed packages win over files beside the recipe.

    python hftrain/cli/program.py FILE ARGUMENTS              the recipe
    python hftrain/cli/program.py --settings FILE ARGUMENTS   its settings only, without torch
    python hftrain/cli/program.py -m MODULE ARGUMENTS         a module of hftrain

A recipe imports its own modules from its folder, which is last in `sys.path`: a `datasets.py` there breaks nothing.
Nothing is imported from the current folder.
"""

import os
import sys

FILE = os.path.abspath(__file__)
HEAVY = ("accelerate", "datasets", "torch", "transformers")
if __name__ == "__main__" and sys.path[0] == os.path.dirname(FILE):
    del sys.path[0]  # Python adds it, but files beside this one have names of the standard library


def run_file(file: str, arguments: list[str]) -> None:
    """Runs the recipe `file` with these arguments as the main module, in this process."""
    import runpy

    add_folder(os.path.dirname(os.path.abspath(file)))
    sys.argv = [file, *arguments]
    runpy.run_path(file, run_name="__main__")


def add_folder(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)


def main(words: list[str]) -> None:
    add_folder(os.path.dirname(os.path.dirname(os.path.dirname(FILE))))  # a checkout that is not installed
    if words[0] == "-m":
        import runpy

        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "--settings":
        sys.modules.update(dict.fromkeys(HEAVY))  # type: ignore[arg-type]  # None: importing it raises ImportError
        run_file(words[1], [*words[2:], "--print_config=as_given"])
    else:
        run_file(words[0], words[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
