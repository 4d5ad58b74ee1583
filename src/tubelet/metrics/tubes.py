"""Tubes, an instance's masks through time, as compressed RLE: their areas, and how much two of them overlap.

What is unusual here: no mask is ever decoded, and a pair of tubes is dropped as soon as the areas of the frames that
are left cannot lift it to the IoU that matters. All counts are whole numbers, hence exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64
from pycocotools import mask as coco

from tubelet.data.ytvis import VISInstance

LEAST = 0.5  # `overlaps` is exact from here on
BLOCK = 8  # frames between two looks at what can still be reached


@dataclass(frozen=True)
class Tube:
    """Compressed RLE per frame, None where absent, and the pixels of each, 0 where absent."""

    masks: Sequence[dict | None]
    areas: Int64[np.ndarray, " T"]

    @cached_property
    def area(self) -> int:
        """Pixels of all frames."""
        return int(self.areas.sum())

    @property
    def mean_area(self) -> float:
        """Over the frames with any pixel; 0 if there is none."""
        return self.area / max(int(np.count_nonzero(self.areas)), 1)


def make_tube(instance: VISInstance) -> Tube:
    """Raises `ValueError`, naming the frame, if a mask is damaged or not of the video's size."""
    masks = instance.rles()
    areas = np.zeros(len(masks), np.int64)
    visible = [t for t, mask in enumerate(masks) if mask is not None]
    if visible:
        areas[visible] = coco.area([masks[t] for t in visible])  # pyright: ignore
    if areas.max(initial=0) > instance.size[0] * instance.size[1]:
        raise ValueError(f"frame {areas.argmax()}: an RLE describes more pixels than its size has; it is damaged")
    return Tube(masks, areas)


def overlap(one: Tube, other: Tube, least: float = 0.5) -> float:
    """Intersection over union through all frames, 0..1, or 0 where it is below `least`.

    A frame in which only one of the two is visible adds to the union (Yang et al., ICCV 2019, equation 1)."""
    total = one.area + other.area
    both = np.minimum(one.areas, other.areas)
    reach, shared = int(both.sum()), 0  # `reach`: the most that can be shared, from what is known so far
    frames = np.flatnonzero(both).tolist()
    for start in range(0, len(frames), BLOCK):
        if reach < least * (total - reach):
            return 0.0
        block = frames[start : start + BLOCK]
        merged = [coco.merge([one.masks[t], other.masks[t]], True) for t in block]  # pyright: ignore
        found = int(coco.area(merged).sum())  # pyright: ignore
        shared, reach = shared + found, reach + found - int(both[block].sum())
    union = total - shared
    return shared / union if union and shared / union >= least else 0.0
