"""What an export holds is held against the model: what is missing, empty, another or only renamed."""

import json

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Dots1Config,
    Dots1ForCausalLM,
    EsmConfig,
    EsmForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    MiniMaxConfig,
    MiniMaxForCausalLM,
)

from hftrain import distributed
from hftrain.train import checkpoint
from hftrain.train.exporting import export

pytestmark = pytest.mark.unit

SMALL = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(num_attention_heads=2, num_key_value_heads=1, **SMALL))


def damage(folder, name, **changes):
    tensors = load_file(folder / name)
    for key, change in changes.items():
        key = key.replace("__", ".")
        value = change(tensors.pop(key))
        if value is not None:
            tensors[key] = value.contiguous()
    save_file(tensors, folder / name)


def test_what_is_missing_empty_or_another_is_named(tmp_path, accelerator):
    model = llama()
    export(accelerator, model, None, tmp_path)
    damage(
        tmp_path, "model.safetensors", model__norm__weight=lambda w: None, lm_head__weight=lambda w: w[:0],
        model__layers__1__mlp__up_proj__weight=lambda w: w * 1.001,
    )  # fmt: skip
    with pytest.raises(ValueError, match="is not the model that was trained") as refused:
        checkpoint.check_export(tmp_path, distributed.weights(accelerator, model))
    lines = sorted(line.strip().partition(":")[0] for line in str(refused.value).splitlines()[1:])
    assert lines == ["lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    assert "lm_head.weight: shape (0, 16) in the file, (40, 16) trained" in str(refused.value)


@pytest.mark.parametrize("use_dora", [False, True])
def test_adapters_under_the_names_of_their_file(tmp_path, accelerator, use_dora):
    adapters = LoraConfig(r=2, target_modules="all-linear", modules_to_save=["lm_head"], use_dora=use_dora)
    model = get_peft_model(llama(), adapters)
    export(accelerator, model, None, tmp_path)
    weights = distributed.weights(accelerator, model)
    checkpoint.check_export(tmp_path, weights, adapters=["default"])
    assert len(weights) == 2 * (3 if use_dora else 2) * 7 + 1
    first = "base_model__model__model__layers__0__self_attn__"
    damage(tmp_path, "adapter_model.safetensors", **{first + "q_proj__lora_A__weight": lambda w: w * 0})
    with pytest.raises(ValueError, match=r"q_proj\.lora_A\.weight: norm 0 in the file, "):
        checkpoint.check_export(tmp_path, weights, adapters=["default"])


def test_tied_weights_shards_and_what_is_computed_are_in_order(tmp_path, accelerator):
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2))
    marian = MarianMTModel(MarianConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8, decoder_ffn_dim=8,
        encoder_attention_heads=2, decoder_attention_heads=2, pad_token_id=0, decoder_start_token_id=0,
    ))  # fmt: skip
    for name, model in {"gpt2": gpt2, "marian": marian}.items():
        export(accelerator, model, None, tmp_path / name)
    model = llama()
    model.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    checkpoint.check_export(tmp_path / "shards", distributed.weights(accelerator, model))


def test_an_architecture_with_other_names_on_the_disk_is_compared_in_sum(tmp_path, accelerator):
    model = llama()
    export(accelerator, model, None, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name.replace("mlp", "ffn"): value for name, value in tensors.items()}, tmp_path / "model.safetensors")
    checkpoint.check_export(tmp_path, distributed.weights(accelerator, model))
    save_file(
        {name.replace("mlp", "ffn"): v for name, v in tensors.items() if "up_" not in name},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(ValueError, match=r"mlp\.up_proj\.weight: not in the file"):
        checkpoint.check_export(tmp_path, distributed.weights(accelerator, model))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"


def test_buffers_count_among_renamed_weights(tmp_path, accelerator):
    """Files of these have other names, and hold buffers: a router's correction, decays, frequencies."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    experts = {**heads, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    deepseek = DeepseekV3Config(
        n_routed_experts=4, n_group=1, topk_group=1, first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8,
        qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, **experts, **SMALL,
    )  # fmt: skip
    minimax = MiniMaxConfig(
        num_local_experts=4, layer_types=["full_attention", "linear_attention"], block_size=8, **experts, **SMALL
    )
    dots = Dots1Config(
        n_routed_experts=4, n_group=1, topk_group=1, n_shared_experts=1, first_k_dense_replace=1, head_dim=8, **experts,
        **SMALL,
    )  # fmt: skip
    esm = EsmConfig(num_attention_heads=2, pad_token_id=1, mask_token_id=32, position_embedding_type="rotary", **SMALL)
    mixtures = (DeepseekV3ForCausalLM(deepseek), Dots1ForCausalLM(dots), MiniMaxForCausalLM(minimax))
    for model in (*mixtures, EsmForMaskedLM(esm)):
        kind = model.config.model_type
        buffers = [buffer for name, buffer in model.named_buffers() if name in model.state_dict()]
        for buffer in buffers:
            buffer.fill_(0.5)
        export(accelerator, model, None, tmp_path / kind)
        buffers[0].fill_(0.6)
        with pytest.raises(ValueError, match="is not the model that was trained"):
            checkpoint.check_export(tmp_path / kind, distributed.weights(accelerator, model))
