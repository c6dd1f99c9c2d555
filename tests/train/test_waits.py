"""How often a step waits for its device: counted on the meta device, which computes shapes and has no numbers."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import hftrain
from hftrain import losses
from hftrain.config import TrainConfig
from hftrain.data.plan import MicroBatch
from hftrain.losses import Loss, SummingHead, causal_language_model, send
from hftrain.tasks.preference import PreferenceConfig, collate_preferences, preference_loss
from hftrain.text.causal import collate_causal
from hftrain.train.loop import take_step
from tests import tiny

pytestmark = pytest.mark.unit

META = torch.device("meta")
ATEN = torch.ops.aten
READS = (ATEN._local_scalar_dense.default, ATEN.nonzero.default, ATEN.masked_select.default)


class Waits(TorchDispatchMode):
    """Counts what would make the CPU wait for the device, by the function of hftrain that asked for it, or by the file
    of another package; answers with ones."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [value for value in tree_iter(args) if isinstance(value, torch.Tensor)]
        if not any(tensor.is_meta for tensor in tensors):
            return func(*args, **kwargs)
        by_mask = func is ATEN.index.Tensor and any(t.dtype == torch.bool for t in tensors[1:])
        away = func is ATEN._to_copy.default and str(kwargs.get("device", "meta")) == "cpu"
        if func in READS or by_mask or away:
            self.places.append(self.place())
        if func is ATEN._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1
        if away:
            answer = torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
            answer[4] = 0  # no process is out of memory
            return answer
        return func(*args, **kwargs)

    @staticmethod
    def place() -> str:
        frame, mine = sys._getframe(2), Path(hftrain.__file__).parent
        while frame is not None:
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(mine):
                return frame.f_code.co_name
            if "transformers" in file.parts:
                return f"transformers: {file.name}"
            frame = frame.f_back
        return "elsewhere"


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """Autocast is off, and does not know this device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def chats() -> list[dict[str, torch.Tensor]]:
    rows = [
        {"input_ids": np.arange(3, 3 + n), "labels": np.array([-100, -100, *range(5, 3 + n)])} for n in range(6, 12)
    ]
    return [collate_causal(rows[start : start + 2], pad_token_id=0) for start in (0, 2, 4)]


def pairs() -> list[dict[str, torch.Tensor]]:
    made = []
    for n in (6, 8, 10):
        row = {f"{side}_input_ids": [*range(3, 3 + n + (side == "first"))] for side in ("first", "second")}
        row |= {f"{side}_labels": [-100, -100, *row[f"{side}_input_ids"][2:]] for side in ("first", "second")}
        made.append(collate_preferences([row], pad_token_id=0))
    return made


def waits(
    loss: Loss, batches: list[dict[str, torch.Tensor]], changes: Callable[[torch.nn.Module], object]
) -> list[str]:
    model = tiny.model("LlamaForCausalLM").to(META).train()
    changes(model)
    accelerator = SimpleNamespace(
        device=META, num_processes=1, scaler=None, distributed_type=DistributedType.NO,
        no_sync=lambda model: nullcontext(), unscale_gradients=lambda: None,
    )  # fmt: skip
    run = SimpleNamespace(
        accelerator=accelerator, model=model, config=TrainConfig(output_dir="-"), state=SimpleNamespace(step=0),
        parameters=list(model.parameters()), optimizer=torch.optim.AdamW(model.parameters()),
    )  # fmt: skip
    micro_batches = [MicroBatch(n, np.arange(len(batch["labels"])), batch) for n, batch in enumerate(batches)]
    with Waits() as counted:
        outcome = take_step(run, micro_batches, loss, stop=0)
    assert outcome.grad_norm == 1.0
    return counted.places


def summing(model: torch.nn.Module) -> None:
    model.get_output_embeddings().__class__ = SummingHead


@pytest.mark.parametrize("head", [summing, lambda model: None], ids=["in chunks", "all logits"])
@pytest.mark.parametrize("kind", ["causal", "preferences"])
def test_a_step_waits_twice_whatever_its_micro_batches(kind, head):
    config = PreferenceConfig(reference_free=True)
    accelerator = SimpleNamespace(device=META, unwrap_model=lambda model: model)
    both = {
        "causal": causal_language_model(chunked=head is summing), "preferences": preference_loss(accelerator, config)
    }  # fmt: skip
    places = waits(both[kind], chats() if kind == "causal" else pairs(), head)
    assert [place for place in places if "transformers" not in place] == ["take_step", "clip"]


def test_a_step_needs_no_fp64_where_there_is_none(monkeypatch):
    monkeypatch.setattr(losses, "WITHOUT_FP64", {"meta"})
    made = []

    class Doubles(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for value in tree_iter(result):
                if isinstance(value, torch.Tensor) and value.is_meta and value.dtype == torch.float64:
                    made.append(func)
            return result

    with Doubles():
        waits(causal_language_model(chunked=True), chats(), summing)
    assert made == []


def test_a_loss_counts_on_the_cpu_what_was_sent():
    (batch, *_), loss = chats(), causal_language_model(chunked=True)
    model = tiny.model("LlamaForCausalLM")
    summing(model)
    sent = send(batch, "cpu")
    assert sent.host is batch and sent.keys() == batch.keys()
    torch.testing.assert_close(loss.summed(model, sent), loss.summed(model, batch), rtol=0, atol=0)
    places = waits(Loss(lambda m, b: loss.summed(m, dict(b)), loss.count), chats(), summing)  # not what was sent
    assert len([place for place in places if "transformers" not in place]) == 2 + len(chats())
