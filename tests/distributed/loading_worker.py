"""A process under FSDP2 that loads or draws a model, answers with it and prepares it, and watches its own memory.

Accelerate shards on accelerators only, so it is told that this CPU is one, as in tests/train/exact_worker.py."""

import json
import re
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, gather_object
from transformers import AutoConfig, AutoModelForCausalLM

from hftrain import distributed
from hftrain.config import TrainConfig
from hftrain.models.load import load_model
from hftrain.tasks import chat
from hftrain.tasks.chat import ChatRecipeConfig
from hftrain.train.loop import prepare, start
from tests import tiny

SHAPE = {
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 4000, "tie_word_embeddings": True,
}  # fmt: skip
IDS = torch.arange(3, 23)[None]


def most(begin: bool = False) -> int:
    """Bytes of memory that this process had at most since `begin` was given, or that it has now."""
    if begin:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{'VmRSS' if begin else 'VmHWM'}:\s+(\d+)", status)[1])


def new() -> AutoModelForCausalLM:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE))


def look(accelerator, expected, load) -> dict:
    """Loads a model twice: the second time nothing is grown but by the model. Compares it with `expected`."""
    held = []
    for _ in range(2):
        before = most(begin=True)
        model = load()
        loaded = most() - before
        real = sum(p.nbytes for p in model.parameters() if not p.is_meta)
        with distributed.gathered(model), torch.no_grad():
            answers = torch.equal(model(IDS.to(model.device)).logits, expected(IDS).logits)
        before = most(begin=True)
        prepared, _ = prepare(accelerator, model, TrainConfig(output_dir="-", learning_rate=1e-3))
        held.append((loaded, real, most() - before))
        weights = accelerator.get_state_dict(prepared)
        wanted = expected.state_dict()
        same = not accelerator.is_main_process or all(torch.equal(weights[key], wanted[key]) for key in wanted)
        buffers = {key: torch.equal(value, dict(model.named_buffers())[key]) for key, value in expected.named_buffers()}
        sizes = {
            "local": sum(p.to_local().nbytes for p in prepared.parameters()),
            "whole": sum(p.nbytes for p in expected.parameters()),
            "largest": max(p.nbytes for p in expected.parameters()),
        }
        del model, prepared, weights
        accelerator.free_memory()
    return {"answers": answers, "same": same, "buffers": buffers, "held": held[-1], **sizes}


def answers(accelerator, folder: Path) -> dict[str, list[str]]:
    """Of a model that each process has, of one that only the main process has, and of the same in shards. The
    processes answer chats of different lengths, so one is done before the other."""
    if accelerator.is_main_process:
        tiny.chat_folder(folder / "chat")
    accelerator.wait_for_everyone()
    config = ChatRecipeConfig(train_file="-", model_name_or_path=str(folder / "chat"), max_new_tokens=12)
    template, prompts = chat.load_template(config), ("a few", "words and more words", "a", "and a few more words")
    chats = [chat.Chat([{"role": "user", "content": text}], [], []) for text in prompts]
    whole = AutoModelForCausalLM.from_pretrained(folder / "chat")
    chat.fit_model(whole, template, 64)
    model = chat.load_chat_model(config, template)
    assert distributed.is_away(model) and not distributed.is_away(whole)
    said = {"whole": chat.answer(accelerator, whole, template, chats, config)}
    said["before"] = chat.answer(accelerator, model, template, chats, config)
    model, _ = prepare(accelerator, model, TrainConfig(output_dir="-", learning_rate=1e-3))
    said["after"] = chat.answer(accelerator, model, template, chats, config)
    accelerator.free_memory()
    return said


def main(folder: Path) -> None:
    PartialState(cpu=True, backend="gloo")
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    accelerator = start(TrainConfig(output_dir=str(folder / "output")))
    expected = new().eval()
    if accelerator.is_main_process:
        expected.save_pretrained(folder / "model")
    accelerator.wait_for_everyone()
    config = ChatRecipeConfig(train_file="-", model_name_or_path=str(folder / "model"))
    ways = {"drawn": lambda: distributed.draw(new), "read": lambda: load_model(config, AutoModelForCausalLM)}
    results = {name: gather_object([look(accelerator, expected, load)]) for name, load in ways.items()}
    said = answers(accelerator, folder)
    if accelerator.is_main_process:
        (folder / "results.json").write_text(json.dumps({"loading": results | {"said": said}}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
