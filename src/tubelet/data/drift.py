"""A made motion for one frame: the frame, the same a moment later, and the flow between the two.

For data whose frames are too far apart to learn motion from; and it gives true flow, for which flow networks are
otherwise trained on drawings (Flying Chairs: Dosovitskiy et al., ICCV 2015)."""

from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from tubelet.types import VOID

ZOOM, TURN, SHIFT, BUMPS = 0.2, 3.0, 0.06, 0.015  # at most; degrees; of the frame's sides; likewise, deviation
NEARER = 0.3  # chance of a class to move by itself
APART = 0.5  # how far, of what the camera may move


def draw_drift(
    rng: np.random.Generator, classes: UInt8[np.ndarray, "H W"]
) -> tuple[Float32[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    """A motion for a frame: where (x, y) each pixel was before, and whether it was seen then.

    All of it moves smoothly, as of a camera and of things at different depths: zoom within a fifth, a turn within 3
    degrees, a shift within 6 %, and on top displacements of about 1.5 % of the frame's size that change over a quarter
    of it. Some of its classes are nearer and move by themselves, so that there are edges where the flow jumps. How
    strong the motion is, is drawn too, from none to this."""
    strength = rng.uniform()
    own = places(classes.shape)
    back = own + _smooth(rng, classes.shape, strength)
    shown = np.unique(classes[classes != VOID])
    near = np.isin(classes, shown[rng.random(len(shown)) < NEARER])
    if not near.any():
        return back, inside(back)
    front = back + _smooth(rng, classes.shape, APART * strength)
    is_front, was_front = _moved(near.astype(np.uint8), front) > 0, _moved(near.astype(np.uint8), back) > 0
    before = np.where(is_front[..., None], front, back)
    return before, inside(before) & ~(was_front & ~is_front)  # what a nearer thing has uncovered was not seen


def drift(
    rgb: UInt8[np.ndarray, "H W 3"],
    classes: UInt8[np.ndarray, "H W"],
    before: Float32[np.ndarray, "H W 2"],
    seen: Bool[np.ndarray, "H W"],
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """A frame and its classes after a motion; what was not seen before repeats something, and is void."""
    picture = cv2.remap(rgb, before[..., 0], before[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    moved = np.where(seen, _moved(classes, before), VOID)
    return picture.astype(np.uint8), moved.astype(np.uint8)


def flow_of(before: Float32[np.ndarray, "H W 2"], seen: Bool[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W 2"]:
    """The flow (x, y) in pixels from the later frame to the earlier one; NaN where it was not seen."""
    return np.where(seen[..., None], before - places(seen.shape), np.float32(np.nan))


def inside(before: Float32[np.ndarray, "H W 2"]) -> Bool[np.ndarray, "H W"]:
    """Where a pixel was in the frame before."""
    h, w = before.shape[:2]
    x, y = before[..., 0], before[..., 1]
    return (x > -0.5) & (x < w - 0.5) & (y > -0.5) & (y < h - 0.5)


@lru_cache(maxsize=4)
def places(size: tuple[int, ...]) -> Float32[np.ndarray, "H W 2"]:
    """Where (x, y) each pixel of a frame of `size` (H, W) is; shared, so not to be written to."""
    h, w = size
    return np.stack(np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)), 2)


def _smooth(rng: np.random.Generator, size: tuple[int, ...], strength: float) -> Float32[np.ndarray, "H W 2"]:
    """A displacement."""
    h, w = size
    zoom, turn = 1 + strength * rng.uniform(-ZOOM, ZOOM), np.deg2rad(strength * rng.uniform(-TURN, TURN))
    shift = strength * rng.uniform(-SHIFT, SHIFT, 2) * (w, h)
    bumps = strength * rng.normal(0, BUMPS, (5, 5, 2)).astype(np.float32)
    from_centre = places(size) - np.array([(w - 1) / 2, (h - 1) / 2], np.float32)
    c, s = zoom * np.cos(turn), zoom * np.sin(turn)
    rigid = from_centre @ np.array([[c - 1, s], [-s, c - 1]]) + shift
    return (rigid + cv2.resize(bumps, (w, h), interpolation=cv2.INTER_CUBIC) * (w, h)).astype(np.float32)


def _moved(classes: UInt8[np.ndarray, "H W"], before: Float32[np.ndarray, "H W 2"]) -> np.ndarray:
    return cv2.remap(classes, before[..., 0], before[..., 1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
