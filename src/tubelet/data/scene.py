"""A scene of things that move in front of a backdrop, and what a camera sees of it: picture and truth.

Things lie in order of depth, far to near. A thing is one or more `Part`s, each a picture with an alpha
channel, hinged on each other like limbs; its surface moves with it. Whatever changes with time is a `Wave`,
so a scene can be filmed for any length of time and nothing runs away for good.

The world's origin is its centre, x to the right and y down. Lengths are in pixels of the frame, times in
steps of a slow video."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Matrix = Float[np.ndarray, "3 3"]  # homogeneous, acts on columns (x, y, 1)


@dataclass(frozen=True)
class Wave:
    """value(t) = middle + swing * sin(rate * t + phase)."""

    middle: float
    swing: float = 0.0
    rate: float = 0.0
    phase: float = 0.0

    def __call__(self, t: float) -> float:
        return self.middle + self.swing * float(np.sin(self.rate * t + self.phase))


@dataclass(frozen=True)
class Part:
    """A picture (`rgb` and `alpha`, 0..255) hinged on a thing: it turns by `turn` about its `pivot`.

    `pivot` is (x, y) from the centre of the picture; it stays at `joint`, which is from the centre of the thing."""

    rgb: UInt8[np.ndarray, "h w 3"]
    alpha: UInt8[np.ndarray, "h w"]
    joint: Float[np.ndarray, "2"]
    pivot: Float[np.ndarray, "2"]
    turn: Wave

    def pose(self, t: float) -> Matrix:
        """Its pixels -> the thing's own axes."""
        h, w = self.alpha.shape
        return shift(self.joint) @ linear(rotation(self.turn(t))) @ shift(-self.pivot - [(w - 1) / 2, (h - 1) / 2])


@dataclass(frozen=True)
class Thing:
    """What moves as one: where it is (`x`, `y`), how it is turned, scaled and squashed, and how its outline
    ripples.

    `label` is its object id, 0 if it is not followed."""

    label: int
    parts: tuple[Part, ...]
    x: Wave
    y: Wave
    turn: Wave
    log_scale: Wave
    log_squash: Wave
    squash_axis: float
    ripple: tuple[Wave, Wave]
    ripple_length: float

    def bend(
        self, t: float, centre: np.ndarray, xs: Float[np.ndarray, " w"], ys: Float[np.ndarray, " h"]
    ) -> tuple[Float[np.ndarray, " h"], Float[np.ndarray, " w"]]:
        """How far the ripple shifts each row `ys` of the frame sideways, and each column `xs` up or down."""
        rows, columns = self.ripple
        k = 2 * np.pi / self.ripple_length
        sideways = rows.swing * np.sin(k * (ys - centre[1]) + rows.rate * t + rows.phase)
        upward = columns.swing * np.sin(k * (xs - centre[0]) + columns.rate * t + columns.phase)
        return sideways.astype(np.float32), upward.astype(np.float32)

    def at(self, t: float) -> Float[np.ndarray, "3"]:
        """Where its centre is in the world, as (x, y, 1)."""
        return np.array([self.x(t), self.y(t), 1])

    def pose(self, t: float) -> Matrix:
        """Its own axes -> the world."""
        squash = float(np.exp(self.log_squash(t)))
        axis = rotation(self.squash_axis)
        stretch = axis @ np.diag([squash, 1 / squash]) @ axis.T
        form = np.exp(self.log_scale(t)) * stretch @ rotation(self.turn(t))
        return shift(np.array([self.x(t), self.y(t)])) @ linear(form)


@dataclass(frozen=True)
class Scene:
    """A backdrop, things from far to near, and how they are filmed.

    `camera` is (x, y, turn, log zoom) over time, `light` the (gain, contrast, warmth) over time; `shutter`
    0..1 is the part of a step during which motion smears; `shadow` 0..1 how dark the things' shadows are;
    `sigma` the sensor's noise; `blur` the lens's, in pixels; `jpeg` the quality the frames are compressed
    with, 0 for not at all."""

    size: tuple[int, int]
    backdrop: UInt8[np.ndarray, "h w 3"]
    things: tuple[Thing, ...]
    camera: tuple[Wave, Wave, Wave, Wave]
    light: tuple[Wave, Wave, Wave]
    shutter: float
    shadow: float
    sigma: float
    blur: float
    jpeg: int

    def view(self, t: float) -> Matrix:
        """The world (origin at its centre) -> pixels of the frame."""
        h, w = self.size
        x, y, turn, log_zoom = (wave(t) for wave in self.camera)
        look = linear(np.exp(log_zoom) * rotation(turn))
        return shift(np.array([(w - 1) / 2, (h - 1) / 2])) @ look @ shift(-np.array([x, y]))


# ---- filming it

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Piece:
    """One part as the frame shows it: in the rows and columns of `window` it covers `alpha` (0..255).

    `pose` maps its pixels to the frame's, `bend` is its thing's (or None), `smear` the blur's (x, y) in
    pixels."""

    label: int
    part: Part
    pose: np.ndarray
    bend: Callable | None
    smear: tuple[float, float]
    window: Window
    alpha: UInt8[np.ndarray, "h w"]


def film(
    scene: Scene, t: float, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """The picture and the truth at time `t`: rgb, and the label of the nearest thing at each pixel.

    `rng` makes the noise."""
    pieces = arrange(scene, t)
    frame = _film_backdrop(scene, t)
    for piece in pieces:
        if piece.alpha.size:
            if scene.shadow:
                _cast_shadow(frame, piece, scene.shadow)
            _paint_over(frame, piece)
    return _develop(scene, frame, t, rng), trace(pieces, scene.size)


def trace(pieces: list[Piece], size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    """The truth: ids of what is nearest, where it covers at least half a pixel."""
    ids = np.zeros(size, np.uint8)
    for piece in pieces:
        ids[piece.window][piece.alpha > 127] = piece.label
    return ids


def arrange(scene: Scene, t: float) -> list[Piece]:
    """Everything in the scene at time `t`, from far to near."""
    view, half = scene.view(t), scene.shutter / 2
    opens, closes = scene.view(t - half), scene.view(t + half)
    pieces = []
    for thing in scene.things:
        centre = (view @ thing.at(t))[:2]
        smear = tuple((closes @ thing.at(t + half) - opens @ thing.at(t - half))[:2].tolist())
        swing = max(wave.swing for wave in thing.ripple)
        bend = partial(thing.bend, t, centre) if swing else None
        margin = int(np.ceil(swing + max(map(abs, smear)))) + 2
        for part in thing.parts:
            pose = view @ thing.pose(t) @ part.pose(t)
            pieces.append(place(thing.label, part, pose, scene.size, bend=bend, smear=smear, margin=margin))
    return pieces


def place(
    label: int,
    part: Part,
    pose: Matrix,
    size: tuple[int, int],
    *,
    bend: Callable | None = None,
    smear: tuple[float, float] = (0.0, 0.0),
    margin: int = 2,
) -> Piece:
    """A part put into a frame of `size` (H, W); `margin` is how far bend and smear may carry it beyond its
    pose."""
    h, w = part.alpha.shape
    x, y = pose[:2] @ np.array([[0, w, w, 0], [0, 0, h, h], [1, 1, 1, 1]])
    rows, columns = (
        slice(max(0, min(int(p.min()) - margin, side)), max(0, min(int(p.max()) + margin + 1, side)))
        for p, side in ((y, size[0]), (x, size[1]))
    )
    window = rows, columns
    return Piece(label, part, pose, bend, smear, window, _see(part.alpha, pose, window, bend))


def paste(frame: UInt8[np.ndarray, "H W 3"], part: Part, pose: Matrix) -> None:
    """Paints a part over the frame, in place."""
    piece = place(0, part, pose, (frame.shape[0], frame.shape[1]))
    if piece.alpha.size:
        _paint_over(frame, piece)


def _see(image: np.ndarray, pose: np.ndarray, window: Window, bend: Callable | None) -> np.ndarray:
    """A part's `image` as it appears in a window of the frame; 0 beyond its edges."""
    rows, columns = window
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    if min(shape) == 0:
        return np.zeros((*shape, *image.shape[2:]), np.uint8)
    if bend is None:
        to_window = shift(np.array([-columns.start, -rows.start])) @ pose
        return cv2.warpAffine(image, to_window[:2], shape[::-1], flags=cv2.INTER_LINEAR)
    xs, ys = (np.arange(side.start, side.stop, dtype=np.float32) for side in (columns, rows))
    sideways, upward = bend(xs, ys)
    x, y = xs + sideways[:, None], ys[:, None] + upward
    (a, b, c), (d, e, f) = np.linalg.inv(pose)[:2].tolist()
    return cv2.remap(image, a * x + b * y + c, d * x + e * y + f, cv2.INTER_LINEAR)


def _paint_over(frame: np.ndarray, piece: Piece) -> None:
    rgb = _smeared(_see(piece.part.rgb, piece.pose, piece.window, piece.bend), piece.smear)
    cover = _smeared(piece.alpha, piece.smear).astype(np.float32) / 255
    frame[piece.window] = cv2.blendLinear(rgb, frame[piece.window], cover, 1 - cover)


def _cast_shadow(frame: np.ndarray, piece: Piece, strength: float) -> None:
    """Darkens what lies a little below the piece."""
    reach = max(2, min(frame.shape[:2]) // 40)
    rows, columns = piece.window
    low = slice(rows.start, min(rows.stop + 2 * reach, frame.shape[0]))
    alpha = cv2.copyMakeBorder(piece.alpha, reach, reach, 0, 0, cv2.BORDER_CONSTANT, value=0)
    light = 1 - cv2.blur(alpha, (2 * reach + 1,) * 2).astype(np.float32) * (strength / 255)
    light = light[: low.stop - low.start]
    frame[low, columns] = cv2.multiply(frame[low, columns], cv2.merge([light] * 3), dtype=cv2.CV_8U)


def _film_backdrop(scene: Scene, t: float) -> np.ndarray:
    h, w = scene.size
    canvas_h, canvas_w = scene.backdrop.shape[:2]
    to_world = shift(np.array([(1 - canvas_w) / 2, (1 - canvas_h) / 2]))
    pose = (scene.view(t) @ to_world)[:2]
    frame = cv2.warpAffine(scene.backdrop, pose, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    half = scene.shutter / 2
    x, y = (scene.view(t + half) - scene.view(t - half))[:2, 2].tolist()
    return _smeared(frame, (x, y))


def _smeared(image: np.ndarray, travel: tuple[float, float]) -> np.ndarray:
    """The image blurred along a line as long as the travel (x, y) in pixels."""
    reach = int(np.ceil(max(map(abs, travel)) / 2))
    if reach < 1:
        return image
    kernel = np.zeros((2 * reach + 1,) * 2, np.float32)
    ends = [(round(reach + sign * travel[0] / 2), round(reach + sign * travel[1] / 2)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)


def _develop(scene: Scene, frame: np.ndarray, t: float, rng: np.random.Generator) -> np.ndarray:
    """What lens, light, sensor and codec do to the picture."""
    if scene.blur:
        frame = cv2.GaussianBlur(frame, (0, 0), scene.blur)
    gain, contrast, warmth = (wave(t) for wave in scene.light)
    grey = np.arange(256)[:, None] / 255
    curve = gain * grey**contrast * (1 + warmth * np.array([1, 0, -1]))
    frame = cv2.LUT(frame, np.clip(curve * 255, 0, 255).astype(np.uint8)[None])
    if scene.sigma:
        noise = rng.standard_normal(scene.size, np.float32) * scene.sigma
        frame = cv2.add(frame, cv2.merge([noise] * 3), dtype=cv2.CV_8U)
    if scene.jpeg:
        code = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg])[1]
        frame = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    return frame


def shift(by: np.ndarray) -> np.ndarray:
    return np.array([[1, 0, by[0]], [0, 1, by[1]], [0, 0, 1]], float)


def rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def linear(form: np.ndarray) -> np.ndarray:
    out = np.eye(3)
    out[:2, :2] = form
    return out
