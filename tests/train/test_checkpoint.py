"""What a checkpoint promises: the same bytes back, damage noticed, kills and full disks survived, one run at a time."""

import json
import os
import pickle
import re
import resource
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import safe_open
from torch import multiprocessing
from transformers import BertForMaskedLM

from hftrain.distributed import Piece
from hftrain.train import checkpoint
from tests import tiny
from tests.programs import free_port

CONTRACT = {"seed": 1, "learning_rate": 3e-4, "model": {"d_model": 64, "d_ff": 256}}
STATE = {"samples_seen": 640, "seconds": 12.5, "best": None}


def write_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "none"}')


def whole(tensors):
    """Pieces as one process has them, made one by one."""
    return (Piece.whole(name, tensor) for name, tensor in tensors)


def save(output_dir, step, tensors=None, export=write_config, **settings):
    tensors = {"model.w": torch.full((8,), float(step))} if tensors is None else tensors
    settings = {"state": STATE, "contract": CONTRACT, **settings}
    return checkpoint.save(Accelerator(), output_dir, step, pieces=whole(tensors.items()), export=export, **settings)


def same_bytes(left: torch.Tensor, right: torch.Tensor) -> bool:
    left, right = (tensor.contiguous().flatten().view(torch.uint8) for tensor in (left, right))
    return torch.equal(left, right)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stored_names(folder: Path) -> set[str]:
    found = set()
    for file in folder.glob("training-*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            found |= set(tensors.keys())
    return found


# ------------------------------------------------------------------------------------------------- what comes back


def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    odd = torch.tensor([0x7FC0_1234, -1, 0x8000_0000 - 2**32], dtype=torch.int32).view(torch.float32)  # NaNs, minus 0
    tensors = {
        "model.float32": torch.randn(5, 7),
        "model.bfloat16": torch.randn(5, 7).bfloat16(),
        "model.float8": torch.randn(9).to(torch.float8_e4m3fn),
        "model.transposed": torch.randn(5, 7).T,
        "model.view": torch.randn(100)[10:20],
        "optimizer.w.step": torch.tensor(17.0),
        "optimizer.w.quantised": torch.arange(256).to(torch.uint8),
        "optimizer.none_yet": torch.empty(0, 3),
        "ema.mask": torch.tensor([True, False]),
        "ema.count": torch.tensor(2**60 + 1),
        "ema.odd": odd,
    }
    with pytest.warns(UserWarning, match=r"checkpoint-3 contains NaN or infinity in ema\.odd$"):
        folder = save(tmp_path, 3, tensors)
    saved = checkpoint.read(folder)
    assert folder == tmp_path / "checkpoint-3" and checkpoint.verify(folder) == []
    assert (saved.step, saved.state, saved.contract) == (3, STATE, CONTRACT)
    assert list(saved.tensors) == list(tensors)
    for name, tensor in tensors.items():
        back = saved.tensors[name]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape), name
        assert same_bytes(back, tensor), name
    assert saved.manifest["finite"] is False and saved.manifest["world_size"] == 1
    assert saved.manifest["versions"]["torch"] == torch.__version__


def test_shards_stay_under_their_size_and_a_tensor_may_be_freed_once_the_next_is_asked_for(tmp_path):
    def gathered():
        """As ZeRO-3 does: one buffer, overwritten for each parameter."""
        buffer = torch.empty(250)
        for number in range(10):
            yield f"optimizer.{number}", buffer.fill_(number)
        buffer.fill_(-1)

    folder = checkpoint.save(
        Accelerator(),
        tmp_path,
        1,
        pieces=whole(gathered()),
        state=STATE,
        contract={},
        export=write_config,
        max_file_bytes=3000,
    )
    assert [file for file in names(folder) if file.startswith("training")] == [
        f"training-0000{k}.safetensors" for k in (1, 2, 3, 4)
    ]
    tensors = checkpoint.read(folder).tensors
    assert [tensors[f"optimizer.{number}"].unique().item() for number in range(10)] == list(range(10))


def tiny_bert(**settings) -> BertForMaskedLM:
    return tiny.model("BertForMaskedLM", num_hidden_layers=2, **settings).eval()


def train(model, optimizer, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(0, 50, (4, 12), generator=generator)
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def training_tensors(model, optimizer):
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        tensors |= {f"optimizer.{name}.{key}": value for key, value in optimizer.state[parameter].items()}
    return tensors


def test_a_tied_transformers_model_is_stored_once_loads_with_from_pretrained_and_resumes_bit_for_bit(tmp_path):
    model = tiny_bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 3, seed=1)
    state_dict = model.state_dict()
    assert state_dict["cls.predictions.decoder.weight"] is not None  # tied to the embeddings, under two names
    folder = save(tmp_path, 3, training_tensors(model, optimizer), export=model.save_pretrained)

    assert not any(name.startswith("model.") for name in stored_names(folder)), "the export holds them all already"
    assert len(stored_names(folder)) == 3 * len(list(model.parameters()))
    for name, tensor in BertForMaskedLM.from_pretrained(folder).state_dict().items():
        assert torch.equal(tensor, state_dict[name]), name

    saved = checkpoint.read(folder)
    resumed = tiny_bert()
    resumed.load_state_dict({name: saved.tensors[f"model.{name}"] for name in resumed.state_dict()})
    optimizer_resumed = torch.optim.AdamW(resumed.parameters(), lr=1e-2)
    for name, parameter in resumed.named_parameters():
        keys = ("step", "exp_avg", "exp_avg_sq")
        optimizer_resumed.state[parameter] = {key: saved.tensors[f"optimizer.{name}.{key}"] for key in keys}
    train(model, optimizer, 3, seed=2)
    train(resumed, optimizer_resumed, 3, seed=2)
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert checkpoint.verify(folder) == [], "training on with what was read changes no file"


def test_an_export_of_averaged_weights_is_not_stored_twice_either(tmp_path):
    weights, averages = tiny_bert().state_dict(), tiny_bert()
    with torch.no_grad():
        for parameter in averages.parameters():
            parameter.mul_(0.5).add_(0.1)
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in averages.named_parameters()}
    folder = save(tmp_path, 1, tensors, export=averages.save_pretrained)
    assert stored_names(folder) == {f"model.{name}" for name in weights}
    saved = checkpoint.read(folder).tensors
    assert all(same_bytes(saved[name], tensor.detach()) for name, tensor in tensors.items())


def test_fp32_masters_of_a_bf16_export_are_stored_beside_it(tmp_path):
    model = tiny_bert(tie_word_embeddings=False)
    masters = {f"model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    folder = save(tmp_path, 1, masters, export=model.bfloat16().save_pretrained)
    assert stored_names(folder) == set(masters)
    saved = checkpoint.read(folder).tensors
    assert all(same_bytes(saved[name], masters[name]) for name in masters)


def test_an_adapter_is_stored_once_though_its_export_has_other_names(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    model = get_peft_model(tiny_bert(), LoraConfig(target_modules=["query", "value"], r=2, init_lora_weights=False))
    trained = {f"model.{name}": tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    folder = save(tmp_path, 1, trained, export=model.save_pretrained)
    assert len(trained) == 8 and stored_names(folder) == set()
    saved = checkpoint.read(folder).tensors
    assert all(same_bytes(saved[name], tensor.detach()) for name, tensor in trained.items())
    reopened = dict(PeftModel.from_pretrained(tiny_bert(), folder).named_parameters())
    assert all(torch.equal(reopened[name.removeprefix("model.")], tensor) for name, tensor in trained.items())


def test_nothing_in_a_checkpoint_unpickles(tmp_path):
    model = tiny_bert()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, 1, seed=1)
    folder = save(tmp_path, 1, training_tensors(model, optimizer), export=model.save_pretrained)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        assert not zipfile.is_zipfile(path), path  # what torch.save writes
        with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, IndexError, KeyError, AttributeError)):
            pickle.loads(path.read_bytes())


# --------------------------------------------------------------------------------------------------------- damage


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("harm", [flip_a_byte, truncate, Path.unlink], ids=["flipped", "truncated", "missing"])
@pytest.mark.parametrize("file", ["config.json", "training-00001.safetensors", "state.json", "manifest.json"])
def test_damage_is_found_named_and_passed_over(tmp_path, file, harm):
    save(tmp_path, 10)
    damaged = save(tmp_path, 20)
    harm(damaged / file)
    (problem,) = checkpoint.verify(damaged)
    assert problem.startswith(f"{file}: ")
    if harm is Path.unlink:
        assert "missing" in problem
    with pytest.raises(ValueError, match=rf"{file}.*checkpoint-10 is good: resume from it"):
        checkpoint.read(damaged)
    with pytest.raises(ValueError, match=rf"{file}.*checkpoint-10 is good: resume from it"):
        checkpoint.find(tmp_path, str(damaged))
    assert checkpoint.find(tmp_path, "auto") == (tmp_path / "checkpoint-10", [f"passed over checkpoint-20: {problem}"])


def test_a_flip_of_any_byte_of_the_manifest_is_found(tmp_path):
    manifest = save(tmp_path, 1) / "manifest.json"
    content = manifest.read_bytes()
    blank = re.compile(rb"\s")  # a blank for another blank is the same JSON
    for place in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[place] ^= 4
        if not (blank.match(content[place : place + 1]) and blank.match(flipped[place : place + 1])):
            manifest.write_bytes(flipped)
            assert checkpoint.verify(manifest.parent), (place, content[place : place + 9])


def test_a_contract_with_numbers_as_keys_is_found_unchanged(tmp_path):
    """`id2label` has them; JSON has not, and orders 10 before 2 as text."""
    folder = save(tmp_path, 1, contract={"model": {"id2label": {i: f"label {i}" for i in range(12)}}})
    assert checkpoint.verify(folder) == []


def test_the_size_of_a_truncated_file_is_told(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "state.json").write_text("{}")
    size = len(json.dumps(STATE))
    assert checkpoint.verify(folder) == [f"state.json: 2 bytes instead of {size}"]


@contextmanager
def no_file_over(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --------------------------------------------------------------------------------------------------------- contract


def test_the_contract_is_refused_with_both_values_or_let_through_aloud():
    now = {"seed": 1, "learning_rate": 1e-4, "model": {"d_model": 128, "d_ff": 512}}
    assert checkpoint.check_contract(CONTRACT, json.loads(json.dumps(CONTRACT)), []) == []
    with pytest.raises(ValueError) as refused:
        checkpoint.check_contract(CONTRACT, now, ["learning_rate"])
    assert str(refused.value).splitlines() == [
        "not the run that was saved:",
        "  model.d_model: 64 when saved, 128 now",
        "  model.d_ff: 256 when saved, 512 now",
        "Set them back, or continue with --resume_allow learning_rate,model.d_model,model.d_ff",
    ]
    assert checkpoint.check_contract(CONTRACT, now, ["learning_rate", "model"]) == [
        "--resume_allow accepts learning_rate: 0.0003 when saved, 0.0001 now",
        "--resume_allow accepts model.d_model: 64 when saved, 128 now",
        "--resume_allow accepts model.d_ff: 256 when saved, 512 now",
    ]
    with pytest.raises(ValueError, match=r"--resume_allow learning_rat: no such key; did you mean learning_rate\?$"):
        checkpoint.check_contract(CONTRACT, now, ["learning_rat"])


def test_contract_values_are_compared_as_json_and_exactly():
    assert checkpoint.check_contract({"a": [1, 2], "b": {"0": "x"}}, {"a": (1, 2), "b": {0: "x"}}, []) == []
    assert checkpoint.check_contract({"a": float("nan")}, {"a": float("nan")}, []) == []
    with pytest.raises(ValueError, match=r"a: 0\.30000000000000004 when saved, 0\.3 now"):
        checkpoint.check_contract({"a": 0.1 + 0.2}, {"a": 0.3}, [])
    with pytest.raises(ValueError, match=r"a: absent when saved, 1 now"):
        checkpoint.check_contract({}, {"a": 1}, [])


# ---------------------------------------------------------------------------------------------------- two processes


def two_processes(rank: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    AcceleratorState._reset_state(reset_partial_state=True)  # forked to be quick, so the parent's came along
    accelerator, output_dir = Accelerator(), Path(folder)
    assert accelerator.num_processes == 2
    told = {}

    def tensors():
        for number in range(6):
            tensor = torch.full((250_000,), float(rank + number))
            torch.distributed.all_reduce(tensor)  # a rank that stopped early would leave the other one waiting
            if rank == 0:
                yield f"optimizer.{number}", tensor

    def save(step: int) -> str:
        settings = {"state": STATE, "contract": {}, "max_file_bytes": 1_500_000}
        pieces = whole(tensors())
        return str(checkpoint.save(accelerator, output_dir, step, pieces=pieces, export=write_config, **settings))

    told["saved"] = save(1)
    told["stood at return"] = (output_dir / "checkpoint-1").is_dir()
    with no_file_over(500_000) if rank == 0 else no_file_over(10**9):
        told["quota on the main process"] = save(2)
    here = output_dir if rank == 0 else output_dir / "unseen"  # as on another machine without the shared folder
    told["found"] = [str(checkpoint.find(here, "auto")[0])]
    with pytest.raises(ValueError, match="already contains a run") as refused:
        checkpoint.find(here, None)
    told["refused"] = str(refused.value)
    (output_dir / f"rank-{rank}.json").write_text(json.dumps(told))
    accelerator.end_training()


def test_two_processes_save_one_checkpoint_and_agree(tmp_path):
    multiprocessing.start_processes(
        two_processes, args=(int(free_port()), str(tmp_path)), nprocs=2, start_method="fork"
    )
    told = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    assert told[0]["saved"] == told[0]["found"][0] == str(tmp_path / "checkpoint-1")
    assert told[0]["stood at return"] and told[0]["quota on the main process"] == "None"
    assert names(tmp_path) == ["checkpoint-1", "rank-0.json", "rank-1.json"]
    saved = checkpoint.read(tmp_path / "checkpoint-1")
    assert saved.manifest["world_size"] == 2
    assert [saved.tensors[f"optimizer.{n}"].unique().item() for n in range(6)] == [1, 3, 5, 7, 9, 11]
