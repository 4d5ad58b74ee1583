"""Photographs for synthetic clips: real surfaces, and cut-outs of real things.

Procedural textures teach matching, but not what fur, leaves and faces look like. Any folder of pictures helps: those
with transparent parts are cut-outs, the others surfaces and backgrounds. Whoever trains chooses pictures whose
licences allow it."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from tubelet.data.scene import Part, Wave

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
LONG_EDGE = 768  # of what is kept in memory; a clip's frame shows a part of it
SMALLEST = 32  # cut-outs with a shorter side would only be blobs


@dataclass(frozen=True)
class Photos:
    """Files of opaque `pictures` and of `cutouts`, which have an alpha channel. Either may be empty."""

    pictures: tuple[Path, ...]
    cutouts: tuple[Path, ...]

    def draw_surface(self, rng: np.random.Generator, unit: int) -> "Photo":
        """A piece of a random picture, turned and scaled at will; `unit` is the short side of the frame."""
        rgb = load_picture(self.pictures[rng.integers(len(self.pictures))])
        texels = 192 / unit * float(np.exp(rng.uniform(np.log(0.5), np.log(4))))
        return Photo(rgb, _lie(rgb.shape[:2], rng.random(2), texels, float(rng.uniform(0, 2 * np.pi))))

    def draw_view(self, rng: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
        """An upright view of a third to all of a random picture."""
        rgb = load_picture(self.pictures[rng.integers(len(self.pictures))])
        h, w = rgb.shape[:2]
        texels = float(rng.uniform(0.33, 1)) * min(h / height, w / width)
        room = 1 - texels * np.array([width / w, height / h])
        middle = 0.5 + room * rng.uniform(-0.5, 0.5, 2)
        view = Photo(rgb, _lie((h, w), middle, texels, 0.0))
        centre = np.eye(3)
        centre[:2, 2] = -width / 2, -height / 2
        return _recoloured(rng, view.paint(height, width, centre))

    def draw_part(self, rng: np.random.Generator, diameter: float) -> Part:
        """A random cut-out whose long side has `diameter` pixels, half of the time in a mirror, in colours of its
        own."""
        rgba = load_cutout(self.cutouts[rng.integers(len(self.cutouts))])
        h, w = (max(6, round(side * diameter / max(rgba.shape[:2]))) for side in rgba.shape[:2])
        small = cv2.resize(rgba, (w, h), interpolation=cv2.INTER_AREA)
        if rng.random() < 0.5:
            small = small[:, ::-1]
        rgb, alpha = _recoloured(rng, np.ascontiguousarray(small[..., :3])), np.ascontiguousarray(small[..., 3])
        return Part(rgb, alpha, joint=np.zeros(2), pivot=np.zeros(2), turn=Wave(0.0))


NO_PHOTOS = Photos((), ())


@dataclass(frozen=True)
class Photo:
    """A picture as a surface; `lie` (2 x 3) maps a pixel of the surface to one of the picture."""

    rgb: UInt8[np.ndarray, "h w 3"]
    lie: np.ndarray

    def paint(
        self, height: int, width: int, view: Float[np.ndarray, "3 3"] | None = None
    ) -> UInt8[np.ndarray, "{height} {width} 3"]:
        """Like `Texture.paint`; beyond its edges the picture is mirrored."""
        lie = np.vstack([self.lie, [0, 0, 1]]) @ (np.eye(3) if view is None else view)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpPerspective(self.rgb, lie, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)


def read_photos(root: Path) -> Photos:
    """All pictures under a folder, those with an alpha channel as cut-outs.

    Raises `FileNotFoundError` if there are none, and for a file that is no picture what Pillow raises."""
    pictures, cutouts = [], []
    for path in sorted(path for path in Path(root).rglob("*") if path.suffix.lower() in SUFFIXES):
        with Image.open(path) as image:
            if "A" in image.getbands() or "transparency" in image.info:
                cutouts += [path] if min(image.size) >= SMALLEST else []
            else:
                pictures.append(path)
    if not pictures and not cutouts:
        raise FileNotFoundError(f"no photographs under {root}: expected files ending in {', '.join(sorted(SUFFIXES))}")
    return Photos(tuple(pictures), tuple(cutouts))


@lru_cache(maxsize=1024)
def load_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """RGB, shrunk to a long edge of 768."""
    with Image.open(path) as image:
        image.draft("RGB", (LONG_EDGE, LONG_EDGE))
        rgb = image.convert("RGB")
    rgb.thumbnail((LONG_EDGE, LONG_EDGE))
    return np.array(rgb)


@lru_cache(maxsize=1024)
def load_cutout(path: Path) -> UInt8[np.ndarray, "h w 4"]:
    """RGBA without transparent margins, shrunk to a long edge of 384."""
    with Image.open(path) as image:
        rgba = image.convert("RGBA")
    rgba = rgba.crop(rgba.getchannel("A").getbbox())  # of nothing at all, the whole
    rgba.thumbnail((LONG_EDGE // 2, LONG_EDGE // 2))
    return np.array(rgba)


def _lie(size: tuple[int, int], middle: np.ndarray, texels: float, angle: float) -> np.ndarray:
    """The surface's origin at `middle` (x, y as shares of the picture), `texels` of the picture per pixel."""
    c, s = texels * np.cos(angle), texels * np.sin(angle)
    return np.array([[c, -s, middle[0] * size[1]], [s, c, middle[1] * size[0]]])


def _recoloured(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Brighter or darker, and warmer or colder; one in five in another order of colours."""
    gain = rng.uniform(0.6, 1.25) * np.exp(rng.normal(0, 0.08, 3))
    if rng.random() < 0.2:
        rgb = np.ascontiguousarray(rgb[..., rng.permutation(3)])
    curve = np.clip(np.arange(256)[:, None] * gain, 0, 255)
    return cv2.LUT(rgb, curve.astype(np.uint8)[None])
