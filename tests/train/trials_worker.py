"""A process under ZeRO-3 that makes each trial of a run's start and watches how much of the model it holds."""

import json
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import AutoConfig, AutoModelForCausalLM

from hftrain.config import TrainConfig
from hftrain.data.examples import Examples
from hftrain.distributed import gathered, unsharded_models
from hftrain.losses import causal_language_model
from hftrain.text.causal import collate_causal
from hftrain.train.loop import start
from hftrain.train.trials import check_batches, check_causal, check_packing, chunk_loss
from hftrain.train.trials.gradients import try_examples

SHAPE = {
    "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 8, "vocab_size": 2000,
}  # fmt: skip


def most_held(model, work: Callable[[], None]) -> float:
    """The largest share of the parameters that stood whole in this process at any time of `work`."""
    parameters, most, over = list(model.parameters()), 0.0, threading.Event()
    whole = sum(parameter.ds_numel for parameter in parameters)

    def watch() -> None:
        nonlocal most
        while not over.wait(0.0005):
            most = max(most, sum(parameter.data.numel() for parameter in parameters) / whole)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    over.set()
    watcher.join()
    return most


def main(folder: Path) -> None:
    accelerator = start(TrainConfig(output_dir=str(folder / "output")))
    if accelerator.is_main_process:
        with unsharded_models():
            AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE)).save_pretrained(folder / "model")
    accelerator.wait_for_everyone()
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    rows = [{"input_ids": np.arange(n) + 3} for n in range(5, 25)]
    examples = Examples(rows, [len(row["input_ids"]) for row in rows])
    notes = []

    def work() -> None:
        check_causal(model)
        check_packing(model, 24)
        assert chunk_loss(model)
        collate, loss = partial(collate_causal, pad_token_id=0), causal_language_model(chunked=True)
        task = {"collate": collate, "loss": loss}
        assert not try_examples(accelerator, model, examples, 1, before_step=None, **task).unreached
        notes.extend(check_batches(model, examples, TrainConfig(), **task))

    ids = torch.arange(3, 23)[None]
    with unsharded_models():
        expected = AutoModelForCausalLM.from_pretrained(folder / "model")(ids).logits

    def answer() -> None:
        with gathered(model), torch.no_grad():
            torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)

    result = {"held": gather_object([most_held(model, work)]), "answering": gather_object([most_held(model, answer)])}
    if accelerator.is_main_process:
        (folder / "results.json").write_text(json.dumps({"trials": result | {"notes": notes}}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
