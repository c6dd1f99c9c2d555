"""Parameters without a gradient fare alike on any number of processes, and a trial leaves the model as it was."""

import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from transformers import (
    BigBirdConfig,
    BigBirdForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from hftrain.config import TrainConfig
from hftrain.data.examples import Examples
from hftrain.distributed import check_gradients
from hftrain.losses import IGNORE, sequence_to_sequence
from hftrain.report.history import read_history
from hftrain.train.loop import fit
from hftrain.train.trials.gradients import Steady, try_examples
from hftrain.train.trials.memory import Memory, left_as_it_was
from tests.train.exact_models import UNREACHED
from tests.train.exact_worker import collate, lengths_of, make_examples, run
from tests.train.test_exact import assert_same, launch_with

NEVER = {"led": "query_global", "bert2bert": "encoder.pooler.dense", "idle": "idle"}
SETTINGS = {"max_steps": 4, "weight_decay": 0.5, "micro_batch_size": 2}


def big_bird() -> torch.nn.Module:
    """Block-sparse attention, which turns full for good at rows of at most 28 tokens."""
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BigBirdConfig(vocab_size=60, block_size=4, num_random_blocks=1, max_position_embeddings=64, **shape)
    return BigBirdForMaskedLM(config)


def growing_rope() -> torch.nn.Module:
    """Rotary embeddings that keep the length of the longest row, if no row under 8 tokens comes."""
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=60, max_position_embeddings=8, rope_parameters=rope, **shape))


def rows(count: int = 12) -> list[list[int]]:
    """Of 12 to 40 tokens, so that some batches are short."""
    draw = np.random.default_rng(0)
    return [draw.integers(3, 60, 40 if i % 4 == 0 else 12 + i).tolist() for i in range(count)]


def as_rows(examples: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, examples))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in examples])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids.masked_fill(ids == 0, IGNORE)}


def state(model: torch.nn.Module) -> dict[str, str]:
    """Every attribute of every module and configuration, and every buffer."""
    found = {name: str(module) for name, module in model.named_modules()}
    found |= {f"{n}.{k}": repr(v) for n, m in model.named_modules() for k, v in vars(m).items() if k[0] != "_"}
    return found | {name: str(buffer) for name, buffer in model.named_buffers()} | model.config.to_dict()


@pytest.mark.parametrize("make", [big_bird, growing_rope])
def test_a_trial_leaves_the_model_as_it_was(make):
    model, batch = make().train(), as_rows(rows()[1:3])
    before, changed = state(model), copy.deepcopy(model)
    changed(**batch)
    assert state(changed) != before
    numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()
    with left_as_it_was(model):
        model.eval()
        model(**batch)
        torch.rand(3)
    assert state(model) == before
    assert model.training
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert np.random.get_state()[1].tolist() == numbers[1]


@pytest.mark.parametrize(("make", "first"), [(big_bird, 1), (growing_rope, 0)])
def test_a_batch_does_not_decide_what_the_next_one_meets(make, first):
    """BigBird's first short batch, rotary embeddings' first long one."""
    model = make().eval()
    batches = [as_rows([rows()[number]]) for number in (first, 1 - first)]
    expected = copy.deepcopy(model)(**batches[1]).logits
    changed = copy.deepcopy(model)
    changed(**batches[0])
    assert not torch.equal(changed(**batches[1]).logits, expected)
    memory = Memory(model)
    model(**batches[0])
    steady = Steady(model, memory.put_back())
    model(**batches[0])
    assert torch.equal(model(**batches[1]).logits, expected)
    steady.put_back()
    assert model.config.to_dict() == make().config.to_dict()


def test_a_model_that_batches_change_resumes_bit_for_bit(tmp_path):
    def train(**settings) -> list[float]:
        torch.manual_seed(0)
        config = TrainConfig(
            output_dir=str(tmp_path / "run"), global_batch_size=2, max_steps=8, logging_steps=1, eval_steps=0, seed=1,
            save_steps=3, save_total_limit=9, **settings,
        )  # fmt: skip
        examples = Examples(rows(), [len(row) for row in rows()])
        model, _ = fit(
            Accelerator(cpu=True), big_bird(), examples, config, collate=as_rows, loss=sequence_to_sequence(),
        )  # fmt: skip
        assert model.config.attention_type == "block_sparse"
        return [row["loss"] for row in read_history(tmp_path / "run" / "metrics.jsonl") if "loss" in row]

    unbroken = train()
    for step in (6, 8):
        (tmp_path / "run" / f"checkpoint-{step}").rename(tmp_path / str(step))
    assert train(resume_from_checkpoint="auto") == unbroken


@pytest.mark.parametrize("name", NEVER)
def test_what_gets_no_gradient_is_named_and_stays(name, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run({"name": name, "model": name, "settings": SETTINGS}, tmp_path)
    assert "parameters got no gradient in a trial; without one they stay unchanged" in caplog.text
    assert NEVER[name] in caplog.text
    torch.manual_seed(0)
    begun, trained = UNREACHED[name](0.0), load_file(tmp_path / name / "model.safetensors")
    matrices = {key: value for key, value in begun.named_parameters() if value.dim() > 1 and key in trained}
    kept = {key for key, value in matrices.items() if torch.equal(value, trained[key])}
    assert any(NEVER[name] in key for key in kept)
    unused = ("_global", "pooler", "encoder.encoder.layer.0.crossattention", "idle")
    assert all(any(part in key for part in unused) for key in kept)


def test_what_processes_could_not_exchange_is_refused():
    """Of two processes under ZeRO, or FSDP2: a stand-in, as the launch of either would take a minute."""
    two = {"num_processes": 2, "distributed_type": DistributedType.DEEPSPEED}
    zero, fsdp = SimpleNamespace(**two), SimpleNamespace(**two | {"distributed_type": DistributedType.FSDP})
    with pytest.raises(ValueError, match=r"experts has a module for each expert.* use DDP or FSDP2, or freeze"):
        check_gradients(zero, UNREACHED["switch"](0.0))
    check_gradients(fsdp, UNREACHED["switch"](0.0))
    for sharded in (zero, fsdp):
        with pytest.raises(ValueError, match=r"drops random layers \(encoder_layerdrop=0.4\).* 0, or use DDP"):
            check_gradients(sharded, UNREACHED["dropped"](0.0))
        check_gradients(sharded, UNREACHED["idle"](0.0))


def test_experts_and_layers_that_a_batch_leaves_out_are_not_taken_for_unused():
    for name in ("switch", "dropped"):
        torch.manual_seed(0)
        examples = make_examples(6)
        findings = try_examples(
            Accelerator(cpu=True), UNREACHED[name](0.0), Examples(examples, lengths_of(examples)), 1, collate=collate,
            loss=sequence_to_sequence(), before_step=None,
        )  # fmt: skip
        assert findings.unreached == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3", "FSDP2"])
def test_two_processes_treat_them_as_one_does(strategy, tmp_path):
    models = {
        "DDP": ["led", "bert2bert", "switch", "dropped", "qwen3_moe"], "FSDP2": ["idle", "qwen3_moe"],
    }.get(strategy, ["led", "bert2bert", "qwen3_moe"])  # fmt: skip
    jobs = [{"name": name, "model": name, "settings": SETTINGS} for name in models]
    two = launch_with(strategy, tmp_path / strategy, jobs)
    for job in jobs:
        name, one = job["name"], run(job, tmp_path)
        assert_same(two[name]["steps"], one["steps"])
        if name == "qwen3_moe":
            assert two[name]["router_loss"] == pytest.approx(one["router_loss"], rel=1e-5)
        first, second = (load_file(folder / name / "model.safetensors") for folder in (tmp_path, tmp_path / strategy))
        for key, value in first.items():
            if "k_proj.bias" not in key and "key.bias" not in key:  # softmax cancels it: its gradient is rounding
                torch.testing.assert_close(second[key], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=key: f"{n}: {m}")
