"""The training loop: read it top to bottom. It knows neither models nor data sets, only `loss(clip, labels)`."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from tubelet.train.checkpoint import load_run, save_run
from tubelet.train.log import Log
from tubelet.train.optim import Ema, polynomial, set_lr
from tubelet.train.speed import cpu_kernels
from tubelet.types import Clip, Labels


def train(
    model: nn.Module,
    groups: list[dict],
    batches: Callable[[int, int], Iterator[tuple[Clip, Labels]]],
    *,
    steps: int,
    folder: Path,
    schedule: Callable[[int], dict] = lambda step: {},
    precision: str = "no",
    floor_lr: float = 2e-5,
    clip_norm: float = 5.0,
    ema_share: float = 0.1,
    log_every: int = 20,
    save_every: int = 500,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    stop: Callable[[int], bool] = lambda step: False,
    seed: int = 0,
) -> nn.Module:
    """Trains `model` in place for `steps` steps, going on from `folder` if a run is there; returns a copy with the
    averaged weights, in evaluation mode.

    `groups`: AdamW groups with a `base_lr` (`optim.parameter_groups`). `batches(start, stop)`: the batches of those
    steps. `schedule(step)`: keyword arguments of `model.loss` at that step. `precision`: `no`, `bf16` or `fp16`.
    `ema_share`: the average looks back over this share of all steps. `evaluate` gets the averaged model.
    `stop(step)`: whether to save and leave early (the schedule stays that of `steps`). `seed`: with the number of a
    step, of all chance in it (drop path, identities), so that it is the same however the run was cut.

    Raises `FloatingPointError` with the step, its clips and the losses as soon as a loss is not finite."""
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    if accelerator.num_processes > 1:
        raise NotImplementedError("training runs in one process so far: gradients would not be shared between several")
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999))
    model, optimizer = accelerator.prepare(model, optimizer)
    network = accelerator.unwrap_model(model)
    ema = Ema(network, 1 - 1 / max(1.0, ema_share * steps))
    folder.mkdir(parents=True, exist_ok=True)
    step, numbers = load_run(folder, network, optimizer, ema)
    log, began, seconds = Log(folder, step=step), time.monotonic(), numbers.get("seconds", 0.0)
    resumed = step

    def save() -> None:
        if accelerator.is_main_process:
            save_run(folder, step, network, optimizer, ema, {"seconds": seconds + time.monotonic() - began})

    network.train()
    with cpu_kernels(network) if accelerator.device.type == "cpu" else nullcontext():
        for clip, labels in batches(step, steps):
            set_lr(optimizer, lambda base: polynomial(step, steps, base, floor=floor_lr))  # noqa: B023
            torch.manual_seed(seed * 1_000_003 + step)
            with accelerator.autocast():
                where = accelerator.device
                losses = network.loss(to_device(clip, where), to_device(labels, where), **schedule(step))
            values = {name: value.item() for name, value in losses.items()}
            if not all(math.isfinite(value) for value in values.values()):
                raise FloatingPointError(_not_finite(step, len(clip.images), values))
            accelerator.backward(torch.stack(list(losses.values())).sum())
            norm = accelerator.clip_grad_norm_(network.parameters(), clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(network)
            step += 1
            if step % log_every == 0 and accelerator.is_main_process:
                rate = (step - resumed) / (time.monotonic() - began)
                log.write(step=step, **values, norm=float(norm or 0), lr=optimizer.param_groups[0]["lr"], rate=rate)
            if step % save_every == 0:
                save()
            if evaluate is not None and evaluate_every and step % evaluate_every == 0:
                log.write(step=step, **evaluate(averaged(network, ema)))
            if stop(step):
                break
    save()
    return averaged(network, ema)


def _not_finite(step: int, batch: int, values: dict[str, float]) -> str:
    """The sentence for a loss that is not finite."""
    first, last = step * batch, (step + 1) * batch - 1
    return (
        f"the loss of step {step} is not finite: {values}; its clips are {first}..{last} of the stream "
        f"(`ClipStream.clip`). The last checkpoint is untouched: look at those clips, or lower the learning rate"
    )


def to_device(part: Clip | Labels, device: torch.device):
    """A clip or its labels with every tensor on the device."""
    return type(part)(**{name: value.to(device, non_blocking=True) for name, value in vars(part).items()})


def averaged(model: nn.Module, ema: Ema) -> nn.Module:
    """A copy of the model with the averaged weights, in evaluation mode."""
    twin = copy.deepcopy(model)
    ema.copy_to(twin)
    return twin.eval()
