"""Optimizers are torch's own on the same groups, schedules are transformers' own after the warmup."""

import copy
import math

import pytest
import torch
import transformers
from accelerate import Accelerator
from torch import nn

from hftrain.distributed.step import clip
from hftrain.losses import sequence_to_sequence
from hftrain.train.optim import (
    ExponentialMovingAverage,
    Muon,
    make_optimizer,
    make_schedule,
    parameter_groups,
    steps_of,
)
from tests.train.exact_models import MODELS
from tests.train.exact_worker import collate, make_examples

pytestmark = pytest.mark.unit

# ------------------------------------------------------------------------------------------------------- schedules


def of_transformers(name: str, total: int, **settings) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = getattr(transformers, name)(optimizer, **settings)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("name", ["linear", "cosine", "cosine_min", "constant", "warmup_stable_decay", "wsd_min"])
def test_after_the_warmup_a_schedule_equals_that_of_transformers(name, warmup):
    total, decay = 50, 20
    steps = {"num_warmup_steps": warmup, "num_training_steps": total}
    wsd = {**steps, "num_decay_steps": decay, "decay_type": "linear"}
    theirs = {
        "linear": lambda: of_transformers("get_linear_schedule_with_warmup", total, **steps),
        "cosine": lambda: of_transformers("get_cosine_schedule_with_warmup", total, **steps),
        "cosine_min": lambda: of_transformers(
            "get_cosine_with_min_lr_schedule_with_warmup", total, **steps, min_lr_rate=0.1
        ),
        "constant": lambda: of_transformers("get_constant_schedule_with_warmup", total, num_warmup_steps=warmup),
        "warmup_stable_decay": lambda: of_transformers("get_wsd_schedule", total, **wsd, min_lr_ratio=0.0),
        "wsd_min": lambda: of_transformers("get_wsd_schedule", total, **wsd, min_lr_ratio=0.25),
    }[name]()
    kind = {"cosine_min": "cosine", "wsd_min": "warmup_stable_decay"}.get(name, name)
    lowest = {"cosine_min": 0.1, "wsd_min": 0.25}.get(name, 0.0)
    ours = make_schedule(kind, total, warmup_steps=warmup, decay_steps=decay, min_lr_ratio=lowest)
    assert [ours(step) for step in range(warmup, total)] == pytest.approx(theirs[warmup:], rel=1e-12)
    assert [ours(step) for step in range(warmup)] == pytest.approx([(s + 1) / (warmup + 1) for s in range(warmup)])


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_inverse_sqrt_is_that_of_transformers_counted_from_one(warmup):
    theirs = of_transformers("get_inverse_sqrt_schedule", 51, num_warmup_steps=warmup + 1)
    ours = make_schedule("inverse_sqrt", 50, warmup_steps=warmup)
    assert [ours(step) for step in range(50)] == pytest.approx(theirs[1:], rel=1e-12)


def test_inverse_sqrt_is_equation_3():
    """lrate = d^-0.5 * min(step^-0.5, step * warmup^-1.5), as a share of its peak at step = warmup."""
    warmup = 400
    ours = make_schedule("inverse_sqrt", 5000, warmup_steps=warmup - 1)
    paper = [min(s**-0.5, s * warmup**-1.5) / warmup**-0.5 for s in range(1, 5001)]
    assert [ours(s) for s in range(5000)] == pytest.approx(paper, rel=1e-12)


def test_a_schedule_falls_to_its_lowest_rate_at_the_end():
    for name in ("linear", "cosine", "warmup_stable_decay"):
        assert make_schedule(name, 40, min_lr_ratio=0.1)(40) == pytest.approx(0.1)
    assert make_schedule("constant", 40, min_lr_ratio=0.1)(39) == 1.0


def test_steps_of():
    assert [steps_of(value, 200) for value in (0, 0.1, 0.001, 1, 7, 1000)] == [0, 20, 1, 1, 7, 1000]


def test_errors_of_a_schedule():
    with pytest.raises(ValueError, match="warmup_steps=40 uses all 40 steps of the run: lower it, or set a"):
        make_schedule("linear", 40, warmup_steps=40)
    with pytest.raises(ValueError, match="unknown lr_scheduler_type 'polynomial'"):
        make_schedule("polynomial", 40)(0)
    with pytest.raises(ValueError, match="warmup_steps=30 and decay_steps=20 exceed the run's 40 steps"):
        make_schedule("warmup_stable_decay", 40, warmup_steps=30, decay_steps=0.5)


def test_a_decay_begins_where_the_warmup_ends():
    """No jump, also where two shares that fit are rounded up to more steps than there are."""
    for total, warmup, decay in ((40, 30, 10), (3, 0.5, 0.4), (1, 0.0, 0.2), (7, 0.5, 0.5)):
        schedule = make_schedule("warmup_stable_decay", total, warmup_steps=warmup, decay_steps=decay)
        rates = [schedule(step) for step in range(total)]
        peak = rates.index(max(rates))
        assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
        assert max(rates) == 1.0


# --------------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize("name", MODELS)
def test_matrices_decay_and_nothing_else_does(name):
    model = MODELS[name](0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    matrices, vectors = parameter_groups(model, 0.1) if len(parameter_groups(model, 0.1)) == 2 else (None, None)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    decayed, spared = ([names[id(p)] for p in group["params"]] for group in (matrices, vectors))
    assert sorted(decayed + spared) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    assert all(name.endswith("weight") for name in decayed)
    assert not any("norm" in name for name in decayed)
    assert all(name.endswith("bias") or "norm" in name for name in spared)
    counted = sum(p.numel() for group in (matrices, vectors) for p in group["params"])
    assert counted == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(model, 0.1)] == [1, 1]
    model[1].bias.requires_grad_(False)
    assert [group["weight_decay"] for group in parameter_groups(model, 0.1)] == [0.1]
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="the model has no trainable parameter: something froze all of them"):
        parameter_groups(model, 0.1)


# ----------------------------------------------------------------------------------------------------- optimizers


def two_models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = MODELS["custom"](0.0)
    return model, copy.deepcopy(model)


def train(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int, start: int = 0) -> None:
    loss = sequence_to_sequence().summed
    for step in range(start, start + steps):
        loss(model, collate(make_examples(4, seed=step))).backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (1 + step)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()


def assert_equal(model: nn.Module, other: nn.Module) -> None:
    pairs = zip(model.named_parameters(), other.parameters(), strict=True)
    assert [name for (name, p), q in pairs if not torch.equal(p, q)] == []


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [p for p in trainable if p.ndim >= 2], [p for p in trainable if p.ndim < 2]


def test_adamw_is_torchs():
    model, other = two_models()
    ours = make_optimizer(model, "adamw_torch", learning_rate=1e-2, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6)
    matrices, vectors = split(other)
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.9), eps=1e-6, fused=True)
    train(model, [ours], 5)
    train(other, [theirs], 5)
    assert_equal(model, other)


def test_adafactor_is_torchs():
    model, other = two_models()
    ours = make_optimizer(model, "adafactor", learning_rate=1e-2, weight_decay=0.1)
    matrices, vectors = split(other)
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    train(model, [ours], 5)
    train(other, [torch.optim.Adafactor(groups, lr=1e-2)], 5)
    assert_equal(model, other)


def muon(model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(model, "muon", learning_rate=1e-2, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6)


def test_muon_is_torchs_on_matrices_and_adamw_on_the_rest():
    model, other = two_models()
    tables = {id(m.weight) for m in other.modules() if isinstance(m, nn.Embedding)} | {id(other.lm_head.weight)}
    matrices, vectors = split(other)
    hidden, embeddings = ([p for p in matrices if (id(p) in tables) is is_table] for is_table in (False, True))
    assert hidden
    assert embeddings
    theirs = [
        torch.optim.Muon(hidden, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": embeddings, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
            lr=1e-2, betas=(0.8, 0.9), eps=1e-6,
        ),
    ]  # fmt: skip
    train(model, [muon(model)], 5)
    train(other, theirs, 5)
    assert_equal(model, other)


HEADS = {
    "BertForSequenceClassification": {"bert.pooler.dense.weight", "classifier.weight"},
    "RobertaForSequenceClassification": {"classifier.dense.weight", "classifier.out_proj.weight"},
    "BertForQuestionAnswering": {"qa_outputs.weight"},
    "T5ForQuestionAnswering": {"qa_outputs.weight"},
    "LlamaForSequenceClassification": {"score.weight"},
    "BartForSequenceClassification": {"classification_head.dense.weight", "classification_head.out_proj.weight"},
}


@pytest.mark.parametrize("kind", HEADS)
def test_muon_leaves_heads_to_adamw(kind):
    model_class = getattr(transformers, kind)
    small = {
        "vocab_size": 60, "hidden_size": 16, "d_model": 16, "d_kv": 8, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_layers": 1, "encoder_layers": 1, "decoder_layers": 1, "d_ff": 32, "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0,
    }  # fmt: skip
    model = model_class(model_class.config_class(**small))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    orthogonal, rest = ({names[id(p)] for g in part.param_groups for p in g["params"]} for part in muon(model).parts)
    assert HEADS[kind] <= rest
    assert all("layer" in name or "block" in name for name in orthogonal)
    assert len(orthogonal) >= 5


@pytest.mark.parametrize("name", ["adamw_torch", "adafactor", "muon"])
def test_an_optimizer_goes_on_from_its_state(name, tmp_path):
    model, _ = two_models()
    optimizer = make_optimizer(model, name, learning_rate=1e-2, weight_decay=0.1)
    train(model, [optimizer], 3)
    torch.save(optimizer.state_dict(), tmp_path / "state")
    other = copy.deepcopy(model)
    resumed = make_optimizer(other, name, learning_rate=1e-2, weight_decay=0.1)
    resumed.load_state_dict(torch.load(tmp_path / "state"))
    for saved, loaded in zip(
        optimizer.state_dict()["state"].values(), resumed.state_dict()["state"].values(), strict=True
    ):
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(torch.as_tensor(saved[key]), torch.as_tensor(loaded[key])) for key in saved)
    train(model, [optimizer], 3, start=3)
    train(other, [resumed], 3, start=3)
    assert_equal(model, other)


def test_muon_obeys_a_learning_rate_set_from_outside():
    """In its own groups and, after a state is loaded, still in those of its parts."""
    model, _ = two_models()
    optimizer = muon(model)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = copy.deepcopy(model)
    sequence_to_sequence().summed(model, collate(make_examples(4))).backward()
    optimizer.step()
    assert_equal(model, before)


def test_muon_of_a_model_without_hidden_matrices():
    model = nn.Embedding(5, 4)
    optimizer = Muon(model, 1e-2, 0.0, (0.9, 0.999), 1e-8)
    assert [type(part) for part in optimizer.parts] == [torch.optim.AdamW]


# ---------------------------------------------------------------------------------------------- moving average


def test_moving_average_is_its_formula():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average = ExponentialMovingAverage(model, decay=0.6)
    naive = model.weight.detach().double().clone()
    for step in range(1, 21):
        with torch.no_grad():
            model.weight += torch.randn(2, 3)
        average.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        naive = decay * naive + (1 - decay) * model.weight.detach().double()
    assert average.average.keys() == {"weight"}
    torch.testing.assert_close(average.average["weight"].double(), naive, rtol=1e-6, atol=1e-6)
    assert not math.isclose(naive[0, 0].item(), model.weight[0, 0].item(), rel_tol=1e-3)


def test_applied_average_restores_the_weights_bit_for_bit():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).bfloat16()
    average = ExponentialMovingAverage(model, decay=0.9)
    with torch.no_grad():
        model.weight += 1
    average.update(1)
    kept, averaged = model.weight.detach().clone(), average.average["weight"].clone()
    with pytest.raises(KeyError), average.applied():
        assert torch.equal(model.weight, averaged.bfloat16())
        raise KeyError
    assert torch.equal(model.weight, kept)
    assert torch.equal(average.average["weight"], averaged)
    assert averaged.dtype == torch.float32  # or a slow average would not move


@pytest.mark.parametrize("norm", [0, 0.5, 1 - 3e-6, 1 - 1e-6, 1 - 1e-7, 1, 1 + 1e-7, 3, math.inf, math.nan])
@pytest.mark.parametrize("limit", [1.0, 1e6, math.inf])
def test_clip_gives_what_torch_gives(norm, limit):
    gradients = [torch.randn(5, 3), torch.randn(7)]
    whole = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    ours, theirs = ([torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients] for _ in range(2))
    for parameters in (ours, theirs):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient * (norm * min(limit, 1e6) / whole)
    measured, expected = clip(Accelerator(cpu=True), ours, limit), float(torch.nn.utils.clip_grad_norm_(theirs, limit))
    assert measured == expected or (math.isnan(measured) and math.isnan(expected))
    for left, right in zip(ours, theirs, strict=True):
        assert torch.equal(left.grad.nan_to_num(9), right.grad.nan_to_num(9))
