"""Python code in a model folder: nothing runs it unless the user says so, and standard input is never asked."""

import ast
import io
import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from hftrain import cli
from hftrain.config import parse
from tests import ROOT
from tests.tiny import adapter_folder, chat_folder, plant


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    chat_folder(folder / "model")
    adapter_folder(folder / "model", folder / "adapter")
    return folder


@pytest.fixture
def planted(plain, tmp_path, monkeypatch):
    """{"model": a planted folder, "adapter": one of a planted base, "tokenizer": planted, of a known model}."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 99))
    for name in ("model", "adapter", "tokenizer"):
        shutil.copytree(plain / ("adapter" if name == "adapter" else "model"), tmp_path / name)
    marker = tmp_path / "marker"
    plant(tmp_path / "model", marker)
    config = (tmp_path / "tokenizer" / "config.json").read_text()
    plant(tmp_path / "tokenizer", marker)
    (tmp_path / "tokenizer" / "config.json").write_text(config)
    adapter = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    adapter["base_model_name_or_path"] = str(tmp_path / "model")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(adapter))
    return {name: str(tmp_path / name) for name in ("model", "adapter", "tokenizer")} | {"marker": marker}


@pytest.mark.parametrize("kind", ["model", "adapter", "tokenizer"])
@pytest.mark.parametrize("command", ["predict", "chat", "merge", "export", "prepare", "check-serve"])
def test_a_command_runs_no_code_of_a_folder(planted, command, kind, tmp_path, capsys):
    folder = planted[kind]
    (tmp_path / "x.jsonl").write_text('{"text": "a few words"}\n')
    (Path(folder) / "test_vectors.json").write_text('{"vectors": []}')
    words = {
        "predict": ["predict", folder, "some words"],
        "chat": ["chat", folder],
        "merge": ["merge", folder, "--output", str(tmp_path / "merged")],
        "export": ["export", folder, "--output", str(tmp_path / "exported")],
        "prepare": ["prepare", "--source", f"x={tmp_path / 'x.jsonl'}", "--tokenizer", folder, "--output_dir",
                    str(tmp_path / "tokens"), "--num_workers", "1"],
        "check-serve": ["check-serve", "http://localhost:9", folder],
    }[command]  # fmt: skip
    code = cli.main(words)
    error = capsys.readouterr().err
    assert (not planted["marker"].exists() and sys.stdin.read(2) == "y\n") or command == "chat"
    if kind == "model" or (kind == "adapter" and command not in ("prepare", "check-serve")):
        assert code == 2 and "Python code of its author, which was not run" in error and "--trust_remote_code" in error
    assert not planted["marker"].exists()


class Planted:
    """What a pickle of it runs."""

    def __reduce__(self):
        return os.mkdir, ("marker",)


@pytest.mark.parametrize("command", ["chat", "merge", "export"])
def test_a_command_runs_no_pickle_of_a_folder(plain, tmp_path, monkeypatch, capsys, command):
    """Nor does the flag, which is for Python files, have it run."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    shutil.copytree(plain / "model", folder)
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Planted()}, folder / "pytorch_model.bin")
    words = [] if command == "chat" else ["--output", str(tmp_path / "new")]
    assert cli.main([command, str(folder), *words, "--trust_remote_code"]) == 2
    said = capsys.readouterr().err
    assert f"{folder / 'pytorch_model.bin'} is a pickle that would run posix.mkdir, which was refused" in said
    assert not (tmp_path / "marker").exists() and "Traceback" not in said


def test_the_flag_runs_it(planted, tmp_path):
    assert cli.main(["merge", planted["model"], "--output", str(tmp_path / "merged"), "--trust_remote_code"]) == 0
    assert planted["marker"].exists()


ROWS = {
    "chat": {"prompt": "some words", "completion": "more words"},
    "preference": {"prompt": "some words", "chosen": "a few", "rejected": "numbers"},
    "reward": {"prompt": "some words", "chosen": "a few", "rejected": "numbers"},
    "grpo": {"prompt": "some words"},
    "classify": {"text": "some words", "label": "a"},
    "classify_images": {"image": "image", "label": "a"},
    "classify_audio": {"audio": "wave", "label": "a"},
    "transcribe": {"audio": "wave", "text": "some words"},
    "pretrain_images": {"image": "image", "label": "a"},
    "detect": {"image": "image", "objects": {"bbox": [[1, 1, 4, 4]], "category": ["a"]}},
    "segment": {"image": "image", "mask": "mask"},
    "speak": {"audio": "recording", "text": "some words"},
    "tag": {"tokens": ["some", "words"], "tags": ["O", "O"]},
    "answer": {"title": "t", "context": "a few words", "question": "how many", "answers": {"text": ["a few"],
               "answer_start": [0]}},
    "translate": {"source": "some words", "target": "a few"},
    "pretrain": {"text": "some words"},
    "pretrain_mlm": {"text": "some words"},
}  # fmt: skip


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "recipes").glob("*.py")))
def test_a_recipe_runs_no_code_of_a_folder(planted, recipe, tmp_path):
    rows = [{key: f"{value} {i}" if isinstance(value, str) and key != "label" else value
             for key, value in ROWS[recipe].items()} for i in range(60)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i in range(60 if recipe in ("classify_images", "pretrain_images", "detect", "segment") else 0):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"image {i}", "PNG")
        Image.new("L", (8, 8), i % 2).save(tmp_path / f"mask {i}", "PNG")
    for i in range(60 if recipe in ("classify_audio", "transcribe") else 0):
        soundfile.write(tmp_path / f"wave {i}", [0.1, i / 100] * 800, 8000, format="WAV")
    for i in range(60 if recipe == "speak" else 0):
        soundfile.write(tmp_path / f"recording {i}", np.full(800, (i + 1) / 100), 8000, format="WAV")
    file = ROOT / "recipes" / f"{recipe}.py"
    module = runpy.run_path(str(file))
    cls = module[re.search(r"(?:parse\(|run\(main, )(\w+)\)", file.read_text()).group(1)]
    words = ["--model_name_or_path", planted["model"], "--train_file", str(tmp_path / "rows.jsonl"), "--max_steps", "1"]
    words += ["--output_dir", str(tmp_path / "out")] + (["--reward_funcs", "x.py:f"] if recipe == "grpo" else [])
    with pytest.raises(ValueError, match="Python code of its author, which was not run"):
        module["main"](parse(cls, words))
    assert not planted["marker"].exists() and sys.stdin.read(2) == "y\n"


def test_the_custom_transformer_is_loaded_from_the_package(tmp_path, monkeypatch):
    """Its folders carry their code, so that others load them without hftrain; here the copy is not run."""
    import torch
    from transformers import AutoModelForCausalLM

    from hftrain.models import TransformerConfig, TransformerForCausalLM

    size = {"vocab_size": 40, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    torch.manual_seed(0)
    shape = TransformerConfig(num_encoder_layers=0, num_decoder_layers=1, **size)
    TransformerForCausalLM(shape).save_pretrained(tmp_path / "own")
    copies = list((tmp_path / "own").glob("*.py"))
    assert copies
    for file in copies:
        file.write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n" + file.read_text())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "own", trust_remote_code=False)
    assert type(model) is TransformerForCausalLM and not (tmp_path / "marker").exists()


WITHOUT_CODE = {"GenerationConfig", "PeftConfig", "PeftModel", "PreTrainedTokenizerFast"}  # these never run any


def test_every_load_says_whether_code_may_run():
    for path in sorted((ROOT / "hftrain").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                owner = node.func.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                names = {keyword.arg for keyword in node.keywords}
                assert name in WITHOUT_CODE or names & {"trust_remote_code", None}, f"{path}:{node.lineno}: {name}"
