"""Whether Accelerate and torch cut up models with FSDP2, and what `check_sharing` says: one process, on a CPU."""

import json
import os
import sys

import torch
import transformers
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType

from hftrain.distributed import check_sharing, grouped, unsaved_buffers
from tests import tiny

IDS = {"vocab_size": 40, "pad_token_id": 0, "decoder_start_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, **IDS}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, **IDS}
BERT = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
DISTIL = {"vocab_size": 40, "dim": 16, "n_heads": 2, "n_layers": 1, "hidden_dim": 24}
LED = {"attention_window": 4, "max_encoder_position_embeddings": 64}
DEEPSEEK = {"moe_intermediate_size": 8, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}
DEEPSEEK |= {"first_k_dense_replace": 0, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 4}
DEEPSEEK |= {"qk_nope_head_dim": 4}
MODELS = {
    "BartForConditionalGeneration": BART,
    "MarianMTModel": BART,
    "LEDForConditionalGeneration": BART | LED,
    "T5ForConditionalGeneration": T5,
    "SwitchTransformersForConditionalGeneration": T5 | {"num_experts": 2},
    "BertForMaskedLM": BERT,
    "BertForSequenceClassification": BERT,
    "AlbertForMaskedLM": BERT | {"embedding_size": 16},
    "ElectraForMaskedLM": BERT | {"embedding_size": 16},
    "DistilBertForSequenceClassification": DISTIL,
    "LlamaForCausalLM": BERT | {"tie_word_embeddings": True},
    "DeepseekV3ForCausalLM": BERT | DEEPSEEK,  # one of its weights is a buffer
    "ViTForImageClassification": {**tiny.SIZE, "image_size": 32, "patch_size": 8},
    "ConvNextForImageClassification": {"hidden_sizes": [8] * 4, "depths": [1] * 4},
    "WhisperForConditionalGeneration": BART | {"max_source_positions": 20},
    "GPT2LMHeadModel": {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2},
}


def inputs(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    ids = torch.full((2, 8), 3)
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.ones(2, 3, 32, 32)}
    if model.main_input_name == "input_features":
        return {"input_features": torch.ones(2, 80, 40)} | decoder
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | decoder


def refused(accelerator: Accelerator, name: str) -> dict[str, str]:
    """What we say of the model, and what Accelerate or torch says; "" where it is taken."""
    accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = None  # as `make_accelerator` does, and this:
    accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = True
    auto = getattr(transformers, name)
    model = auto(auto.config_class(**MODELS[name]))
    said = {"ours": "", "theirs": ""}
    try:
        check_sharing(accelerator, model)
    except ValueError as error:
        said["ours"] = str(error)
    try:
        with grouped(accelerator, model), unsaved_buffers(accelerator, model):
            model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
        model(**inputs(model))[0].mean().backward()
        optimizer.step()
    except Exception as error:
        said["theirs"] = f"{type(error).__name__}: {error}"
    accelerator.free_memory()
    return said


def main(store: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    PartialState(cpu=True, backend="gloo")
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU  # else Accelerate drops FSDP
    accelerator = Accelerator(cpu=True)
    assert accelerator.distributed_type == DistributedType.FSDP
    results = {name: refused(accelerator, name) for name in MODELS}
    packed = tiny.model("LlamaForCausalLM")
    packed.is_loaded_in_4bit = True
    try:
        check_sharing(accelerator, packed)
    except ValueError as error:
        results["4 bits"] = {"ours": str(error), "theirs": "not tried"}
    print(json.dumps(results))


if __name__ == "__main__":
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
    }
    os.environ |= {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_RESHARD_AFTER_FORWARD": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    main(sys.argv[1])
