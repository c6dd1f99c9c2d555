"""The program of a small recipe, in a fork of this process, which has imported all that it needs. Something strikes it
once, in one of its phases.
"""

import importlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, trainers

from hftrain import signals
from hftrain.config import TrainConfig
from hftrain.config.errors import explain_errors
from hftrain.data.examples import Examples
from hftrain.losses import Loss, causal_language_model, count_next_labels
from hftrain.models import TransformerConfig, TransformerForCausalLM
from hftrain.report import Report, publish
from hftrain.terminal import hush_libraries
from hftrain.train.evaluation import mean_loss
from hftrain.train.loop import fit, start


def import_the_rest() -> None:
    """What a run imports late, so that each fork does not."""
    torch.set_num_threads(1)
    hush_libraries()
    for name in ("deepspeed", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        with suppress(ImportError):
            importlib.import_module(name)


def run(place: Path, phase: str | None, strike: Callable[[], None], out: Path) -> tuple[int, str]:
    """The exit code and output, kept in `place`, of the program, which calls `strike` once in `phase`."""
    log = place / f"log of {phase}"
    child = os.fork()
    if child == 0:
        file = os.open(log, os.O_CREAT | os.O_WRONLY)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        os.environ["TMPDIR"], tempfile.tempdir = str(place), None  # where a run puts what its output folder refuses
        sys.argv = ["recipe.py", "--output_dir", str(out)]
        code: Any = 1
        try:
            recipe(out, phase, strike)
            code = 0
        except SystemExit as error:
            code = error.code
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stdout.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, log.read_text()


def recipe(out: Path, phase: str | None, strike: Callable[[], None]) -> None:
    for stopping in signals.STOPPING:  # as in a shell's foreground
        signal.signal(stopping, signal.default_int_handler if stopping == signal.SIGINT else signal.SIG_DFL)
    explain_errors()
    signals.end_program_when_asked()
    struck = False

    def now(current: str) -> None:
        nonlocal struck
        if current == phase and not struck:
            struck = True
            print(f"struck while {phase}", flush=True)
            strike()

    config = TrainConfig(
        output_dir=str(out), resume_from_checkpoint="auto", seed=1, global_batch_size=4, max_steps=4,
        learning_rate=0.01, eval_steps=2, save_steps=2, logging_steps=1, eval_on_start=True,
    )  # fmt: skip
    accelerator = start(config)
    now("reading")
    texts = [" ".join(chr(97 + (i * k) % 26) * (1 + k % 3) for k in range(1, 9)) for i in range(24)]
    learn(texts, now)
    rows = [[3 + (ord(letter) % 40) for letter in text[:12]] for text in texts]
    now("tokenizing")
    examples = Examples(rows, [len(row) for row in rows])
    shape = {"vocab_size": 64, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    model = TransformerForCausalLM(TransformerConfig(num_encoder_layers=0, num_decoder_layers=1, **shape))

    def collate(batch: list[list[int]]) -> dict[str, torch.Tensor]:
        ids = torch.tensor(batch)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    def score(model: torch.nn.Module, current: str) -> dict[str, float]:
        def loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            now(current)
            return causal_language_model().summed(model, batch)

        task: dict[str, Any] = {"collate": collate, "loss": Loss(loss, count_next_labels)}
        return {"loss": mean_loss(accelerator, model, rows[:12], 2, **task)}

    steps = 0

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        return score(model, "evaluation" if steps else "evaluation before step 1")

    def after_step(step: int, model: torch.nn.Module) -> None:
        nonlocal steps
        steps = step
        now("step")

    class Processor:
        def save_pretrained(self, folder: Path) -> None:
            now("save" if ".saving-checkpoint" in str(folder) else "export")

    model, results = fit(
        accelerator, model, examples, config, collate=collate, loss=causal_language_model(),
        evaluate=evaluate, after_step=after_step, processor=Processor(),
    )  # fmt: skip
    scores = score(model, "test scores")
    now("publishing")
    report = Report(title="Title", task="text-generation", usage="", metric="loss", scores=scores, data={})
    publish(accelerator, config, results, report)


def learn(texts: list[str], now: Callable[[str], None]) -> None:
    def send() -> Iterator[str]:
        for text in texts:
            yield text
            now("learning a tokenizer")

    Tokenizer(models.BPE()).train_from_iterator(send(), trainers.BpeTrainer(show_progress=False))
