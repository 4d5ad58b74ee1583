"""How fast a session answers, and how much memory that takes."""

import resource
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from tubelet.data.synthetic import make_clip
from tubelet.models.base import Session, TrackSession
from tubelet.types import MAX_OBJECT_ID, Frame, LabelFrame, Prompt


@dataclass(frozen=True)
class Speed:
    """`seconds` per frame, in order; `memory`, `device_memory`: peak bytes of the process and of the GPU."""

    seconds: tuple[float, ...]
    memory: int
    device_memory: int | None

    @property
    def fps(self) -> float:
        """Frames per second, by the median frame."""
        return 1 / float(np.median(self.seconds))

    def __str__(self) -> str:
        low, high = min(self.seconds) * 1000, max(self.seconds) * 1000
        text = (
            f"{self.fps:.2f} frames per second ({low:.0f} to {high:.0f} ms), peak memory {self.memory / 2**20:.0f} MiB"
        )
        return text if self.device_memory is None else f"{text}, on the GPU {self.device_memory / 2**20:.0f} MiB"


def parse_size(text: str) -> tuple[int, int]:
    """`480x854` -> (480, 854), height first. Raises `ValueError`."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise ValueError(f"a size is HEIGHTxWIDTH, as in 480x854; got {text!r}") from None
    if min(height, width) < 1:
        raise ValueError(f"a size must be positive, got {text}")
    return height, width


def measure(session: Session[LabelFrame], size: tuple[int, int], objects: int, frames: int) -> Speed:
    """Times `frames` frames of a generated clip with so many objects, after the first one, whose masks are given."""
    if not 1 <= objects <= MAX_OBJECT_ID:
        raise ValueError(f"objects must be 1..{MAX_OBJECT_ID}, got {objects}")
    rgb, _ = make_clip(0, frames=min(frames + 1, 16), size=size, objects=(3, 3), pace=1.0)
    session.feed(Frame(rgb[0], 0), Prompt(grid(size, objects)))
    seconds = []
    for t in range(1, frames + 1):
        began = time.perf_counter()
        session.feed(Frame(rgb[t % len(rgb)], t))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return _speed(seconds)


def measure_finding(session: TrackSession, size: tuple[int, int], frames: int) -> Speed:
    """Times a whole generated clip of `frames` frames, whose answers come in bursts: each frame counts as the mean."""
    rgb, _ = make_clip(0, frames=min(frames, 16), size=size, objects=(3, 3), pace=1.0)
    began = time.perf_counter()
    for t in range(frames):
        session.feed(Frame(rgb[t % len(rgb)], t))
    session.finish()
    return _speed([(time.perf_counter() - began) / frames])


def _speed(seconds: list[float]) -> Speed:
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Speed(tuple(seconds), peak, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None)


def grid(size: tuple[int, int], objects: int) -> np.ndarray:
    """Discs in a grid, ids 1..objects: (H, W) uint8."""
    height, width = size
    columns = int(np.ceil(np.sqrt(objects * width / height)))
    rows = int(np.ceil(objects / columns))
    y, x = np.mgrid[:height, :width]
    row, column = y * rows // height, x * columns // width
    centre_y, centre_x = (row + 0.5) * height / rows, (column + 0.5) * width / columns
    inside = (y - centre_y) ** 2 + (x - centre_x) ** 2 <= (0.35 * min(height / rows, width / columns)) ** 2
    ids = row * columns + column + 1
    return np.where(inside & (ids <= objects), ids, 0).astype(np.uint8)
