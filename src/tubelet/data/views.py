"""Two views of one picture, and where each place of the second lies in the first.

Which places of two frames are the same is what a tracker has to know first of all, and masks tell little of it: that
two places are of one object or not. Two views of a picture tell it for every place, and any picture will do."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from tubelet.data.augment import blur, colours, draw_colours, recolour
from tubelet.data.drift import flow_of, inside, places
from tubelet.data.scene import linear, rotation, shift
from tubelet.data.stills import draw_bend

SHIFT = 0.35  # of the view's sides, at most
SCALE = 0.4  # log, at most
TURN = 0.35  # radians, deviation
STRETCH = 0.25  # log, at most
BEND = 0.05  # see `draw_bend`
CLOSEST = 0.8  # pixels of the picture per pixel of the view; from there to the whole picture


def draw_views(
    rng: np.random.Generator, rgb: UInt8[np.ndarray, "_ _ 3"], size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "2 H W 3"], Float32[np.ndarray, "H W 2"]]:
    """Two views (H, W) `size` of a picture of any size, and the flow (x, y) in pixels from the second to the first, NaN
    where the first does not show the place.

    The first is an upright window; the second is shifted, turned, scaled, stretched and bent against it. Each has
    colours and blur of its own. Beyond its edges the picture is mirrored."""
    picture = _zoomed(rng, rgb, size)
    if rng.random() < 0.5:
        picture = np.ascontiguousarray(picture[:, ::-1])
    room = np.subtract(picture.shape[1::-1], size[::-1])
    corner = rng.uniform(np.minimum(0, room), np.maximum(0, room))
    before = _second(rng, size)
    views = [_seen(picture, places(size) + corner), _seen(picture, before + corner)]
    return np.stack([_developed(rng, view) for view in views]), flow_of(before, inside(before))


def _zoomed(rng: np.random.Generator, rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture as large as a random zoom wants it, seen at one pixel per pixel."""
    h, w = rgb.shape[:2]
    whole = max(1.06 * CLOSEST, min(h / size[0], w / size[1]))
    texels = np.exp(rng.uniform(np.log(CLOSEST), np.log(whole)))
    wanted = max(2, round(w / texels)), max(2, round(h / texels))
    return cv2.resize(rgb, wanted, interpolation=cv2.INTER_AREA if texels > 1 else cv2.INTER_LINEAR)


def _second(rng: np.random.Generator, size: tuple[int, int]) -> Float32[np.ndarray, "H W 2"]:
    """Where (x, y) in the first view each pixel of the second lies."""
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    axis, stretch = rotation(rng.uniform(0, np.pi)), np.exp(rng.uniform(-STRETCH, STRETCH))
    form = np.exp(rng.uniform(-SCALE, SCALE)) * rotation(rng.normal(0, TURN))
    form = form @ axis @ np.diag([stretch, 1 / stretch]) @ axis.T
    moved = centre + rng.uniform(-SHIFT, SHIFT, 2) * size[::-1]
    pose = shift(moved) @ linear(form) @ shift(-centre)
    bend = draw_bend(rng, size, rng.uniform(0, BEND))
    return cv2.transform(places(size) + bend, pose[:2]).astype(np.float32)


def _seen(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    x, y = cv2.split(where.astype(np.float32))
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT).astype(np.uint8)


def _developed(rng: np.random.Generator, view: np.ndarray) -> np.ndarray:
    """Other light (p 0.8), grey (p 0.1), blur (p 0.3)."""
    clip = view[None]
    if rng.random() < 0.8:
        clip = recolour(clip, draw_colours(rng, brightness=0.4, contrast=0.4, saturation=0.5, hue=0.05))
    if rng.random() < 0.1:
        clip = recolour(clip, colours(saturation=0.0))
    if rng.random() < 0.3:
        clip = blur(clip, rng.uniform(0.4, 1.6) * min(view.shape[:2]) / 129)
    return clip[0]
