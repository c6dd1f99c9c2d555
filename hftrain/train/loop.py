"""The training loop. A task is four values: examples, `collate`, `loss` and `evaluate`; `fit` trains with them.

A step is one optimizer step. For step s (from 0), (seed, s) determines the examples, s the learning rate, and (seed, s,
micro-batch) the randomness; `state.step` is the number of finished steps. So only weights, optimizer state and s must
be saved to resume from step s."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from hftrain import distributed
from hftrain.config import TrainConfig
from hftrain.data.examples import Examples
from hftrain.data.packing import Packed
from hftrain.data.plan import MicroBatch, cut, seed_all, steps
from hftrain.losses import Batch, Loss, exact, send
from hftrain.models.freezing import narrow_frozen
from hftrain.models.kernels import check_kernels, use_kernels
from hftrain.signals import StopSignals, now_saved
from hftrain.terminal import hush_libraries
from hftrain.train import checkpoint, inspect, memory, trials
from hftrain.train.budget import choose_budget
from hftrain.train.choosing import choose_settings
from hftrain.train.contract import chosen_values, run_contract
from hftrain.train.ending import farewell, leave, save
from hftrain.train.flops import peak_flops, step_flops
from hftrain.train.forecast.passes import counted_flops
from hftrain.train.forecast.refusal import require_room
from hftrain.train.optim import keep_matmuls, make_optimizer, make_schedule
from hftrain.train.routing import RouterLoss, find_router_loss
from hftrain.train.run import Run
from hftrain.train.state import Outcome
from hftrain.train.trials.gradients import Steady, try_examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hftrain.train.state import Processor


def start(config: TrainConfig) -> Accelerator:
    """The first line of every recipe: ZeRO-3 must be active before a model loads, and the seed set before a head is
    drawn. Settings of `config` that an earlier run chose are open again."""
    config.reopen()
    if distributed.was_launched():
        distributed.die_with_parent()
    hush_libraries()
    accelerator = distributed.make_accelerator(
        mixed_precision="bf16" if config.bf16 else "fp16" if config.fp16 else "no",
        max_grad_norm=config.max_grad_norm,
        timeout_seconds=config.ddp_timeout,
        log_with=config.report_to,
        project_dir=config.output_dir,
    )
    check_kernels(config, accelerator.device.type)
    distributed.require_agreement(accelerator, {"settings": asdict(config), "versions": checkpoint.versions()})
    if not accelerator.is_main_process:
        logging.getLogger("hftrain").setLevel(logging.ERROR)  # only one process logs facts on the data
    if config.resume_from_checkpoint is None and not inspect.inspecting():
        checkpoint.find(config.output_dir, None)  # refuses a folder with a run, before anything takes time
    if config.remote_dir and config.resume_from_checkpoint == "auto" and not inspect.inspecting():
        for line in checkpoint.fetch(config.remote_dir, config.output_dir):
            accelerator.print(line)
    set_seed(config.seed)
    return accelerator


def fit(
    accelerator: Accelerator,
    model: PreTrainedModel,
    examples: Sequence[Any],
    config: TrainConfig,
    *,
    collate: Callable[[list[Any]], Batch],
    loss: Loss,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    processor: Processor | None = None,
    flops: Callable[[np.ndarray], float] | None = None,
    augment: Callable[[Any], Any] | None = None,
    augment_at: Callable[[int, int], Callable[[Any], Any]] | None = None,
    before_step: Callable[[nn.Module, list[MicroBatch]], None] | None = None,
    after_step: Callable[[int, nn.Module], None] | None = None,
    held_out: Mapping[str, Sequence[Any]] | None = None,
    rates: Mapping[str, float] | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Trains `model` on `examples` as `config` says; leaves the kept model in `config.output_dir`.

    Settings that are open are chosen first (`hftrain.config.defaults`) and written into `config`.

    Args:
        examples: `Examples`, whose lengths serve token budgets and cuts of similar lengths; or anything with `len` and
            integer indexing, `datasets.Dataset` for instance, where each counts as one token.
        collate: a list of examples -> a batch on the CPU. Randomness in it is seeded by the step.
        loss: the SUM of the loss over a batch's items, and the number of these items. Summed loss / summed count of
            the whole step, over all processes, is what is minimised.
        evaluate: model -> {"loss": ..., metric: ...}, equal on every process.
        processor: tokenizer, image processor or feature extractor, saved beside the model.
        flops: indices of a step's examples -> floating-point operations that the model needs to train on them: logs
            the share of what the devices could do; by default those of `hftrain.train.flops` for tokens, and those of
            `counted_flops` for other inputs on a GPU.
        augment: example -> a training example that is a little different each time; its randomness (Python's, NumPy's
            and PyTorch's global generators) is seeded by (seed, step, example), so the same in any cut of the step.
        augment_at: (step, steps of the run) -> such an `augment` for this step, in its place.
        before_step: called with the model and this process's micro-batches of the step, before its first loss: for
            what a loss needs to know of the whole step.
        after_step: called with (steps done, model) after each optimizer step.
        held_out: examples of other splits by name, {"validation": ..., "test": ...}: part of the contract on resume, so
            that the best step is never chosen across two data sets. An entry "train" is ignored.
        rates: name of each parameter -> its share of the learning rate; None or {}: the whole for all.

    Returns:
        the prepared model with the kept weights (the best, the last, or their moving average) and the run's results.

    Raises:
        FloatingPointError: a loss or a gradient norm that is not finite, more than `max_nonfinite_steps` times.
        RuntimeError: out of memory, with the batch's shape and what to lower.
        SystemExit: with code 75 after a signal: a checkpoint is saved and the command that resumes is printed.
    """
    if config.equal_length_micro_batches and not isinstance(examples, Examples):
        raise ValueError("equal_length_micro_batches needs the lengths of the examples: give fit `Examples`")
    examples = Examples.of(examples)
    lengths = examples.lengths
    plan, total = choose_settings(model, examples, config, held_out)
    if augment_at is not None:
        augment = augment_at(0, total)  # is what is tried and shown
    shown = collate if augment is None else lambda rows: collate([augment(row) for row in rows])
    if flops is None and config.counted == "tokens":
        flops = step_flops(model, examples)
    if flops is None and peak_flops(accelerator.device):  # otherwise there is no peak of which they would be a share
        flops = counted_flops(model, examples, shown, loss)
    peak = config.learning_rate
    assert peak is not None and config.lr_scheduler_type is not None and config.warmup_steps is not None
    schedule = make_schedule(
        config.lr_scheduler_type,
        total,
        warmup_steps=config.warmup_steps,
        decay_steps=config.decay_steps,
        min_lr_ratio=config.min_lr_ratio,
    )
    longest = lengths[[lengths.sum(axis=1).argmax()]]
    cut(longest, 1, micro_batch_tokens=config.micro_batch_tokens)  # fails now, not at the step with this example
    view = inspect.View(examples, collate, plan, config, model, processor, augment, held_out, loss, flops, total)
    seen = inspect.look(view)  # `hftrain inspect` ends here
    contract = run_contract(accelerator, model, examples, total, config, held_out)
    distributed.require_agreement(accelerator, contract)
    if notes := trials.check_batches(
        model, examples, config, collate=collate, loss=loss, augment=augment,
        whole_step=before_step is not None,
    ):  # fmt: skip
        seen["micro-batches"] = "; ".join(notes)  # for report and card
    if config.bf16 and not distributed.is_sharded(accelerator):
        narrow_frozen(model, torch.bfloat16)
    require_room(accelerator, model, view)
    distributed.place(accelerator, model)
    router = find_router_loss(model)
    findings = try_examples(
        accelerator, model, examples, config.seed, collate=shown, before_step=before_step,
        loss=router.checked(loss) if router else loss,
    )  # fmt: skip
    if router and not router.agrees(model):
        router = None
    use_kernels(model, config)  # after the trials, whose small models are on a CPU
    one_shape = isinstance(examples, Packed) or bool((lengths == lengths[0]).all())
    model, optimizer = prepare(
        accelerator, model, config, kept=findings.unreached, rates=rates, one_shape=one_shape
    )  # fmt: skip
    steady = Steady(accelerator.unwrap_model(model), findings.changes)
    if before_step is None and router is None:
        loss = trials.without_padding(accelerator, model, examples, config, collate=collate, loss=loss)
    elif config.padding_free:
        raise ValueError("padding_free cannot be true: the loss depends on the whole step. Leave it open (null)")
    if not notes and before_step is None and router is None:  # results do not depend on the cut
        choose_budget(
            accelerator, model, examples, plan, total, config, collate=collate, loss=loss, augment=augment
        )  # fmt: skip
    contract |= {"padding_free": bool(config.padding_free), "chosen": chosen_values(config)}
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(checkpoint.lock(config.output_dir))
        run = Run(accelerator, model, optimizer, config, contract, processor)
        stack.push(run.background.leave)
        run.resume_or_begin(plan, total, seen)
        state, micro_batch_size = run.state, config.micro_batch_size
        stack.enter_context(run.progress)
        signals = run.signals = stack.enter_context(StopSignals())
        if evaluate and (state.evaluation_due or (config.eval_on_start and state.step == 0)):
            run.evaluate(evaluate)
            if state.evaluation_due:
                leave(run)
            if state.step and run.must_save(total):
                save(run, last=state.step == total or run.patience_lost())
        while state.step < total and not run.patience_lost():
            began = time.perf_counter()
            for step, indices, micro_batches in steps(
                examples, collate, plan, start=state.step, stop=total, num_workers=config.dataloader_num_workers,
                process=accelerator.process_index, processes=accelerator.num_processes,
                micro_batch_size=micro_batch_size, micro_batch_tokens=config.micro_batch_tokens,
                augment=augment, augment_at=augment_at, equal_lengths=config.equal_length_micro_batches,
            ):  # fmt: skip
                learning_rate = peak * schedule(step)
                distributed.set_learning_rate(optimizer, learning_rate)
                if before_step:
                    before_step(model, micro_batches)
                outcome = take_step(run, micro_batches, loss, stop=signals.received, router=router)
                if outcome.out_of_memory:
                    micro_batch_size = memory.halve(run, micro_batches)
                    break
                seconds, needed = time.perf_counter() - began, flops(indices) if flops else 0.0
                run.count_step(outcome, len(indices), int(plan.tokens[indices].sum()), seconds, needed)
                if not outcome.taken:
                    run.refuse_or_skip(outcome, indices)
                if run.average and outcome.taken:
                    run.average.update(state.step)
                if after_step:
                    after_step(state.step, model)
                run.log(outcome, learning_rate, epoch=state.step / plan.steps_per_epoch)
                if evaluate and (run.due("eval_steps", total) or state.step == total):
                    if outcome.stop:
                        state.evaluation_due = True  # the resumed run evaluates first
                    else:
                        run.evaluate(evaluate)
                stop = outcome.stop > 0 or state.evaluation_due
                if run.must_save(total) or stop:
                    steady.put_back()
                    save(run, last=stop or state.step == total or run.patience_lost())
                if stop:
                    leave(run)
                if run.patience_lost():
                    break
                began = time.perf_counter()  # waiting for data is part of a step; evaluating and saving is not
        steady.put_back()
        run.finish()
        if any(distributed.total(accelerator, signals.received)):  # came too late for the last step
            leave(run)
        now_saved(farewell(run))
    return model, run.results(plan)


def prepare(
    accelerator: Accelerator,
    model: PreTrainedModel,
    config: TrainConfig,
    kept: Sequence[str] = (),
    rates: Mapping[str, float] | None = None,
    one_shape: bool = False,
) -> tuple[Any, Any]:
    """The model and its optimizer, wrapped for the strategy that was launched.

    Args:
        kept: names of parameters that do not decay.
        rates: shares of the learning rate by name.
        one_shape: nearly all batches have the same shape, for which `torch_compile` compiles.
    """
    zero, sharded = distributed.zero_stage(accelerator), distributed.is_sharded(accelerator)
    if config.ema_decay is not None and zero == 3:
        raise ValueError("ema_decay needs unsharded parameters on each process: use ZeRO-2 or FSDP2 instead of ZeRO-3")
    if config.optim != "adamw_torch" and sharded:
        raise ValueError(
            f"optim={config.optim} needs unsharded tensors, but ZeRO and FSDP shard them: set optim=adamw_torch"
        )
    if config.halve_on_oom and sharded:
        raise ValueError("halve_on_oom cannot repeat a ZeRO or FSDP step: lower micro_batch_size or micro_batch_tokens")
    distributed.check_gradients(accelerator, model)
    distributed.check_sharing(accelerator, model)
    if config.activation_checkpointing:
        how: dict[str, Any] = {"use_reentrant": False}
        if config.selective_checkpointing:
            how["context_fn"] = keep_matmuls
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
    if config.torch_compile:
        model.compile(dynamic=None if one_shape else True)  # None: sizes that change nevertheless become dynamic
    distributed.arrive(model)
    optimizer = make_optimizer(
        model,
        config.optim,
        learning_rate=config.learning_rate or 0.0,  # each step sets it
        weight_decay=config.weight_decay,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        kept=kept,
        rates=rates,
    )
    distributed.set_bucket_sizes(accelerator, model)
    distributed.sum_in_fp32(accelerator)
    with distributed.grouped(accelerator, model), distributed.unsaved_buffers(accelerator, model):
        model, optimizer = accelerator.prepare(model, optimizer)
    distributed.expect_missing_gradients(accelerator, model)
    if config.halve_on_oom:
        distributed.exchange_nothing_in_forward(model)
    model.train()
    return model, optimizer


def take_step(
    run: Run,
    micro_batches: list[MicroBatch],
    loss: Loss,
    *,
    stop: int,
    router: RouterLoss | None = None,
) -> Outcome:
    """One optimizer step over this process's micro-batches; not taken if the loss or the gradient norm is not finite.

    The objective is (sum of the loss) / (count of items) plus, for a model with experts, the router loss, both over the
    whole step. The exchange averages gradients over the P processes, hence the factor P.

    A GPU is waited for twice: when all results of the passes are read, and for the norm of the gradient.
    """
    accelerator, model, config, step = run.accelerator, run.model, run.config, run.state.step

    def on_device(value: float) -> torch.Tensor:  # by a kernel, which a copy from the CPU would wait for
        return torch.full((), float(value), dtype=exact(accelerator.device), device=accelerator.device)

    own_items = sum(loss.count(m.batch) for m in micro_batches if len(m.indices))
    items = distributed.add_up(accelerator, on_device(own_items))
    share = accelerator.num_processes / items
    if router and not router.count(accelerator, model, micro_batches, loss, config.seed, step):
        if not config.halve_on_oom:
            raise RuntimeError(memory.explain(run, micro_batches[0]))
        return Outcome(out_of_memory=True)
    losses: list[torch.Tensor] = []  # on the device: reading them one by one would make the CPU wait each time
    out_of_memory = False
    for i, micro in enumerate(micro_batches):
        last = i == len(micro_batches) - 1 and not config.halve_on_oom
        seed_all(config.seed, step, micro.number)  # dropout
        try:
            with distributed.accumulating(accelerator, model, last=last):
                real = len(micro.indices) > 0
                listening: AbstractContextManager[Any] = router.listening() if router else nullcontext([])
                with listening as heard:
                    summed = loss.summed(model, send(micro.batch, accelerator.device)) * real
                objective = summed * share.to(torch.promote_types(summed.dtype, torch.float32))
                if router:
                    objective = objective + router.share(accelerator, heard, real=real) * accelerator.num_processes
                distributed.backward(accelerator, model, objective, last=last)
        except RuntimeError as error:
            if not distributed.is_out_of_memory(error):
                raise
            if not config.halve_on_oom:
                raise RuntimeError(f"{memory.explain(run, micro)}\n{str(error).splitlines()[0]}") from error
            out_of_memory = True
            break
        losses.append(summed.detach())
    sums = torch.stack(losses).to(items.dtype) if losses else on_device(0.0)[None]
    routed = on_device(0.0) + (sum(router.shares) if router else 0.0)
    facts = torch.stack([sums.sum(), on_device(stop), routed, on_device(out_of_memory)])
    exchanged = distributed.add_up(accelerator, facts)
    read = torch.cat([items[None], exchanged, sums]).cpu()
    count, loss_sum, stops, router_loss, failed = read[:5].tolist()
    if count == 0:
        raise ValueError(f"step {step + 1} has nothing to learn: all labels of its examples are masked")
    if failed:
        distributed.clear_gradients(accelerator, model, run.optimizer)
        return Outcome(out_of_memory=True)
    if config.halve_on_oom:
        distributed.average_gradients(accelerator, model)
    outcome = Outcome(
        loss=loss_sum / count,
        router_loss=router_loss if router else None,
        stop=int(stops),
        broken=[m for m, s in zip(micro_batches, read[5:], strict=True) if not s.isfinite()],
    )
    if not np.isfinite(outcome.loss):
        distributed.clear_gradients(accelerator, model, run.optimizer)
        return outcome
    outcome.grad_norm = distributed.clip_and_step(
        accelerator, model, run.parameters, run.optimizer, config.max_grad_norm
    )
    return outcome
