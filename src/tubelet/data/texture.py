"""Procedural surfaces: what the things and places of a synthetic clip are made of.

A texture is two grey patterns and a palette: the coarse pattern picks a colour from the palette, the fine one
shades it. Patterns are costly and few (a bank, built as it is asked for); palettes, scales and angles are
cheap and new for every texture, so two clips share a pattern but hardly ever a surface."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

PATTERN_SIDE = 256
BANK_SIZE = 160
FINE_FROM = 0.55  # the share of the bank, from here on, that may shade: noise, which has no shapes of its own


@runtime_checkable
class Surface(Protocol):
    """What a thing or a place is made of."""

    def paint(
        self, height: int, width: int, view: Float[np.ndarray, "3 3"] | None = None
    ) -> UInt8[np.ndarray, "{height} {width} 3"]: ...


Grey = np.ndarray  # (256, 256) float32, any range: stretched to 0..255 when it enters the bank


@dataclass(frozen=True)
class Texture:
    """How to paint a surface: two patterns of the bank, where and how large they lie on it, and the colours.

    `lie` maps a pixel of the surface to one of the coarse pattern, `fine_lie` to one of the fine pattern
    (both 2 x 3); `palette` gives the colour of each grey value; `relief` 0..1 is how strongly the fine
    pattern shades."""

    pattern: int
    lie: np.ndarray
    palette: UInt8[np.ndarray, "1 256 3"]
    fine: int
    fine_lie: np.ndarray
    relief: float

    def paint(
        self, height: int, width: int, view: Float[np.ndarray, "3 3"] | None = None
    ) -> UInt8[np.ndarray, "{height} {width} 3"]:
        """The surface as an RGB picture; `view` maps a pixel to a point of the surface, if it is seen at a slant."""
        colour = cv2.LUT(_lay(self.pattern, self.lie, height, width, view), self.palette)
        # In 8 bits, 128 for one, because this is where the time goes.
        gain = 128 + self.relief * np.arange(-128, 128)
        shade = cv2.LUT(_lay(self.fine, self.fine_lie, height, width, view), gain.astype(np.uint8)[None])
        return cv2.multiply(colour, shade, scale=1 / 128)


def draw_texture(rng: np.random.Generator, unit: int) -> Texture:
    """A random texture. `unit` is the short side of the picture in pixels, which sets the grain."""
    return Texture(
        pattern=int(rng.integers(BANK_SIZE)),
        lie=_lie(rng, 192 / unit * np.exp(rng.uniform(-1.3, 0.8))),
        palette=draw_palette(rng),
        fine=int(rng.integers(int(FINE_FROM * BANK_SIZE), BANK_SIZE)),
        fine_lie=_lie(rng, 192 / unit * np.exp(rng.uniform(-0.7, 0.8))),
        relief=float(rng.choice([0.08, 0.2, 0.4])),
    )


def draw_palette(rng: np.random.Generator) -> UInt8[np.ndarray, "1 256 3"]:
    """Colours as in photographs: mostly one material from its shadow to its light, sometimes several paints."""
    if rng.random() < 0.3:
        hues, value = rng.random(4), rng.uniform(0.15, 0.95, 4)
    else:
        natural = rng.choice([0.08, 0.12, 0.28, 0.58, rng.random()]) + rng.normal(0, 0.03)  # earth, grass, sky, any
        hues = natural + rng.normal(0, 0.03, 4).cumsum()
        value = np.linspace(rng.uniform(0.05, 0.5), rng.uniform(0.5, 1), 4)
    saturation = np.clip(rng.beta(1.3, 2.6) + rng.normal(0, 0.08, 4), 0, 0.95)
    hsv = np.stack([hues % 1 * 360, saturation, value], 1).astype(np.float32)[None]
    corners = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return (cv2.resize(corners, (256, 1), interpolation=cv2.INTER_LINEAR) * 255).astype(np.uint8)


@cache
def pattern(index: int) -> UInt8[np.ndarray, "256 256"]:
    """Pattern `index` of the bank (0..159), grey values 0..255 spread evenly enough to show."""
    rng = np.random.default_rng([7, index])
    kinds = SHAPED if index < FINE_FROM * BANK_SIZE else NOISES
    grey = kinds[index % len(kinds)](rng)
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip((grey - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    return cv2.GaussianBlur(grey, (3, 3), 0)  # hard edges would show as stairs when enlarged


def _lie(rng: np.random.Generator, texels: float) -> np.ndarray:
    """Surface pixel -> pattern pixel (2 x 3): a random turn and shift, and a scale of `texels` per pixel."""
    angle = rng.uniform(0, 2 * np.pi)
    c, s = texels * np.cos(angle), texels * np.sin(angle)
    return np.array([[c, -s, rng.uniform(0, PATTERN_SIDE)], [s, c, rng.uniform(0, PATTERN_SIDE)]])


def _lay(index: int, lie: np.ndarray, height: int, width: int, view: np.ndarray | None) -> np.ndarray:
    """The pattern as it lies on the surface, grey as RGB."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    if view is None:
        grey = cv2.warpAffine(pattern(index), lie, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
    else:
        lie = np.vstack([lie, [0, 0, 1]]) @ view
        grey = cv2.warpPerspective(pattern(index), lie, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


# The patterns. Each takes a generator and returns a Grey.


def _fractal(rng: np.random.Generator, stretch: float = 1, roughness: float | None = None) -> Grey:
    """Noise at every scale, weaker as it gets finer: clouds, stone. `stretch` > 1 draws it out sideways."""
    rough = rng.uniform(0.45, 0.8) if roughness is None else roughness
    out = np.zeros((PATTERN_SIDE, PATTERN_SIDE), np.float32)
    for octave in range(1, 7):
        rows = 2**octave
        grid = rng.normal(0, 1, (rows + 1, max(2, round(rows / stretch) + 1))).astype(np.float32)
        out += rough**octave * cv2.resize(grid, (PATTERN_SIDE, PATTERN_SIDE), interpolation=cv2.INTER_CUBIC)
    return out


def _soft(rng: np.random.Generator) -> Grey:
    return _fractal(rng, roughness=0.25)


def _fur(rng: np.random.Generator) -> Grey:
    return _warped(_fractal(rng, stretch=rng.uniform(4, 16), roughness=0.85), rng, rng.uniform(2, 14))


def _ridges(rng: np.random.Generator) -> Grey:
    return -np.abs(_fractal(rng))


def _marble(rng: np.random.Generator) -> Grey:
    return _warped(_fractal(rng), rng, rng.uniform(15, 50))


def _grain(rng: np.random.Generator) -> Grey:
    noise = rng.normal(0, 1, (PATTERN_SIDE, PATTERN_SIDE)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.8, 2)) + 0.1 * _fractal(rng)


def _wave(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """A periodic profile of period 1: round, square with soft edges, or a thin line."""
    wave = np.sin(2 * np.pi * x)
    return [wave, np.tanh(4 * wave), wave > rng.uniform(0.5, 0.9)][rng.integers(3)].astype(np.float32)


def _axes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:PATTERN_SIDE, :PATTERN_SIDE].astype(np.float32)
    period = np.exp(rng.uniform(np.log(10), np.log(60)))
    return x / period, y / (period * rng.uniform(0.6, 1.6))


def _stripes(rng: np.random.Generator) -> Grey:
    x, _ = _axes(rng)
    return _warped(_wave(rng, x), rng, rng.choice([0.0, 6.0, 25.0]))


def _plaid(rng: np.random.Generator) -> Grey:
    x, y = _axes(rng)
    return _warped(_wave(rng, x) + rng.uniform(0.3, 1) * _wave(rng, y) + 0.4 * _wave(rng, 2 * x), rng, 3.0)


def _checks(rng: np.random.Generator) -> Grey:
    x, y = _axes(rng)
    return _warped(np.tanh(6 * np.sin(np.pi * x) * np.sin(np.pi * y)), rng, rng.choice([0.0, 8.0]))


def _dots(rng: np.random.Generator) -> Grey:
    x, y = _axes(rng)
    distance = np.hypot((x + 0.5 * (np.floor(y) % 2)) % 1 - 0.5, y % 1 - 0.5)
    return _warped(np.tanh(12 * (rng.uniform(0.2, 0.4) - distance)), rng, rng.choice([0.0, 5.0]))


def _bricks(rng: np.random.Generator) -> Grey:
    x, y = _axes(rng)
    x = x / 2 + 0.5 * (np.floor(y) % 2)
    tone = rng.normal(0, 0.5, (64, 64))[np.floor(y).astype(int) % 64, np.floor(x).astype(int) % 64]
    joint = (np.minimum(x % 1, 1 - x % 1) < 0.04) | (np.minimum(y % 1, 1 - y % 1) < 0.08)
    return np.where(joint, -2, tone).astype(np.float32) + 0.3 * _fractal(rng)


def _cells(rng: np.random.Generator) -> Grey:
    """Voronoi cells: flat, hollow or outlined; scales, pebbles, cracked earth."""
    seeds = np.full((PATTERN_SIDE, PATTERN_SIDE), 255, np.uint8)
    count = int(rng.integers(20, 250))
    seeds[tuple(rng.integers(0, PATTERN_SIDE, (2, count)))] = 0
    distance, cell = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    flat = rng.normal(0, 1, cell.max() + 1).astype(np.float32)[cell]
    edge = cv2.morphologyEx(flat, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return [flat, flat - distance / 10, -distance, np.where(edge, -2.5, flat)][rng.integers(4)].astype(np.float32)


def _litter(rng: np.random.Generator) -> Grey:
    """Ellipses thrown over each other: leaves, camouflage, a crowd from afar."""
    out = np.zeros((PATTERN_SIDE, PATTERN_SIDE), np.float32)
    largest = rng.uniform(8, 50)
    for _ in range(int(min(900, 90000 / largest**2 * 3))):
        centre = rng.integers(0, PATTERN_SIDE, 2).tolist()
        axes = (largest * rng.uniform(0.2, 1, 2)).astype(int).tolist()
        cv2.ellipse(out, centre, axes, rng.uniform(0, 180), 0, 360, float(rng.normal()), -1, cv2.LINE_AA)
    return out


def _scribble(rng: np.random.Generator) -> Grey:
    """Lines of any direction and width: twigs, wires, print."""
    out = 0.3 * _fractal(rng)
    for _ in range(int(rng.integers(15, 120))):
        start, step = rng.uniform(0, PATTERN_SIDE, 2), rng.normal(0, 30, (6, 2))
        points = (start + step.cumsum(0)).astype(np.int32)
        cv2.polylines(out, [points], False, float(rng.normal()), int(rng.integers(1, 7)), cv2.LINE_AA)
    return out


def _warped(grey: Grey, rng: np.random.Generator, amount: float) -> Grey:
    """The pattern pushed about by soft noise, up to about `amount` pixels."""
    y, x = np.mgrid[:PATTERN_SIDE, :PATTERN_SIDE].astype(np.float32)
    dx, dy = (np.float32(amount) * _soft(rng) for _ in range(2))
    return cv2.remap(grey.astype(np.float32), x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


Kinds = list[Callable[[np.random.Generator], Grey]]
NOISES: Kinds = [_fractal, _soft, _fur, _ridges, _marble, _grain]
SHAPED: Kinds = [
    _stripes,
    _plaid,
    _checks,
    _dots,
    _bricks,
    _cells,
    _litter,
    _scribble,
    _cells,
    _litter,
    _soft,
    _fur,
]
