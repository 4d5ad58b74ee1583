"""Random changes of a training clip, drawn once per clip and applied to every frame alike.

A clip is rgb (T, H, W, 3) uint8 with ids (T, H, W) uint8. The numbers are those of AOT's training where it
has them (paper, section 5, and its code). Running a clip backwards is part of drawing it:
`sampling.sample_walk`."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from tubelet.data.sampling import MAX_OBJECTS, renumber
from tubelet.types import VOID

FILL = (124, 116, 104)  # ImageNet's mean colour, where there is no picture
MIN_PIXELS = 100  # an object smaller than this in the first frame is not worth following
CROP_TRIES = 5
NEAREST = cv2.INTER_NEAREST_EXACT  # plain INTER_NEAREST is off by half a pixel against the picture
MARGIN = 480 / 465  # AOT crops 465 pixels from frames with a short edge of 480


def augment_video(
    rng: np.random.Generator,
    rgb: UInt8[np.ndarray, "T H W 3"],
    ids: UInt8[np.ndarray, "T H W"],
    size: tuple[int, int],
    *,
    colour: bool = True,
) -> tuple[UInt8[np.ndarray, "T h w 3"], UInt8[np.ndarray, "T h w"]]:
    """Crop to `size` (H, W), flip (p 0.5); with `colour` jitter (p 0.8), grey (p 0.2) and blur (p 0.3)."""
    rgb, ids = crop(rng, rgb, ids, size)
    if rng.random() < 0.5:
        rgb, ids = np.ascontiguousarray(rgb[:, :, ::-1]), np.ascontiguousarray(ids[:, :, ::-1])
    if colour and rng.random() < 0.8:
        rgb = recolour(rgb, draw_colours(rng, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1))
    if colour and rng.random() < 0.2:
        rgb = recolour(rgb, colours(saturation=0.0))
    if colour and rng.random() < 0.3:
        rgb = blur(rgb, rng.uniform(0.1, 2) * min(size) / 465)
    return rgb, ids


def crop(
    rng: np.random.Generator,
    rgb: UInt8[np.ndarray, "T H W 3"],
    ids: UInt8[np.ndarray, "T H W"],
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.7, 1.3),
    min_pixels: int = MIN_PIXELS,
) -> tuple[UInt8[np.ndarray, "T h w 3"], UInt8[np.ndarray, "T h w"]]:
    """One random window for all frames, resized to `size` (H, W).

    At scale 1 the window has 465/480 of the short edge; beyond the frame it is filled with the mean colour,
    background. Drawn again, up to five times, until the first frame shows an object with more than
    `min_pixels` of the output."""
    for _ in range(CROP_TRIES):
        window = _draw_window(rng, ids.shape[1:], size, scale)
        counts = np.bincount(_cut(ids[0], window, size, 0, NEAREST).ravel(), minlength=VOID + 1)
        if counts[1:VOID].max() > min_pixels:
            break
    shrinks = window[2] > size[0]
    smooth = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return (
        np.stack([_cut(frame, window, size, FILL, smooth) for frame in rgb]),
        np.stack([_cut(mask, window, size, 0, NEAREST) for mask in ids]),
    )


def _draw_window(rng, frame: tuple[int, ...], size: tuple[int, int], scale: tuple[float, float]):
    """(top, left, height, width) in pixels of the frame."""
    per_pixel = min(frame) / (min(size) * MARGIN * rng.uniform(*scale))
    shape = [max(1, round(side * per_pixel)) for side in size]
    corner = [int(rng.integers(min(0, f - s), max(0, f - s) + 1)) for f, s in zip(frame, shape, strict=True)]
    return (*corner, *shape)


def _cut(image: np.ndarray, window, size: tuple[int, int], fill, interpolation: int) -> np.ndarray:
    top, left, h, w = window
    frame_h, frame_w = image.shape[:2]
    inside = image[max(0, top) : top + h, max(0, left) : left + w]
    above, before = max(0, -top), max(0, -left)
    below, after = max(0, top + h - frame_h), max(0, left + w - frame_w)
    if above or before or below or after:
        inside = cv2.copyMakeBorder(inside, above, below, before, after, cv2.BORDER_CONSTANT, value=fill)
    return cv2.resize(inside, size[::-1], interpolation=interpolation)


# ---- colour


def colours(
    *, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0, pivot: float = 128.0
) -> Float[np.ndarray, "3 4"]:
    """The matrix that changes RGB 0..255: gains on brightness, contrast (about `pivot`) and saturation, 1
    leaves them; `hue` is a turn of the colour circle, 0..1."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    c, s = saturation * np.cos(2 * np.pi * hue), saturation * np.sin(2 * np.pi * hue)
    change = np.linalg.inv(to_yiq) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ to_yiq
    return np.hstack([contrast * brightness * change, np.full((3, 1), (1 - contrast) * pivot)])


def draw_colours(
    rng: np.random.Generator, *, brightness: float, contrast: float, saturation: float, hue: float
) -> Float[np.ndarray, "3 4"]:
    """A random matrix of `colours`: gains within 1 +- the given, a turn of hue within +- the given."""
    gain = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    gains = {name: float(rng.uniform(1 - width, 1 + width)) for name, width in gain.items()}
    return colours(**gains, hue=float(rng.uniform(-hue, hue)))


def recolour(rgb: UInt8[np.ndarray, "T H W 3"], matrix: Float[np.ndarray, "3 4"]) -> UInt8[np.ndarray, "T H W 3"]:
    """Every pixel through the matrix, cut off at 0 and 255."""
    t, h, w, _ = rgb.shape
    return cv2.transform(rgb.reshape(t * h, w, 3), matrix).reshape(t, h, w, 3)


def blur(rgb: UInt8[np.ndarray, "T H W 3"], sigma: float) -> UInt8[np.ndarray, "T H W 3"]:
    """Gaussian blur of each frame, `sigma` in pixels."""
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in rgb])


# ---- two clips in one


def merge(
    rng: np.random.Generator,
    below: tuple[UInt8[np.ndarray, "T H W 3"], UInt8[np.ndarray, "T H W"]],
    above: tuple[UInt8[np.ndarray, "T H W 3"], UInt8[np.ndarray, "T H W"]],
    *,
    max_objects: int = MAX_OBJECTS,
    min_pixels: int = MIN_PIXELS,
) -> tuple[UInt8[np.ndarray, "T H W 3"], UInt8[np.ndarray, "T H W"]]:
    """The objects of clip `above` pasted over clip `below`, frame by frame (AOT's dynamic merge).

    Objects with at most `min_pixels` left in the first frame become background, and so do those beyond
    `max_objects`; the rest are numbered 1..n at random."""
    paste = (above[1] > 0) & (above[1] != VOID)
    ids = np.where(paste, above[1].astype(np.int16) + VOID, below[1])
    return np.where(paste[..., None], above[0], below[0]), renumber(
        rng, ids, max_objects=max_objects, min_pixels=min_pixels
    )
