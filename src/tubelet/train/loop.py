"""The training loop: read it top to bottom. It knows neither models nor data sets, only `loss(clip, labels)`.

Several processes (`accelerate launch`, `torchrun`) are as one with the sum of their batches: each takes its own clips,
gradients are averaged. Batch statistics alone differ: each process learns them from its own clips, the first one's
are kept.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from tubelet.train.checkpoint import load_run, save_run
from tubelet.train.curves import draw_curves
from tubelet.train.log import Log
from tubelet.train.optim import Ema, polynomial, set_lr
from tubelet.train.speed import cpu_kernels
from tubelet.types import Clip, FlowLabels, Labels, TubeLabels

Truth = TypeVar("Truth", Labels, TubeLabels, FlowLabels)
Part = TypeVar("Part", Clip, Labels, TubeLabels, FlowLabels)
Model = TypeVar("Model", bound=nn.Module)


def train(
    model: Model,
    groups: list[dict],
    batches: Callable[[int, int], Iterator[tuple[Clip, Truth]]],
    *,
    steps: int,
    folder: Path,
    schedule: Callable[[int], dict] = lambda step: {},
    precision: str = "no",
    rate: Callable[[int, float], float] | None = None,
    clip_norm: float = 5.0,
    ema_share: float = 0.1,
    log_every: int = 20,
    save_every: int = 500,
    evaluate: Callable[[Model], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    stop: Callable[[int], bool] = lambda step: False,
    seed: int = 0,
) -> Model:
    """Trains `model` in place for `steps` steps, going on from `folder` if a run is there; returns a copy with the
    averaged weights, in evaluation mode.

    `groups`: AdamW groups with a `base_lr` (`optim.parameter_groups`). `batches(start, stop)`: the batches of those
    steps, of this process. `schedule(step)`: keyword arguments of `model.loss` at that step. `precision`: `no`, `bf16`
    or `fp16`. `rate(step, base_lr)`: the learning rate of a group (None: `optim.polynomial` down to 2e-5). `ema_share`:
    the average looks back over this share of all steps (0: not at all). `evaluate` gets the averaged model.
    `stop(step)`: whether to save and leave early (the schedule stays that of `steps`). `seed`: with the number of a
    step, of all chance in it (drop path, identities), so that it is the same however the run was cut. `folder` gets
    the log (`log.Log`), and with every save `last.pt` and `curves.png`.

    Raises `FloatingPointError` with the step, its clips and the losses as soon as a loss is not finite."""
    # Not every parameter has a gradient at every step: the identity bank of AOT has none while it is frozen.
    sharing = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available(), kwargs_handlers=[sharing])
    rate = rate or partial(polynomial, steps=steps, floor=2e-5)
    main, device = accelerator.is_main_process, accelerator.device
    ema = Ema(model.to(device), 1 - 1 / max(1.0, ema_share * steps))
    with cpu_kernels(model) if device.type == "cpu" else nullcontext():
        trainee, optimizer = accelerator.prepare(
            Trainee(model), torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)
        )
        folder.mkdir(parents=True, exist_ok=True)
        step, numbers = load_run(folder, model, optimizer, ema)
        accelerator.wait_for_everyone()  # all have read the log before the first process shortens it
        log = Log(folder, step=step) if main else None
        began, resumed, seconds = time.monotonic(), step, numbers.get("seconds", 0.0)

        def save() -> None:
            if main:
                save_run(folder, step, model, optimizer, ema, {"seconds": seconds + time.monotonic() - began})
                draw_curves(folder)

        recent: dict[str, list[float]] = {}  # losses since the last entry of the log; not every step has all of them
        model.train()
        for clip, labels in batches(step, steps):
            set_lr(optimizer, partial(rate, step))
            torch.manual_seed(seed * 1_000_003 + step)
            losses = trainee(to_device(clip, device), to_device(labels, device), **schedule(step))
            for name, value in finite_values(losses, step, clip).items():
                recent.setdefault(name, []).append(value)
            accelerator.backward(torch.stack(list(losses.values())).sum())
            norm = accelerator.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model)
            step += 1
            if step % log_every == 0:
                pace = (step - resumed) / (time.monotonic() - began)
                means = {name: fmean(values) for name, values in recent.items()}
                recent.clear()
                if log:
                    log.write(step=step, **means, norm=float(norm or 0), lr=optimizer.param_groups[0]["lr"], rate=pace)
            if evaluate is not None and evaluate_every and step % evaluate_every == 0 and log:
                log.write(step=step, **evaluate(averaged(model, ema)))
            if step % save_every == 0:  # after the evaluation: the log of a saved step is whole
                save()
            if agreed(stop(step), accelerator):
                break
        save()
        if log:
            log.close()
        return averaged(model, ema)


class Trainee(nn.Module):
    """A model whose `forward` is its loss: gradients are shared between processes by what `forward` computes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, clip: Clip, labels: Labels | TubeLabels | FlowLabels, **options) -> dict[str, Tensor]:
        return self.model.loss(clip, labels, **options)  # pyright: ignore[reportCallIssue]


def agreed(stop: bool, accelerator: Accelerator) -> bool:
    """What the first process says, since clocks differ, and one that goes on alone would wait for ever."""
    said = [stop]
    return broadcast_object_list(said)[0] if accelerator.num_processes > 1 else stop


def finite_values(losses: dict[str, Tensor], step: int, clip: Clip) -> dict[str, float]:
    """The losses as numbers. Raises `FloatingPointError` if one is not finite."""
    values = {name: value.item() for name, value in losses.items()}
    if all(math.isfinite(value) for value in values.values()):
        return values
    clips = "unknown" if clip.numbers is None else ", ".join(str(n) for n in clip.numbers.tolist())
    raise FloatingPointError(
        f"the loss of step {step} is not finite: {values}; its clips are {clips} of the stream (`ClipStream.clip`). "
        f"The last checkpoint is untouched: look at those clips, or lower the learning rate"
    )


def to_device(part: Part, device: torch.device) -> Part:
    """A clip or its labels with every tensor, also those in lists, on the device."""

    def moved(value):
        if isinstance(value, list):
            return [moved(item) for item in value]
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    return replace(part, **{name: moved(value) for name, value in vars(part).items()})


def averaged(model: Model, ema: Ema) -> Model:
    """A copy of the model with the averaged weights, in evaluation mode."""
    twin = copy.deepcopy(model)
    ema.copy_to(twin)
    return twin.eval()
