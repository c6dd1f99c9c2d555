"""Early ends of a run: saves the state and prints the command to resume."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hftrain import distributed
from hftrain.config.errors import explain_disk
from hftrain.data.files import make_again
from hftrain.signals import EXIT_INTERRUPTED
from hftrain.train import checkpoint

if TYPE_CHECKING:
    from hftrain.train.run import Run


def save(run: Run, *, last: bool) -> None:
    """Saves a checkpoint in the output folder, or in another folder if that fails and the run must end."""
    state, home = run.state, Path(run.config.output_dir)
    if run.accelerator.is_main_process:
        with suppress(OSError):  # the save gets the error too
            make_again(home)
    run.save(home, last=last)
    for refuge in checkpoint.refuges(home) if last else []:
        if run.last_saved != state.step:
            run.save(refuge, last=last)


def explain_export(run: Run) -> AbstractContextManager[None]:
    """A context in which an error of the disk ends the run with the checkpoint that contains the final model."""
    where, again = run.refuge or f"{run.config.output_dir}/{run.last_good()}", resume_command(run.refuge)
    way_out = f"{where} contains it. Make room, or repair the folder, and resume:\n {again}"
    return explain_disk(f"the model was not written to {run.config.output_dir}", way_out)


def leave(run: Run) -> NoReturn:
    """Ends a run after a stop signal, when its checkpoint is saved."""
    step, refuge = run.state.step, run.refuge
    saved = "saved" if run.last_saved == step else f"NOT saved (the last one saved: {run.last_good()})"
    saved = f"{saved} in {refuge}" if refuge else saved if step else "nothing is saved yet"
    again = resume_command(refuge)
    note = f"stopped after step {step:,}, {saved}. To resume, on any number of processes:\n {again}"
    run.progress.print(note, wrap=False)
    run.finish_uploads()  # all together: a launcher kills the process that still uploads or removes old checkpoints
    sys.exit(EXIT_INTERRUPTED)


def farewell(run: Run) -> str:
    """A message on what is saved after `fit`, and how to repeat the steps after it."""
    return (
        f"after training. The model and checkpoint-{run.state.step} are saved in {run.config.output_dir}; test scores, "
        f"report and model card may not be. To create them:\n {resume_command(run.refuge)}"
    )


def resume_command(refuge: Path | None = None) -> str:
    """This program's command that resumes from `refuge` or from the newest checkpoint of the output folder."""
    command, words = [], iter(sys.argv)
    for word in words:
        option, equals, _ = word.partition("=")
        if option.replace("-", "_") != "__resume_from_checkpoint":
            command.append(word)
        elif not equals:
            next(words, None)  # its value
    command += ["--resume_from_checkpoint", str(refuge or "auto")]
    launcher = "hftrain run" if "HFTRAIN_RUN" in os.environ else "accelerate launch"
    launcher = launcher if distributed.was_launched() else "python"
    return f"{launcher} {shlex.join(command)}"
