"""The router loss of models with experts, which balances the experts over the global batch, for any cut.

E sum_e f_e P_e (Fedus et al. 2021, equations 4 to 6), where f_e is the share of the tokens that chose expert e, and P_e
the mean of its probability, over all layers. transformers computes it for one batch (`load_balancing_loss_func`), and a
product of two means of a whole step is not the mean of its micro-batches' products. But f has no gradient, and P is
linear in the tokens. So the choices of the whole step are counted first, by a pass without gradients and with the same
dropout, where a process has several micro-batches; then each micro-batch adds its own share.

Shapes: N tokens, E experts.
"""

import inspect
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from hftrain import distributed
from hftrain.data.plan import MicroBatch, seed_all
from hftrain.losses import Batch, Loss, send

logger = logging.getLogger(__name__)


class Routed(NamedTuple):
    """Sums over layers and over tokens without padding."""

    chosen: torch.Tensor  # (E,) how often each expert was chosen
    probability: torch.Tensor  # (E,) the only one with a gradient
    tokens: torch.Tensor

    def loss(self, chosen: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The contribution of these tokens to the router loss of a step with `tokens` tokens, which chose `chosen`."""
        return len(chosen) * (chosen / tokens * self.probability / tokens).sum()


class RouterLoss:
    """Records the router logits of a model while it listens, and computes the router loss of a step from them."""

    def __init__(self, module: nn.Module, coefficient: float, choices: int):
        self.coefficient, self.choices = coefficient, choices
        self.heard: list[Routed] | None = None  # None: not listening
        self.whole: tuple[torch.Tensor, torch.Tensor] | None = None  # choices and tokens of the step
        self.shares: list[torch.Tensor] = []  # shares of the step's loss from this process's micro-batches
        self.checks: list[tuple[float, float]] | None = None  # our value and transformers', in the trial
        self.dense = False  # the model has no experts, although its configuration has the coefficient
        module.register_forward_pre_hook(self._ask, with_kwargs=True)
        module.register_forward_hook(self._hear, with_kwargs=True)

    def _ask(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs if self.heard is None else kwargs | {"output_router_logits": True}

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.heard is None or not module.training:  # in evaluation it is a reference
            return
        logits = output.router_logits or ()
        self.dense = not logits
        if self.checks is not None and any(layer.dim() != 2 for layer in logits):
            self.checks.append((math.nan, math.nan))
        elif logits:
            self.heard.append(routed(logits, self.choices, real_tokens(kwargs)))
        if self.checks is not None and self.heard:
            whole = routed(logits, self.choices, kwargs.get("attention_mask"))
            self.checks.append((whole.loss(whole.chosen, whole.tokens).item(), output.aux_loss.item()))

    @contextmanager
    def listening(self) -> Iterator[list[Routed]]:
        heard: list[Routed] = []
        self.heard = heard
        try:
            yield heard
        finally:
            self.heard = None

    def checked(self, loss: Loss) -> Loss:
        """`loss` for a trial that compares the router loss with transformers' own."""

        def listened(model: nn.Module, batch: Batch) -> torch.Tensor:
            self.checks = self.checks or []
            with self.listening():
                return loss.summed(model, batch)

        return replace(loss, summed=listened)

    def agrees(self, model: nn.Module) -> bool:
        """Whether the trial agrees with transformers, for a model with experts; logs the consequence."""
        checks, self.checks = self.checks or [], None
        if self.dense:
            return False
        close = 1e-4 if getattr(model, "dtype", torch.float32) == torch.float32 else 2e-2
        if not all(abs(ours - theirs) <= close * abs(theirs) for ours, theirs in checks):
            logger.warning("the router loss is left out: %s has its own formula", type(model).__name__)
            return False
        logger.warning(
            "the router loss of the global batch, times %g (router_aux_loss_coef in the model's configuration; 0 turns "
            "it off), is added to the objective; it is logged as router_loss and is not part of loss", self.coefficient,
        )  # fmt: skip
        return True

    def count(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        micro_batches: Sequence[MicroBatch],
        loss: Loss,
        seed: int,
        step: int,
    ) -> bool:
        """Counts the choices of the whole step before its first loss, unless each process has one micro-batch.

        Returns:
            whether the memory of all processes sufficed.
        """
        self.whole, self.shares, parts, enough = None, [], [], True
        if len(micro_batches) == 1:
            return True
        try:
            for micro in micro_batches:
                seed_all(seed, step, micro.number)
                with torch.no_grad(), self.listening() as heard:
                    loss.summed(model, send(micro.batch, accelerator.device))
                parts.append(added(heard, len(micro.indices) > 0))
        except RuntimeError as error:
            if not distributed.is_out_of_memory(error):
                raise
            enough = False
        if any(distributed.total(accelerator, not enough)):
            return False
        self.whole = self._over_processes(accelerator, added(parts))
        return True

    def share(self, accelerator: Accelerator, heard: Sequence[Routed], *, real: bool) -> torch.Tensor:
        """The contribution of a micro-batch to the objective, from what was `heard`; 0 if the micro-batch is not
        `real`."""
        part = added(heard, real)
        if self.whole is None:
            self.whole = self._over_processes(accelerator, part)
        share = part.loss(*self.whole)
        self.shares.append(share.detach())
        return share * self.coefficient

    def _over_processes(self, accelerator: Accelerator, part: Routed) -> tuple[torch.Tensor, torch.Tensor]:
        *chosen, tokens = distributed.total(accelerator, *part.chosen.tolist(), float(part.tokens))
        return part.chosen.new_tensor(chosen), part.tokens.new_tensor(tokens)


def find_router_loss(model: Any) -> RouterLoss | None:
    """The router loss of a model whose configuration has a coefficient for it, unless transformers does not compute it
    for this kind of model, which is logged."""
    module = model.get_base_model() if hasattr(model, "get_base_model") else model  # without PEFT around it
    if not hasattr(module, "config"):
        return None
    settings = module.config.get_text_config()
    names = ("router_aux_loss_coef", "aux_loss_coef")
    coefficient = next((getattr(o, n) for o in (module, settings) for n in names if getattr(o, n, None)), None)
    if not coefficient:
        return None
    choices = getattr(module, "num_experts_per_tok", getattr(settings, "num_experts_per_tok", None))
    takes = inspect.signature(module.forward).parameters
    computes = "load_balancing_loss_func" in vars(sys.modules[type(module).__module__])
    if not computes or module.config.is_encoder_decoder or "output_router_logits" not in takes or not choices:
        logger.warning(
            "the router loss is left out (router_aux_loss_coef is %g): only causal language models "
            "whose forward pass computes it are supported, and %s does not",
            coefficient, type(module).__name__,
        )  # fmt: skip
        return None
    return RouterLoss(module, coefficient, choices)


def routed(router_logits: Sequence[torch.Tensor], choices: int, real: torch.Tensor | None) -> Routed:
    """router_logits: (N, E) of each layer. real: N numbers, 1 for a token and 0 for padding; None: no padding."""
    first = router_logits[0]
    weight = first.new_ones(len(first), dtype=torch.float32) if real is None else real.flatten().float()
    chosen = first.new_zeros(first.shape[-1], dtype=torch.float32)
    probability = torch.zeros_like(chosen)
    for logits in router_logits:
        probabilities = logits.float().softmax(dim=-1)
        picks = probabilities.topk(choices, dim=-1).indices
        chosen.scatter_add_(0, picks.flatten(), weight.repeat_interleave(choices))
        probability = probability + (probabilities * weight[:, None]).sum(dim=0)
    return Routed(chosen, probability, weight.sum() * len(router_logits))


def added(parts: Sequence[Routed], real: bool = True) -> Routed:
    chosen, probability, tokens = (sum(values) * real for values in zip(*parts, strict=True))
    return Routed(chosen, probability, tokens)


def real_tokens(inputs: Mapping[str, Any]) -> torch.Tensor | None:
    """(B, T), 1 where a token is no padding: by the attention mask, or in packs by their positions, as padding stays at
    position 0. So does a document of one token, which is left out too: it is nothing to learn from."""
    if inputs.get("attention_mask") is not None:
        return inputs["attention_mask"]
    positions = inputs.get("position_ids")
    if positions is None:
        return None
    return (positions > 0) | (F.pad(positions[:, 1:], (0, 1)) == 1)
