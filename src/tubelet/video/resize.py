"""To the model's size and exactly back, by the rules of the authors' AOT code (`reference/aot.md`, section 2)."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TILE_VALUES = 8_000_000  # floats of upsampled logits that a band holds at once (32 MB)


def model_size(
    height: int,
    width: int,
    *,
    long_edge: int = 1040,
    short_edge: int | None = None,
    scale: float = 1.0,
    multiple: int = 16,
    plus_one: bool = True,
) -> tuple[int, int]:
    """The (height, width) at which a model sees a frame: the short edge limited (None: not), then the long edge, then
    scaled (test-time augmentation), then each side rounded to the nearest multiple of 16 (half to even, at least one),
    plus 1 where the model aligns corners."""
    limit = 1.0 if short_edge is None else min(1.0, short_edge / min(height, width))
    factor = min(limit, long_edge / max(height, width)) * scale
    one = int(plus_one)

    def fit(side: int) -> int:
        # the limited side is cut to whole pixels first, as the reference does
        limited = side if factor == 1.0 else int(side * factor)
        return max(round((limited - one) / multiple), 1) * multiple + one

    return fit(height), fit(width)


def to_model(rgb: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> Float32[Tensor, "3 h w"]:
    """A frame at the model's `size` (height, width): bicubic on float RGB, then ImageNet mean and deviation."""
    image = rgb.astype(np.float32)
    if image.shape[:2] != tuple(size):
        image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    image /= 255
    image -= np.asarray(IMAGENET_MEAN, np.float32)
    image /= np.asarray(IMAGENET_STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def short_edge_size(height: int, width: int, *, short_edge: int, long_edge: int = 1333) -> tuple[int, int]:
    """The (height, width) whose short edge is `short_edge`, or whose long edge is `long_edge` if that is less: the rule
    of detectron2, by which Mask2Former and its relatives see a frame. It enlarges too."""
    factor = min(short_edge / min(height, width), long_edge / max(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resized(rgb: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> Float32[Tensor, "3 h w"]:
    """A frame at `size` (height, width), bilinear in 8 bits (detectron2's rule), as RGB 0..1."""
    image = Image.fromarray(rgb)
    if rgb.shape[:2] != tuple(size):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def padded(rgb: UInt8[np.ndarray, "H W 3"], size: tuple[int, int], *, multiple: int = 32) -> Float32[Tensor, "3 h w"]:
    """`resized`, then ImageNet mean and deviation, then zeros to the right and below up to multiples of 32:
    detectron2's rule."""
    x = (resized(rgb, size) - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    return F.pad(x, (0, -size[1] % multiple, 0, -size[0] % multiple))


def labels_to_model(labels: UInt8[np.ndarray, "H W"], size: tuple[int, int]) -> UInt8[Tensor, "h w"]:
    """An id map at the model's `size` (height, width), by torch's "nearest" (floor of the scaled index)."""
    return F.interpolate(torch.from_numpy(labels.copy())[None, None], size=tuple(size), mode="nearest")[0, 0]


def logits_to_frame(
    logits: Float[Tensor, "C h w"], size: tuple[int, int], *, align_corners: bool
) -> Float[Tensor, "C H W"]:
    """Logits at the frame's `size` (height, width), bilinear."""
    return F.interpolate(logits[None], size=tuple(size), mode="bilinear", align_corners=align_corners)[0]


def argmax_to_frame(
    logits: Float[Tensor, "C h w"], size: tuple[int, int], *, align_corners: bool
) -> UInt8[np.ndarray, "H W"]:
    """`logits_to_frame(...).argmax(0)`, in bands of rows, so that 45 channels at 1920x1080 need 32 MB, not 373.

    At most 256 channels; the channel is the id. Works on the logits' device."""
    assert len(logits) <= 256, "an id map holds at most 256 ids"
    rows = max(1, TILE_VALUES // (len(logits) * size[1]))
    winners = [winner(band) for band in bands(logits, size, align_corners=align_corners, rows=rows)]
    return torch.cat(winners).cpu().numpy()


def winner(scores: Float[Tensor, "C H W"]) -> UInt8[Tensor, "H W"]:
    """The channel with the highest score at each place, the first of equals (`argmax` takes several times as long)."""
    return scores.max(0).indices.to(torch.uint8)


def bands(
    logits: Float[Tensor, "C h w"], size: tuple[int, int], *, align_corners: bool, rows: int
) -> Iterator[Float32[Tensor, "C _ W"]]:
    """`logits_to_frame(...)` in bands of so many rows, from the top; the last may be lower."""
    if size[0] <= rows:  # one band; torch is faster at that
        yield logits_to_frame(logits.float(), size, align_corners=align_corners)
        return

    def take(first: int, last: int) -> Tensor:
        return logits[:, first:last].float()

    for top in range(0, size[0], rows):
        band = range(top, min(top + rows, size[0]))
        yield band_to_frame(take, logits.shape[1], size, band, align_corners=align_corners)


def band_to_frame(
    take: Callable[[int, int], Float32[Tensor, "C _ w"]],
    h: int,
    size: tuple[int, int],
    band: range,
    *,
    align_corners: bool,
) -> Float32[Tensor, "C _ W"]:
    """The rows `band` of `logits_to_frame(logits, size)`, where `take(first, last)` makes the rows first .. last - 1 of
    the h that the logits have: only what the band looks at (`rows_of_band`) is ever made."""
    upper, lower, share = _source_rows(h, size[0], align_corners)
    upper, lower, share = (x[band.start : band.stop] for x in (upper, lower, share))
    seen = rows_of_band(h, size[0], band, align_corners=align_corners)
    # the columns by torch itself; the rows by hand, since torch knows no offset
    wide = logits_to_frame(take(seen.start, seen.stop), (len(seen), size[1]), align_corners=align_corners)
    upper, lower, share = (x.to(wide.device) for x in (upper - seen.start, lower - seen.start, share[:, None]))
    return wide[:, upper] * (1 - share) + wide[:, lower] * share


def rows_of_band(h: int, height: int, band: range, *, align_corners: bool) -> range:
    """The rows of h that a band of rows of `height` is interpolated from."""
    upper, lower, _ = _source_rows(h, height, align_corners)
    return range(int(upper[band.start]), int(lower[band.stop - 1]) + 1)


def _source_rows(
    h: int, height: int, align_corners: bool
) -> tuple[Int64[Tensor, " H"], Int64[Tensor, " H"], Float32[Tensor, " H"]]:
    """For each output row: the input rows above and below it, and the share of the one below (torch's rule)."""
    row = torch.arange(height, dtype=torch.float32)
    aligned = row * ((h - 1) / max(height - 1, 1))
    y = aligned if align_corners else ((row + 0.5) * (h / height) - 0.5).clamp(min=0)
    upper = y.long().clamp(max=h - 1)
    return upper, (upper + 1).clamp(max=h - 1), y - upper
