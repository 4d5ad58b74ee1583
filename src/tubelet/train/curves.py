"""The curves of a run: what `log.jsonl` says, as one picture."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tubelet.train.log import read_log

NOT_A_CURVE = {"step", "lr", "rate", "norm"}


def draw_curves(folder: Path, *, smooth: int = 10) -> Path | None:
    """Writes `folder/curves.png`: the losses, each a mean over the last `smooth` entries, above the validation
    numbers; returns its path, or None if the log is empty."""
    entries = read_log(folder / "log.jsonl")
    if not entries:
        return None
    training = [entry for entry in entries if "lr" in entry]
    validation = [entry for entry in entries if "lr" not in entry]
    figure = Figure(figsize=(8, 3 + 3 * bool(validation)), layout="constrained")
    axes = figure.subplots(1 + bool(validation), 1, sharex=True, squeeze=False)[:, 0]
    _draw(axes[0], training, smooth=smooth)
    axes[0].set_ylabel("loss")
    if validation:
        _draw(axes[1], validation, smooth=1, marker=".")
        axes[1].set_ylabel("validation")
    axes[-1].set_xlabel("steps")
    path = folder / "curves.png"
    part = path.with_name("curves.png.part")
    figure.savefig(part, dpi=120, format="png")
    part.replace(path)
    return path


def _draw(axes, entries: list[dict], *, smooth: int, marker: str = "") -> None:
    for name in dict.fromkeys(key for entry in entries for key in entry if key not in NOT_A_CURVE):
        steps, values = np.array([(e["step"], e[name]) for e in entries if name in e]).T
        axes.plot(steps, trailing_mean(values, smooth), marker=marker, label=name)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()


def trailing_mean(values: np.ndarray, count: int) -> np.ndarray:
    """The mean of each value and up to `count` - 1 before it."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - count)
    return (total[ends] - total[starts]) / (ends - starts)
