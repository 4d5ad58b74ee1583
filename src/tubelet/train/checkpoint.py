"""A training run on disk: everything needed to go on as if nothing had happened.

The state of the random generators is not among it: `loop.train` seeds every step by its number.
"""

from pathlib import Path

import torch
from torch import nn

from tubelet.train.optim import Ema

NAME = "last.pt"


def save_run(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema, numbers: dict
) -> None:
    """Writes `folder/last.pt`, whole or not at all. `numbers`: what the run wants to remember besides."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": ema.state_dict(),
        "numbers": numbers,
    }
    part = folder / (NAME + ".part")
    torch.save(state, part)
    part.replace(folder / NAME)


def load_run(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema) -> tuple[int, dict]:
    """Restores what `save_run` wrote; returns (step, numbers), or (0, {}) if the folder holds no run yet.

    Raises `ValueError` if that was a run of another model."""
    path = folder / NAME
    if not path.is_file():
        return 0, {}
    state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ValueError(f"{path} is of another model than the one to train; train that in another folder") from error
    optimizer.load_state_dict(state["optimizer"])
    ema.load_state_dict(state["ema"])
    return state["step"], state["numbers"]
