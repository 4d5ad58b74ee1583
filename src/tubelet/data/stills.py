"""A clip from one still image: in every frame it lies elsewhere (AOT, section 5, stage one).

The flips, colours, crops and affine motion, and their numbers, are those of AOT's code. What it does not have is ours:
frames bend like a thin plate, some are out of focus, and in some a thing comes in front. With `bend`, `blurred` and
`covered` 0 a clip is the reference's."""

from functools import cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy.interpolate import RBFInterpolator

from tubelet.data.augment import FILL, NEAREST, blur, draw_colours, recolour
from tubelet.data.drift import places
from tubelet.data.synthetic import draw_outline
from tubelet.types import VOID, visible

CONTROL = 4  # control points of the plate along each side of the frame
CELLS = 32  # and the cells in which it is evaluated
COVER = (0.2, 0.5)  # the longer side of what comes in front, of the shorter side of the frame

Image = tuple[UInt8[np.ndarray, "_ _ 3"], UInt8[np.ndarray, "_ _"]]  # of any size: a picture, and its ids or alpha


def move_image(
    rng: np.random.Generator,
    rgb: UInt8[np.ndarray, "H W 3"],
    ids: UInt8[np.ndarray, "H W"],
    frames: int,
    size: tuple[int, int],
    *,
    bend: float = 0.04,
    blurred: float = 0.2,
    covered: float = 0.2,
    other: Image | None = None,
) -> tuple[UInt8[np.ndarray, "{frames} h w 3"], UInt8[np.ndarray, "{frames} h w"]]:
    """A clip from one image: each frame is a crop of its own to `size` (H, W), with slightly other colours.

    The reference's: the image is flipped (p 0.5) for the whole clip; the frames after the first are also turned,
    shifted, scaled, sheared and flipped (p 0.3), and where they show no picture they are filled, as background.

    Ours, each of them off with 0:
    - `bend`: in frames after the first, points of the picture are displaced by at most this share of the frame's sides,
      smoothly in between (`draw_bend`); how strongly, up to this, is drawn for each frame. Below 0.1 nothing folds;
    - `blurred`: the probability of a frame to be blurred, as strongly as those of videos;
    - `covered`: the probability of a frame after the first that something lies on its objects; the same thing in all
      frames of the clip, each time elsewhere. What it hides is background. It is an object of the image `other` (rgb,
      ids) if that has one, else a piece of the image's own background."""
    if rng.random() < 0.5:
        rgb, ids = _mirrored(rgb), _mirrored(ids)
    rgb, ids = _shrunk(rgb, ids, size)
    clip, cover = [], None
    for t in range(frames):
        frame, mask = _draw_view(rng, rgb, ids, size, bend) if t else _draw_first(rng, rgb, ids, size)
        frame = recolour(frame[None], draw_colours(rng, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.03))[0]
        if t and _happens(rng, covered):
            cover = cover or _draw_cover(rng, (rgb, ids), other)
            _lay_over(rng, frame, mask, cover)
        if _happens(rng, blurred):
            frame = blur(frame[None], rng.uniform(0.1, 2) * min(size) / 465)[0]
        clip.append((frame, mask))
    return np.stack([frame for frame, _ in clip]), np.stack([mask for _, mask in clip])


def _happens(rng: np.random.Generator, probability: float) -> bool:
    return probability > 0 and rng.random() < probability  # what is off takes nothing from the generator


def _mirrored(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


def _shrunk(rgb: np.ndarray, ids: np.ndarray, size: tuple[int, int]) -> Image:
    """The image brought down to about the clip's resolution, because a warp does not average what it skips."""
    factor = max(want / have for want, have in zip(size, ids.shape, strict=True))
    return (rgb, ids) if factor >= 1 else (_scaled(rgb, factor), _scaled(ids, factor, NEAREST))


def _scaled(image: np.ndarray, factor: float, interpolation: int | None = None) -> np.ndarray:
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=smooth if interpolation is None else interpolation)


# ---- one frame's view of the image


def _draw_first(rng: np.random.Generator, rgb: np.ndarray, ids: np.ndarray, size: tuple[int, int]) -> Image:
    pose = _draw_crop(rng, ids.shape, size)[:2]
    # a crop sees nothing but picture, so the filling must not shine in along its edges either
    frame = cv2.warpAffine(rgb, pose, size[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(ids, pose, size[::-1], flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return frame, mask


def _draw_view(rng: np.random.Generator, rgb: np.ndarray, ids: np.ndarray, size: tuple[int, int], bend: float) -> Image:
    pose = _draw_crop(rng, ids.shape, size)
    pose = _draw_affine(rng, size) @ pose
    if not bend:
        frame = cv2.warpAffine(rgb, pose[:2], size[::-1], flags=cv2.INTER_CUBIC, borderValue=FILL)
        return frame, cv2.warpAffine(ids, pose[:2], size[::-1], flags=cv2.INTER_NEAREST)
    there = places(size) + draw_bend(rng, size, rng.uniform(0, bend))
    source = cv2.transform(there, np.linalg.inv(pose)[:2])
    frame = cv2.remap(rgb, source, None, cv2.INTER_CUBIC, borderValue=FILL)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return frame, cv2.remap(ids, source, None, cv2.INTER_NEAREST)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _draw_crop(rng: np.random.Generator, image: tuple[int, ...], size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
    """Image -> frame: 0.8 to 1 of the image's area, its aspect times 3/4 to 4/3, stretched to `size`."""
    area, aspect = rng.uniform(0.8, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    h, w = image[0] * min(1, np.sqrt(area / aspect)), image[1] * min(1, np.sqrt(area * aspect))
    top, left = rng.uniform(0, image[0] - h), rng.uniform(0, image[1] - w)
    sx, sy = size[1] / w, size[0] / h
    # Pixel centres lie at whole numbers, the picture's edge half a pixel before the first.
    return np.array([[sx, 0, sx * (0.5 - left) - 0.5], [0, sy, sy * (0.5 - top) - 0.5], [0, 0, 1]])


def _draw_affine(rng: np.random.Generator, size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
    """Frame -> frame, about its centre: 20 degrees, 10 % shift, scale 0.9 to 1.1, 10 degrees shear, flipped p 0.3."""
    h, w = size
    angle, shear = np.deg2rad(rng.uniform(-20, 20)), np.tan(np.deg2rad(rng.uniform(-10, 10)))
    mirror = np.diag([-1.0 if rng.random() < 0.3 else 1.0, 1.0])
    form = rng.uniform(0.9, 1.1) * _turn(angle) @ np.array([[1, shear], [0, 1]]) @ mirror
    centre = np.array([(w - 1) / 2, (h - 1) / 2])
    return _about(form, centre, centre + rng.uniform(-0.1, 0.1, 2) * [w, h])


def _turn(angle: float) -> Float[np.ndarray, "2 2"]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def _about(form: np.ndarray, centre: np.ndarray, to: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """The map of this linear `form` that brings the point `centre` (x, y) to the point `to`."""
    out = np.eye(3)
    out[:2, :2], out[:2, 2] = form, to - form @ centre
    return out


# ---- a thin plate


def draw_bend(rng: np.random.Generator, size: tuple[int, int], strength: float) -> Float32[np.ndarray, "H W 2"]:
    """Displacements (x, y) in pixels over a frame of `size` (H, W): 4 x 4 points, corner to corner, are moved by up to
    `strength` of the sides each way, and a thin-plate spline lies through them."""
    points = rng.uniform(-strength, strength, (CONTROL**2, 2)) * size[::-1]
    cells = (_plate() @ points).reshape(CELLS, CELLS, 2)
    return cv2.resize(cells.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)


@cache
def _plate() -> Float[np.ndarray, "cells points"]:
    """How much the plate at each cell's centre follows each control point; it is linear in them."""
    control, cells = np.linspace(0, 1, CONTROL), (np.arange(CELLS) + 0.5) / CELLS
    at, of = (np.stack(np.meshgrid(x, x), -1).reshape(-1, 2) for x in (cells, control))
    return RBFInterpolator(of, np.eye(len(of)), kernel="thin_plate_spline")(at)


# ---- what comes in front


def _draw_cover(rng: np.random.Generator, own: Image, other: Image | None) -> Image:
    """A thing: its picture, and 255 where that shows it."""
    if other is not None and (objects := visible(other[1])):
        rgb, shown = other[0], (other[1] == rng.choice(objects)).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(shown)
    else:
        # nothing but background, and none that an edge has coloured: an object's own look is never background
        rgb, shown = own[0], cv2.erode((own[1] == 0).astype(np.uint8), np.ones((5, 5), np.uint8))
        h, w = (max(1, round(side * rng.uniform(0.2, 0.6))) for side in shown.shape)
        centre = np.array(_draw_point(rng, shown > 0))
        y, x = np.clip(centre - (h // 2, w // 2), 0, np.subtract(shown.shape, (h, w)))
        shown[y : y + h, x : x + w][draw_outline(rng, h, w) < 128] = 0
    window = (slice(y, y + h), slice(x, x + w))
    return rgb[window], shown[window] * np.uint8(255)


def _draw_point(rng: np.random.Generator, where: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """(y, x) of one of these pixels; of any, if there are none."""
    choices = np.flatnonzero(where)
    return divmod(int(rng.choice(choices) if len(choices) else rng.integers(where.size)), where.shape[1])


def _lay_over(rng: np.random.Generator, frame: np.ndarray, mask: np.ndarray, cover: Image) -> None:
    """Puts a thing, in its own size and turn, upon some point of an object, if there is one."""
    h, w = mask.shape
    factor = rng.uniform(*COVER) * min(h, w) / max(cover[1].shape)
    rgb, shown = (_scaled(x, factor) for x in cover)
    y, x = _draw_point(rng, (mask > 0) & (mask != VOID))
    centre = np.array([(shown.shape[1] - 1) / 2, (shown.shape[0] - 1) / 2])
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0])
    pose = _about(_turn(np.deg2rad(rng.uniform(-20, 20))) @ mirror, centre, np.array([x, y]))[:2]
    here = cv2.warpAffine(shown, pose, (w, h)) == 255  # where nothing of what was around the thing has got in
    frame[here] = cv2.warpAffine(rgb, pose, (w, h))[here]
    mask[here] = 0
