"""What saves memory changes no result, or by no more than it says."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hftrain.config import ConfigError, TrainConfig
from hftrain.losses import causal_language_model
from hftrain.text.causal import collate_causal
from hftrain.train.loop import fit, start
from hftrain.train.optim import keep_matmuls, make_optimizer
from hftrain.train.trials import chunk_loss
from tests import tiny

SHAPE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def llama():
    return tiny.model("LlamaForCausalLM", **SHAPE)


def documents(count=24):
    random = np.random.default_rng(0)
    starts = random.integers(1, 100, count)
    return [{"input_ids": np.arange(s, s + n)} for s, n in zip(starts, random.integers(4, 20, count), strict=True)]


def train(folder, model, **settings):
    config = TrainConfig(
        output_dir=str(folder), global_batch_size=8, max_steps=6, learning_rate=3e-3, logging_steps=1, warmup_steps=0,
        eval_steps=0, load_best_model_at_end=False, **{"save_steps": 0, **settings},
    )  # fmt: skip
    loss = causal_language_model(chunked=chunk_loss(model))
    model, results = fit(
        start(config), model, documents(), config, loss=loss,
        collate=lambda rows: collate_causal(rows, pad_token_id=0),
    )  # fmt: skip
    return model, results


def test_selective_checkpointing_computes_no_matrix_product_twice():
    batch = collate_causal(documents(4), pad_token_id=0)

    def run(**how):
        model = llama().train()
        if how:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False, **how})
        with FlopCounterMode(display=False) as counter:
            causal_language_model().summed(model, batch).backward()
        return counter.get_total_flops(), [p.grad for p in model.parameters()]

    plain, full, selective = run(), run(context_fn=torch.utils.checkpoint.noop_context_fn), run(context_fn=keep_matmuls)
    assert plain[0] == selective[0] < full[0]
    torch.testing.assert_close(selective[1], plain[1], rtol=0, atol=0)


def test_selective_checkpointing_in_a_run_changes_nothing(tmp_path):
    plain, _ = train(tmp_path / "plain", llama())
    selective, _ = train(tmp_path / "selective", llama(), activation_checkpointing=True, selective_checkpointing=True)
    torch.testing.assert_close(selective.state_dict(), plain.state_dict(), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="set activation_checkpointing too"):
        TrainConfig(selective_checkpointing=True)


def test_8_bit_states_train_like_32_bit_ones(tmp_path):
    pytest.importorskip("bitsandbytes")
    _, exact = train(tmp_path / "32", llama())
    model, small = train(tmp_path / "8", llama(), optim="adamw_8bit")
    assert small["train_loss"] == pytest.approx(exact["train_loss"], rel=0.01) and small["train_loss"] < 4.7
    assert model.get_input_embeddings().weight.dtype == torch.float32


def test_8_bit_states_take_a_quarter_of_the_memory():
    pytest.importorskip("bitsandbytes")

    def state_bytes(name):
        model = llama()
        optimizer = make_optimizer(model, name, learning_rate=1e-3)
        causal_language_model().summed(model, collate_causal(documents(2), pad_token_id=0)).backward()
        optimizer.step()
        state = optimizer.state[model.model.layers[0].mlp.up_proj.weight]
        return sum(
            value.numel() * value.element_size()
            for value in state.values()
            if torch.is_tensor(value) and value.numel() > 1
        )

    assert state_bytes("adamw_8bit") < 0.4 * state_bytes("adamw_torch")


def test_8_bit_states_resume_exactly(tmp_path):
    pytest.importorskip("bitsandbytes")
    whole, _ = train(tmp_path / "whole", llama(), optim="adamw_8bit")
    with pytest.raises(KeyboardInterrupt):
        train_until(tmp_path / "cut", 3)
    resumed, results = train(tmp_path / "cut", llama(), optim="adamw_8bit", save_steps=1, resume_from_checkpoint="auto")
    assert results["total_steps"] == 6
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def train_until(folder, step):
    """A run that breaks off after `step`."""
    config = TrainConfig(
        output_dir=str(folder), global_batch_size=8, max_steps=6, learning_rate=3e-3, logging_steps=1, warmup_steps=0,
        eval_steps=0, load_best_model_at_end=False, save_steps=1, optim="adamw_8bit",
    )  # fmt: skip

    def break_off(done, model):
        if done == step + 1:
            raise KeyboardInterrupt

    model = llama()
    loss = causal_language_model(chunked=chunk_loss(model))
    fit(
        start(config), model, documents(), config, loss=loss, after_step=break_off,
        collate=lambda rows: collate_causal(rows, pad_token_id=0),
    )  # fmt: skip
