"""Pixels in: a file, a folder, a glob, a camera, a URL or an iterable of arrays becomes a stream of `Frame`s.

What is unusual here: nothing is held but the frame at hand, and a damaged video never passes as a short one
(see `container` for how damage is noticed)."""

import glob
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from tubelet.types import Frame
from tubelet.video import container
from tubelet.video.container import Damage, Picture

ON_ERROR = ("raise", "stop", "skip")

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"}
CAMERA = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation"), "win32": ("{}", "vfwcap")}


class DamagedVideoError(ValueError):
    """A video of which only a part can be read; the sentence says which part, as in "83 of 300 frames"."""


class Video:
    """A stream of `Frame`s, with what is known beforehand. Each `iter()` starts again from the first frame
    (but an iterator of arrays can be read only once, and a camera or URL goes on from now).

    `name`: the stem of the file or the folder's name. `size`: (height, width). `fps`: frames per second.
    `frame_count`: as the container tells it (mkv, webm: estimated as duration x rate). `None`: unknown."""

    def __init__(
        self,
        pictures: Callable[[], Iterator[Picture | Damage]],
        *,
        name: str,
        on_error: str = "raise",
        frame_count: int | None = None,
        estimated: bool = False,
        fps: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.name, self.frame_count, self.fps, self.size = name, frame_count, fps, size
        self._pictures, self._on_error, self._estimated = pictures, on_error, estimated

    def __iter__(self) -> Iterator[Frame]:
        good, holes, reason, size = 0, 0, "", None
        for item in self._pictures():
            if isinstance(item, Damage):
                holes, reason = holes + 1, reason or item.reason
                if self._on_error == "skip":
                    continue
                break
            frame = Frame(item.rgb, good, item.time, item.name)
            size = size or frame.rgb.shape[:2]
            self._check_size(frame, size)
            yield frame
            good += 1
        if not reason:
            return
        if self._on_error == "raise":
            raise DamagedVideoError(
                f"only {self._share(good)} of {self.name} can be read ({reason}); get an undamaged copy, "
                f"or take what is there with on_error='stop' or 'skip'"
            )
        missed = holes if self.frame_count is None else max(holes, self.frame_count - good)
        lost = f"; {missed} missed" if self._on_error == "skip" else ""
        warnings.warn(f"{self._share(good)} of {self.name} were read ({reason}{lost})", stacklevel=2)

    def _share(self, good: int) -> str:
        if self.frame_count is None or self.frame_count <= good:  # a gif cut short tells a lower count
            return f"the first {good} frames"
        return f"{good} of {'about ' if self._estimated else ''}{self.frame_count} frames"

    def _check_size(self, frame: Frame, size: tuple[int, ...]) -> None:
        h, w = frame.rgb.shape[:2]
        if (h, w) != size:
            raise ValueError(
                f"frame {frame.name} of {self.name} is {w}x{h} but the first frame is {size[1]}x{size[0]}; "
                f"all frames of a video must have one size"
            )


def read(source: str | Path | int | Iterable[Any], *, on_error: str = "raise") -> Video:
    """Opens `source` as a lazy stream of RGB uint8 frames.

    source: a video file (mp4, mov, mkv, avi, webm, gif ...), a folder of images or a glob (natural order: 2
    before 10), one image, a URL (rtsp://, http:// ...), a camera's index, or an iterable of uint8 or uint16
    arrays (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Rotation (mp4 display matrix, EXIF) is applied; grey is
    repeated, alpha is dropped, 10 and 16 bits are scaled down to 8.
    on_error: at damage, "raise" `DamagedVideoError` after the good frames; "stop" after them with a warning;
    "skip" what cannot be decoded, go on, and warn at the end (pictures after a hole may show its traces until
    the next key frame). For live streams, where packets do get lost, "skip" is the sensible choice.

    Raises `FileNotFoundError` if there is nothing at `source`, `ValueError` if it is no video, and while
    iterating if frames differ in size."""
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error must be 'raise', 'stop' or 'skip', not {on_error!r}")
    if isinstance(source, int):
        return _live(source, on_error)
    if not isinstance(source, str | Path):
        return _arrays(source, on_error)
    if "://" in str(source):
        return _live(str(source), on_error)
    path = Path(source)
    if path.is_dir():
        return _images(_image_files(path.iterdir(), f"folder {path}"), path.resolve().name, on_error)
    if path.is_file():
        is_image = path.suffix.lower() in IMAGE_SUFFIXES
        return _images([path], path.stem, on_error) if is_image else _file(path, on_error)
    if glob.has_magic(str(source)):
        found = map(Path, glob.glob(str(source), recursive=True))
        return _images(_image_files(found, f"glob {source}"), path.parent.name, on_error)
    raise FileNotFoundError(f"there is no video {path}; expected a file, a folder of images, a glob or a URL")


# ---- arrays


def to_rgb(pixels: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    """(H, W), (H, W, 1), (H, W, 3), (H, W, 4), uint8 or uint16 0..65535, as RGB uint8; alpha is dropped."""
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ValueError(f"a frame must be (H, W[, 1|3|4]) uint8 or uint16, not {pixels.shape} {pixels.dtype}")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] not in (1, 3, 4):
        raise ValueError(f"a frame has 1, 3 or 4 channels, last; this one has shape {pixels.shape}")
    if pixels.dtype == np.uint16:
        pixels = (pixels.astype(np.uint32) * 255 + 32767) // 65535
    rgb = np.broadcast_to(pixels, (*pixels.shape[:2], 3)) if pixels.shape[2] == 1 else pixels[..., :3]
    return np.ascontiguousarray(rgb, np.uint8)


def _arrays(source: Iterable[Any], on_error: str) -> Video:
    if not isinstance(source, Iterable):
        raise ValueError(f"a video is a path, a URL, a camera index or an iterable of arrays, not {source!r}")
    used = False

    def pictures() -> Iterator[Picture]:
        nonlocal used
        if used and isinstance(source, Iterator):
            raise ValueError("this iterator has been read already; give a list or a new iterator to read it again")
        used = True
        for array in source:
            yield Picture(to_rgb(np.asarray(array)), None, "")

    return Video(pictures, name="frames", on_error=on_error, frame_count=_length(source))


def _length(source: Iterable[Any]) -> int | None:
    try:
        return len(source)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None


# ---- images


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts frame2 before frame10, and 007 and 7 always in the same order."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p.lower()) for p in parts if p], path.as_posix()


def _image_files(paths: Iterable[Path], where: str) -> list[Path]:
    files = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    if not files:
        kinds = " ".join(sorted(s[1:] for s in IMAGE_SUFFIXES))
        raise FileNotFoundError(f"no images in the {where}; expected files of these kinds: {kinds}")
    return sorted(files, key=natural_key)


def _images(files: list[Path], name: str, on_error: str) -> Video:
    def pictures() -> Iterator[Picture | Damage]:
        for file in files:
            try:
                yield Picture(read_image(file), None, file.stem)
            except ValueError as error:
                yield Damage(str(error))

    return Video(pictures, name=name, on_error=on_error, frame_count=len(files), size=_image_size(files[0]))


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """One image file as RGB, turned as its EXIF says. Raises `ValueError` if a part of it cannot be decoded."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("I", "I;16", "I;16B", "I;16L"):  # 16-bit grey, which PIL would clip at 255
                return to_rgb(np.asarray(upright).clip(0, 65535).astype(np.uint16))
            return to_rgb(np.asarray(upright.convert("RGB")))
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # PIL says all three for broken files
        raise ValueError(f"the image {path} cannot be decoded: {error}") from error


def _image_size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            w, h = image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5..8 swap the sides
    except (OSError, SyntaxError):
        return None
    return (w, h) if turned else (h, w)


# ---- files, URLs, cameras


def _file(path: Path, on_error: str) -> Video:
    facts = container.facts(str(path))
    return Video(lambda: container.pictures(str(path)), name=path.stem, on_error=on_error, **facts)


def _live(source: int | str, on_error: str) -> Video:
    if isinstance(source, str):
        return Video(lambda: container.pictures(source), name=Path(source).stem, on_error=on_error)
    if sys.platform not in CAMERA:
        raise ValueError(f"no way is known to open a camera on {sys.platform}; give a URL or an iterator of arrays")
    device, kind = CAMERA[sys.platform]
    return Video(lambda: container.pictures(device.format(source), kind), name=f"camera{source}", on_error=on_error)
