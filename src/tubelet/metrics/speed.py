"""How fast a session answers, and how much memory that takes."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tubelet.data.synthetic import make_clip
from tubelet.models.base import Session, TrackSession
from tubelet.models.key_frames import KeyFrameSession
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
        return f"{self.fps:.2f} frames per second ({low:.0f} to {high:.0f} ms), {peak(self.memory, self.device_memory)}"


@dataclass(frozen=True)
class KeyFrameSpeed:
    """Seconds of each key frame (`keys`) and of each frame between (`others`); `interval`: from one key frame to the
    next; the rest as in `Speed`."""

    keys: tuple[float, ...]
    others: tuple[float, ...]
    interval: int
    memory: int
    device_memory: int | None

    @property
    def fps(self) -> float:
        """Frames per second at this interval, by the median frame of each kind; without frames between, that of key
        frames."""
        key = float(np.median(self.keys))
        other = float(np.median(self.others)) if self.others else key
        return self.interval / (key + (self.interval - 1) * other)

    def __str__(self) -> str:
        kinds = (("key frames", self.keys), ("frames between", self.others))
        parts = [f"{what} {np.median(seconds) * 1000:.0f} ms ({len(seconds)})" for what, seconds in kinds if seconds]
        average = f"{self.fps:.2f} frames per second at one key frame in {self.interval}"
        if self.interval > 1 and not self.others:
            average = f"{self.fps:.2f} frames per second of key frames alone; time more frames for those between"
        return f"{', '.join(parts)}; {average}, {peak(self.memory, self.device_memory)}"


def peak(memory: int, device_memory: int | None) -> str:
    """The end of a line about speed."""
    text = f"peak memory {memory / 2**20:.0f} MiB"
    return text if device_memory is None else f"{text}, on the GPU {device_memory / 2**20:.0f} MiB"


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
        seconds.append(timed(session, Frame(rgb[t % len(rgb)], t)))
    return Speed(tuple(seconds), *peaks())


def timed(session: Session, frame: Frame) -> float:
    """Seconds until the frame is dealt with."""
    began = time.perf_counter()
    session.feed(frame)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure_finding(session: TrackSession, size: tuple[int, int], frames: int) -> Speed:
    """Times a whole generated clip of `frames` frames, whose answers come in bursts: each frame counts as the mean."""
    rgb, _ = make_clip(0, frames=min(frames, 16), size=size, objects=(3, 3), pace=1.0)
    began = time.perf_counter()
    for t in range(frames):
        session.feed(Frame(rgb[t % len(rgb)], t))
    session.finish()
    return Speed(((time.perf_counter() - began) / frames,), *peaks())


def measure_labelling(opened: Callable[[], Session[LabelFrame]], size: tuple[int, int], frames: int) -> KeyFrameSpeed:
    """Times `frames` frames of a generated clip from the first one on, in a session with key frames that `opened`
    opens; another one sees two frames before, to warm up.

    Raises `ValueError` for no frames."""
    if frames < 1:
        raise ValueError(f"at least one frame is needed to time one, got {frames}")
    rgb, _ = make_clip(0, frames=min(max(frames, 2), 16), size=size, objects=(3, 3), pace=1.0)
    warm, session = opened(), opened()
    assert isinstance(session, KeyFrameSession)
    for t in range(2):
        warm.feed(Frame(rgb[t], t))
    keys, others = [], []
    for t in range(frames):
        before = session.keys
        seconds = timed(session, Frame(rgb[t % len(rgb)], t))
        (keys if session.keys > before else others).append(seconds)
    return KeyFrameSpeed(tuple(keys), tuple(others), session.interval, *peaks())


def peaks() -> tuple[int, int | None]:
    """Peak bytes of the process so far, and of the GPU if there is one."""
    unit = 1 if sys.platform == "darwin" else 1024
    device_memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, device_memory


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
