"""`hftrain export`: what a server is to load, with what it must answer."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hftrain.cli import main
from hftrain.deploy.export import VECTORS, export
from hftrain.deploy.serving import read_vectors
from tests.tiny import adapter_folder, chat_folder

PROMPTS = ("some words", "1 2 3")


def test_an_export_carries_what_it_answers(tmp_path):
    """Each vector is what plain transformers tokenizes and generates with the exported folder."""
    folder = adapter_folder(chat_folder(tmp_path / "base"), tmp_path / "out")
    parity = export(folder, tmp_path / "export", prompts=PROMPTS, max_new_tokens=8)
    assert 0 < parity.mean_kl < 1e-2
    weights = load_file(tmp_path / "export" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype="auto").eval()
    vectors = read_vectors(tmp_path / "export")
    assert [vector.messages[0]["content"] for vector in vectors] == list(PROMPTS)
    for vector in vectors:
        ids = tokenizer.apply_chat_template(vector.messages, add_generation_prompt=True, return_dict=False)
        assert ids == vector.prompt_ids and vector.prompt.endswith("<|assistant|>")
        answer = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :]
        assert answer.tolist() == vector.output_ids and len(vector.margins) == len(vector.output_ids)
        assert tokenizer.decode(answer, skip_special_tokens=True) == vector.output


def test_a_model_without_a_template(tmp_path, capsys):
    """The vectors of a model that only continues text have no messages."""
    base = chat_folder(tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    assert main(["export", str(base), "--dtype", "float16", "--max_new_tokens", "4"]) == 0
    assert "base-export: max |dlogit|" in capsys.readouterr().out
    vectors = read_vectors(tmp_path / "base-export")
    assert vectors[0].messages is None and vectors[0].prompt == "The capital of France is"
    assert len(vectors[0].output_ids) <= 4


def test_gguf_needs_llama_cpp(tmp_path, capsys):
    """Said before anything is written, with what to do."""
    base = chat_folder(tmp_path / "base")
    assert main(["export", str(base), "--gguf", str(tmp_path)]) == 2
    assert "git clone https://github.com/ggml-org/llama.cpp" in capsys.readouterr().err
    assert not (tmp_path / "base-export").exists()


def test_a_converter_that_fails_is_quoted(tmp_path, capsys):
    base, converter = chat_folder(tmp_path / "base"), tmp_path / "convert_hf_to_gguf.py"
    converter.write_text("import sys; sys.exit('no such architecture')")
    assert main(["export", str(base), "--gguf", str(converter), "--max_new_tokens", "2"]) == 2
    assert "is written, but not as GGUF" in (said := capsys.readouterr().err) and "no such architecture" in said
    assert (tmp_path / "base-export" / VECTORS).is_file()


@pytest.mark.skipif("HFTRAIN_LLAMA_CPP" not in os.environ, reason="HFTRAIN_LLAMA_CPP names no checkout of llama.cpp")
def test_gguf_is_the_same_model(tmp_path):
    """Read back by transformers, the GGUF file gives the exported folder's logits."""
    base = Path(os.environ.get("HFTRAIN_GGUF_MODEL", ""))  # its tokenizer must be one that the converter knows
    export(base, tmp_path / "export", llama_cpp=os.environ["HFTRAIN_LLAMA_CPP"], max_new_tokens=2)
    folder = tmp_path / "export"
    ids = torch.tensor([json.loads((folder / VECTORS).read_text())["vectors"][0]["prompt_ids"]])
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        found = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32)(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
