"""The router loss of models with experts: transformers' own over the global batch, however the batch is cut."""

import logging

import pytest
import torch
import transformers

from hftrain.data.packing import join
from hftrain.data.plan import Plan
from hftrain.losses import causal_language_model, count_next_labels, forward
from hftrain.text.causal import collate_causal as collate_packs
from hftrain.train.routing import find_router_loss, real_tokens, routed
from tests.train.exact_models import llama, qwen3_moe
from tests.train.exact_worker import BATCH, collate_causal, lengths_of, make_examples, run

SMALL = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 16, "moe_intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "kv_channels": 8, "max_position_embeddings": 64,
    "num_experts": 6, "num_local_experts": 6, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.5,
    "aux_loss_coef": 0.5, "shared_expert_intermediate_size": 16, "shared_intermediate_size": 16, "moe_num_experts": 6,
    "moe_k": 2, "moe_layer_start_index": 0, "first_k_dense_replace": 1, "pad_token_id": 0, "eos_token_id": 1,
    "bos_token_id": 1,
}  # fmt: skip


def small(kind: str, **more) -> torch.nn.Module:
    torch.manual_seed(0)
    model_class = getattr(transformers, kind)
    return model_class(model_class.config_class(**SMALL | more)).train()


@pytest.mark.parametrize(
    "kind",
    ["Mixtral", "Qwen3Moe", "Qwen2Moe", "Olmoe", "GraniteMoe", "JetMoe", "GptOss", "Phimoe", "Ernie4_5_Moe"],
)
def test_it_is_what_transformers_computes_of_a_batch(kind):
    model = small(f"{kind}ForCausalLM")
    router = find_router_loss(model)
    batch = collate_causal(make_examples(7))
    router.checked(causal_language_model()).summed(model, batch)
    ((ours, theirs),) = router.checks
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert router.coefficient > 0
    assert router.agrees(model)


def test_another_formula_is_left_out_and_so_is_a_head_that_computes_none(caplog):
    with caplog.at_level(logging.WARNING):
        doge = small("DogeForCausalLM", is_moe=True, num_experts=16)
        router = find_router_loss(doge)
        router.checked(causal_language_model()).summed(doge, collate_causal(make_examples(3)))
        assert not router.agrees(doge)
        assert "the router loss is left out: DogeForCausalLM has its own formula" in caplog.text
        for kind in ("Qwen3MoeForSequenceClassification", "SwitchTransformersForConditionalGeneration"):
            assert find_router_loss(small(kind)) is None
            assert f"and {kind} does not" in caplog.text
        caplog.clear()
        assert find_router_loss(llama(0.0)) is None
        assert not caplog.text


def test_a_step_is_that_of_transformers(tmp_path):
    """One micro-batch of the whole step: router loss and gradient norm are those of one backward pass."""
    result = run({"name": "whole", "model": "qwen3_moe", "settings": {"max_steps": 1, "warmup_steps": 0}}, tmp_path)
    examples = make_examples(46)
    chosen = Plan(lengths_of(examples), seed=1, global_batch_size=BATCH).examples(0)
    torch.manual_seed(0)
    model = qwen3_moe(0.0).train()
    batch = collate_causal([examples[i] for i in chosen])
    output = forward(model, batch, output_router_logits=True)
    loss = causal_language_model().summed(model, batch) / count_next_labels(batch)
    (loss + 0.5 * output.aux_loss).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert result["router_loss"] == pytest.approx([output.aux_loss.item()], rel=1e-6)
    assert result["steps"][1] == pytest.approx((loss.item(), norm.item()), rel=1e-5)


STEPS = {"max_steps": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    job = {"name": "whole", "model": "qwen3_moe", "settings": STEPS}
    return run(job, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("cut", [{"micro_batch_size": 1}, {"micro_batch_size": 4}, {"micro_batch_tokens": 40}])
def test_any_cut_gives_the_same(whole, tmp_path, cut):
    parts = run({"name": "parts", "model": "qwen3_moe", "settings": STEPS | cut}, tmp_path)
    for step, values in whole["steps"].items():
        assert parts["steps"][step] == pytest.approx(values, rel=1e-5)
    assert parts["router_loss"] == pytest.approx(whole["router_loss"], rel=1e-5)


def test_halving_after_out_of_memory_changes_nothing(whole, tmp_path):
    """Also where it is the pass that counts which has no room."""
    settings = STEPS | {"halve_on_oom": True, "micro_batch_size": 8}
    halved = run({"name": "halved", "model": "qwen3_moe", "settings": settings, "room": 3}, tmp_path)
    assert halved["out_of_memory"] == 2  # 8 examples, then 4
    assert halved["steps"] == {step: pytest.approx(values, rel=1e-5) for step, values in whole["steps"].items()}
    assert halved["router_loss"] == pytest.approx(whole["router_loss"], rel=1e-5)


def test_padding_of_packs_does_not_count():
    draw = torch.Generator().manual_seed(0)
    documents = [{"input_ids": torch.randint(2, 60, (n,), generator=draw).numpy()} for n in (5, 9, 2, 3, 1, 6)]
    packs = [join(documents[:3]), join(documents[3:])]
    batch = collate_packs(packs, pad_token_id=0)
    real = real_tokens(batch)
    assert real.sum() == 25  # all but the document of one token
    logits = (torch.randn(real.numel(), 6, generator=draw),)
    alone = [routed((part[mask],), 2, None) for part, mask in zip(logits[0].view(*real.shape, 6), real, strict=True)]
    whole = routed(logits, 2, real)
    for name in ("chosen", "probability", "tokens"):
        assert torch.allclose(getattr(whole, name), sum(getattr(part, name) for part in alone))
