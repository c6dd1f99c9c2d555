"""Parameter groups, optimizers, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    kept: Collection[str] = (),
    rates: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Trainable parameters in groups: matrices decay; biases, norms and other vectors do not, nor what is `kept`
    (names). `rates`: name -> share of the learning rate; a group for each, which is its "share"."""

    def decays(name: str, parameter: nn.Parameter) -> bool:
        # ZeRO-3 flattens what it partitions
        return len(getattr(parameter, "ds_shape", parameter.shape)) >= 2 and name not in kept

    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError("the model has no trainable parameter: something froze all of them")
    groups = []
    for share in sorted(set(rates.values()), reverse=True) if rates else [1.0]:
        members = {name: p for name, p in trainable.items() if not rates or rates[name] == share}
        decayed = [p for name, p in members.items() if decays(name, p)]
        spared = [p for name, p in members.items() if not decays(name, p)]
        extra = {"share": share} if rates else {}
        groups += [{"params": decayed, "weight_decay": weight_decay, **extra}]
        groups += [{"params": spared, "weight_decay": 0.0, **extra}]
    return [group for group in groups if group["params"]]


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` for the matrices of the layers, `torch.optim.AdamW` for vectors, embeddings and heads, which
    are all parameters outside the stack of layers (Jordan et al. 2024).

    Muon's update is scaled to AdamW's root mean square (`match_rms_adamw`, Liu et al. 2025, eq. 4), so that one
    learning rate serves both.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
        kept: Collection[str] = (),
    ):
        # rows of embeddings and heads are used one by one: orthogonalising them together makes no sense
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        tables |= {id(head.weight)} if head is not None else set()
        stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        if layers := {id(p) for stack in stacks for p in stack.parameters()}:  # a classifier or a pooler is outside
            tables |= {id(p) for p in model.parameters()} - layers
        tables |= {id(parameter) for name, parameter in model.named_parameters() if name in kept}
        groups = parameter_groups(model, weight_decay, kept)
        matrices = [p for g in groups for p in g["params"] if p.ndim == 2 and id(p) not in tables]
        others = [{**g, "params": [p for p in g["params"] if p.ndim != 2 or id(p) in tables]} for g in groups]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts += [torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")]
        if any(group["params"] for group in others):
            self.parts += [torch.optim.AdamW([g for g in others if g["params"]], lr=lr, betas=betas, eps=eps)]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The parts use this object's groups and state, so that one state_dict has everything."""
        start = 0
        for part in self.parts:
            end = start + len(part.param_groups)
            part.param_groups, part.state, start = self.param_groups[start:end], self.state, end

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()


def make_optimizer(
    model: PreTrainedModel,
    name: str,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    kept: Collection[str] = (),
    rates: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """`adamw_torch` (Loshchilov & Hutter 2019), `adamw_8bit` (Dettmers et al. 2022), `adafactor` (Shazeer & Stern 2018)
    or `muon`, over the trainable parameters; those named in `kept` do not decay, and `rates` has shares of the learning
    rate by name.

    Raises:
        ValueError: `adamw_8bit` without the package bitsandbytes; no parameter is trainable; `muon` with `rates`.
    """
    if name == "muon":
        if rates:
            raise ValueError("optim=muon takes one learning rate: set layer_decay and backbone_rate to 1")
        return Muon(model, learning_rate, weight_decay, betas, eps, kept)
    groups = parameter_groups(model, weight_decay, kept, rates)
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=learning_rate)
    if name == "adamw_8bit":
        return adamw_8bit(model, groups, lr=learning_rate, betas=betas, eps=eps)
    fused = {parameter.device.type for group in groups for parameter in group["params"]} <= FUSED
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps, fused=fused or None)  # None: foreach


FUSED = {"cpu", "cuda", "xpu", "mps"}  # devices with a single kernel for AdamW


def adamw_8bit(model: nn.Module, groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
    """AdamW with blockwise 8-bit moments: 2 bytes of state per parameter instead of 8. Embeddings keep 32 bits, as in
    section 2.3 of Dettmers et al. 2022; so do parameters of under 4,096 numbers."""
    if find_spec("bitsandbytes") is None:
        raise ValueError("optim=adamw_8bit needs the package bitsandbytes: pip install bitsandbytes")
    import bitsandbytes

    class AdamW8bit(bitsandbytes.optim.AdamW8bit):
        """bitsandbytes identifies parameters with 32 bits by their address, which a later model may get."""

        def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
            bits = {"optim_bits": 32} if id(group["params"][pindex]) in tables else {}
            return super().get_config(gindex, pindex, group) | bits

    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return AdamW8bit(groups, **settings)


def keep_matmuls() -> tuple[Any, Any]:
    """For `torch.utils.checkpoint`'s `context_fn`: the results of matrix products and of attention, which are slow to
    compute, are kept; norms, activations and sums are computed again (Korthikanti et al. 2022 choose the other way,
    for attention that is not fused)."""
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    aten = torch.ops.aten
    kept = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default}
    kept |= {getattr(aten, name).default for name in dir(aten) if name.startswith("_scaled_dot_product_")}

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        keep = operation in kept or "flash_attn" in str(operation)
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def steps_of(value: float, total: int) -> int:
    """A setting that is a number of steps, or, under 1, a share of all steps (rounded up, as in transformers)."""
    return math.ceil(value if value >= 1 else value * total)


ENOUGH = {True: 50, False: 200}  # fewest useful steps: of a pretrained model, of a new one


def too_few_steps(
    total: int, per_epoch: int, *, pretrained: bool, warmup_steps: float = 0, max_steps: int | None = None
) -> list[str]:
    """Warnings on a run of `total` steps that teaches little, with advice: it has under 50 steps (a new model: 200), or
    only its last step has the peak learning rate (`make_schedule` refuses a run without any).

    Args:
        per_epoch: steps in a pass over the training data. `warmup_steps`, `max_steps`: the settings.
    """
    sentences, enough = [], ENOUGH[pretrained]
    if total < enough:
        kind = "a pretrained" if pretrained else "a new"
        longer = f"set num_train_epochs to {math.ceil(enough / per_epoch):,} or more"
        if max_steps is not None and total >= max_steps:
            longer = f"set max_steps to {enough} or more"
        sentences.append(
            f"{total:,} steps teach {kind} model little; {enough} or more are usual: {longer}, or make a step smaller "
            "(global_batch_size, global_batch_tokens)"
        )
    if total > 2 and steps_of(warmup_steps, total) >= total - 1:
        sentences.append(
            f"warmup_steps={warmup_steps:g} of {total:,} steps: only the last step has the highest learning rate; "
            "lower it"
        )
    return sentences


def make_schedule(
    name: str, total: int, *, warmup_steps: float = 0, decay_steps: float = 0.2, min_lr_ratio: float = 0.0
) -> Callable[[int], float]:
    """The share of the peak learning rate at step 0, 1, ..., total - 1.

    With w warmup steps the share is (step + 1) / (w + 1) up to step w: the first step is not spent at rate 0, as it is
    with transformers' schedules. From step w on it equals theirs: `linear` and `cosine` fall towards `min_lr_ratio` at
    `total`; `inverse_sqrt` is sqrt((w + 1) / (step + 1)) (Attention Is All You Need, eq. 3); `warmup_stable_decay`
    stays at 1 and falls linearly over the last `decay_steps` (Hu et al. 2024, MiniCPM).

    Raises:
        ValueError: the run has fewer steps than the warmup and the decay need.
    """
    warmup, decay = steps_of(warmup_steps, total), steps_of(decay_steps, total)
    if warmup_steps < 1:
        warmup = min(warmup, total - 1)  # rounded up, a share of one step would be the whole run
    if decay_steps < 1 and warmup_steps + decay_steps <= 1:
        decay = min(decay, total - warmup)  # shares that would fit without rounding up
    if name == "warmup_stable_decay" and warmup < total < warmup + decay:
        raise ValueError(
            f"warmup_steps={warmup} and decay_steps={decay} exceed the run's {total} steps, so the learning "
            "rate would jump between them: lower one, or set shares under 1"
        )
    if warmup >= total:
        raise ValueError(f"warmup_steps={warmup} uses all {total} steps of the run: lower it, or set a share under 1")

    def after_warmup(step: int) -> float:
        progress = (step - warmup) / (total - warmup)
        match name:
            case "constant":
                return 1.0
            case "linear":
                return 1.0 - progress
            case "cosine":
                return 0.5 * (1.0 + math.cos(math.pi * progress))
            case "inverse_sqrt":
                return math.sqrt((warmup + 1) / (step + 1))
            case "warmup_stable_decay":
                return min(1.0, (total - step) / max(1, decay))
        raise ValueError(f"unknown lr_scheduler_type {name!r}")

    def schedule(step: int) -> float:
        share = (step + 1) / (warmup + 1) if step < warmup else after_warmup(step)
        return share if step < warmup or name == "constant" else min_lr_ratio + (1.0 - min_lr_ratio) * share

    return schedule


class ExponentialMovingAverage:
    """A slowly moving copy of the trainable parameters, often better than the last step's (Polyak & Juditsky 1992).

    After step t (counted from 1) the copy moves by 1 - min(decay, (1 + t) / (10 + t)) of the way to the parameters:
    the first steps are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone().float() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter.detach().float(), weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the model has the averages."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.write(self.average)
        try:
            yield
        finally:
            self.write(kept)

    @torch.no_grad()
    def write(self, values: dict[str, torch.Tensor]) -> None:
        """Copies `values` into the model."""
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
