"""Which frames of a video make a training clip, and which of its objects (AOT, section 5, and its code)."""

import numpy as np
from jaxtyping import Shaped, UInt8

from tubelet.data.dataset import VideoItem
from tubelet.types import VOID, visible

MAX_OBJECTS = 10
MIN_FOREGROUND = 200
REFERENCE_TRIES = 20
WALK_TRIES = 5


def sample_clip(
    rng: np.random.Generator, video: VideoItem, frames: int, *, max_gap: int, max_objects: int = MAX_OBJECTS
) -> tuple[UInt8[np.ndarray, "{frames} H W 3"], UInt8[np.ndarray, "{frames} H W"]]:
    """`frames` frames of a video and their object ids, at the size of the video.

    The first is a random frame that shows enough (see `sample_reference`); the others follow at random gaps
    of 1..`max_gap` annotated frames, forwards or backwards in time. A walk on which objects turn up that the
    first frame does not show is drawn again, up to five times; what still turns up becomes background.
    Objects are then numbered 1..n at random. Raises what reading the files raises."""
    annotated = sorted(video.mask_paths)
    reference = sample_reference(rng, video)
    known = {*visible(video.load_mask(reference))}
    for _ in range(WALK_TRIES):
        walk = sample_walk(rng, len(annotated), frames, max_gap=max_gap, start=annotated.index(reference))
        ids = np.stack([video.load_mask(annotated[i]) for i in walk])
        if known.issuperset(np.unique(ids[ids != VOID]).tolist()[1:]):
            break
    rgb = np.stack([video.load_frame(annotated[i]).rgb for i in walk])
    return rgb, renumber(rng, ids, max_objects=max_objects)


def sample_reference(
    rng: np.random.Generator,
    video: VideoItem,
    *,
    min_foreground: int = MIN_FOREGROUND,
    tries: int = REFERENCE_TRIES,
) -> int:
    """A random annotated frame with more than `min_foreground` object pixels; the fullest of `tries` if none."""
    best, most = -1, -1
    for index in rng.choice(sorted(video.mask_paths), tries).tolist():
        mask = video.load_mask(index)
        foreground = np.count_nonzero((mask > 0) & (mask != VOID))
        if foreground > most:
            best, most = index, foreground
        if most > min_foreground:
            break
    return best


def sample_walk(rng: np.random.Generator, length: int, count: int, *, max_gap: int, start: int) -> list[int]:
    """`count` indices of 0..length-1 from `start` on, each 1..max_gap later, or all earlier, half of the
    time.

    A walk that comes to an end of the video turns round there."""
    steps = rng.integers(1, max_gap + 1, count - 1) * rng.choice([-1, 1])
    positions = start + np.concatenate([[0], np.cumsum(steps)])
    period = max(1, 2 * (length - 1))
    folded = positions % period
    return np.minimum(folded, period - folded).tolist() if length > 1 else [0] * count


def renumber(
    rng: np.random.Generator,
    ids: Shaped[np.ndarray, "T H W"],
    *,
    max_objects: int = MAX_OBJECTS,
    min_pixels: int = 0,
) -> UInt8[np.ndarray, "T H W"]:
    """The objects that the first frame shows with more than `min_pixels`, numbered 1..n at random; all else
    is background.

    Of more than `max_objects` a random choice is kept. `ids` may be of any integer type, 255 (void) stays."""
    values, counts = np.unique(ids[0], return_counts=True)
    shown = [int(v) for v, c in zip(values, counts, strict=True) if v not in (0, VOID) and c > min_pixels]
    table = np.zeros(int(max(ids.max(), VOID)) + 1, np.uint8)
    kept = rng.permutation(shown)[:max_objects].astype(int)
    table[kept] = np.arange(1, len(kept) + 1)
    table[VOID] = VOID
    return table[ids]
