"""Optimiser groups, the learning-rate schedule, and the moving average of the weights."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    encoder_lr: float | None = None,
    no_decay: tuple[str, ...] = (),
    frozen: tuple[nn.Module, ...] = (),
    decays: Callable[[str, Tensor], bool] | None = None,
) -> list[dict]:
    """AdamW groups that hold every trainable parameter exactly once.

    Biases, one-dimensional weights outside the encoder, and names that contain one of `no_decay` are not decayed, or
    what else `decays(name, parameter)` says. Parameters of an `encoder` learn at `encoder_lr` (None: like the rest).
    `frozen` modules get no gradient."""
    for module in frozen:
        module.requires_grad_(False)
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for name, p in trainable:
        in_encoder = "encoder" in name.split(".")
        plain = name.endswith("bias") or (p.ndim == 1 and not in_encoder) or any(part in name for part in no_decay)
        decayed = not plain if decays is None else decays(name, p)
        groups.setdefault((in_encoder, decayed), []).append(p)
    out = [
        {
            "params": params,
            "base_lr": encoder_lr if in_encoder and encoder_lr is not None else lr,
            "lr": lr,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (in_encoder, decayed), params in groups.items()
    ]
    grouped = [id(p) for group in out for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(trainable), "every parameter belongs to exactly one group"
    return out


def polynomial(step: int, base: float, *, steps: int, floor: float, warmup: float = 0.05, power: float = 0.9) -> float:
    """Linear warm-up from `floor` over the first share of the steps, then polynomial decay back to it."""
    floor = min(floor, base)
    start = int(warmup * steps)
    if step < start:
        return floor + (base - floor) * step / start
    progress = min(1.0, (step - start) / max(1, steps - start))
    return floor + (base - floor) * (1 - progress) ** power


def stepped(step: int, base: float, *, drops: Sequence[int], factor: float = 0.1, warmup: int = 0) -> float:
    """A tenth of the rate from each step of `drops` on, after a linear rise over the first `warmup` steps."""
    return base * min(1.0, (step + 1) / (warmup + 1)) * factor ** sum(step >= drop for drop in drops)


def set_lr(optimizer: torch.optim.Optimizer, schedule: Callable[[float], float]) -> None:
    """Gives every group the value of `schedule` at its own `base_lr`."""
    for group in optimizer.param_groups:
        group["lr"] = schedule(group["base_lr"])


class Ema:
    """The exponential moving average of a model's trainable parameters and of its statistics (buffers of floats).

    Batch statistics belong to the weights they were gathered with: those of the last step do not fit averaged weights.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.average = {name: x.detach().clone() for name, x in _averaged(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, x in _averaged(model):
            self.average[name].lerp_(x.detach(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrites the model's parameters and statistics with the average."""
        for name, x in _averaged(model):
            x.copy_(self.average[name])

    def state_dict(self) -> dict:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        for name, average in self.average.items():
            average.copy_(state["average"][name])


def _averaged(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    yield from ((name, b) for name, b in model.named_buffers() if b.is_floating_point())
