"""Training clips with the masks and classes of instances, from videos (YouTube-VIS, OVIS) and from still images (COCO).

The recipe is the one SyncVIS shares with VITA and CTVIS: frames near a reference frame, half of the time a window
that drifts, one size and one flip for the clip. A still image is a video of one frame, shown T times; there each
frame is also turned a little further.

All chance is drawn once per clip (`draw_shots`), before a pixel is read; then every picture and mask goes the same way
one at a time, so that a long clip of many large instances never lies in memory at full size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torchvision.transforms.v2 import functional as F

from tubelet.data.augment import FILL, NEAREST
from tubelet.data.coco import read_coco
from tubelet.data.loader import TubeSource
from tubelet.data.shapes import Tubes
from tubelet.data.ytvis import VISData, VISInstance, VISVideo
from tubelet.video.resize import short_edge_size

SHORT_EDGES = (288, 320, 352, 384, 416, 448, 480, 512)
LONG_EDGE = 768
CROP = (384, 600)
CROP_SHORT_EDGES = (400, 500, 600)  # the sides of `CROP` are pixels of a frame of this size
CROP_LONG_EDGE = 1333
TURN = 15.0
REDRAWS = 10  # of a clip whose crop lost all that its frames show

Window = tuple[int, int, int, int]


# ---- which frames


def sample_frames(rng: np.random.Generator, length: int, frames: int, *, reach: int) -> list[int]:
    """`frames` indices of 0..length-1, ascending: a random one and others at most `reach` away from it.

    The others are drawn with replacement and differ from the first; where there are none (a video of one frame, or a
    reach of 0) it is repeated. Raises `ValueError` for no frames or a negative reach."""
    if length < 1 or frames < 1 or reach < 0:
        raise ValueError(
            f"a clip needs a video of at least 1 frame, frames >= 1 and reach >= 0; "
            f"got length={length}, frames={frames}, reach={reach}"
        )
    reference = int(rng.integers(length))
    near = [t for t in range(max(0, reference - reach), min(length, reference + reach + 1)) if t != reference]
    others = rng.choice(near or [reference], frames - 1)
    return sorted([reference, *others.tolist()])


# ---- how they are seen


@dataclass(frozen=True)
class Shots:
    """How each frame of a clip is seen. Of frame t the window `windows[t]`, (top, left, height, width) in pixels of the
    video, is brought to `size` (H, W), then mirrored or not, then moved by `turns[t]`, an affine map of pixels (x, y);
    no `turns`: not moved."""

    windows: tuple[Window, ...]
    size: tuple[int, int]
    mirrored: bool = False
    turns: tuple[Float[np.ndarray, "2 3"], ...] = ()

    def pictures(
        self, load: Callable[[int], UInt8[np.ndarray, "h w 3"]], indices: Sequence[int]
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """The frames `load(index)` of a video. What a turn brings in from outside is the mean colour."""
        return self._take(load, indices, _cut_picture, cv2.INTER_LINEAR, FILL)

    def masks(
        self, load: Callable[[int], Bool[np.ndarray, "h w"]], indices: Sequence[int]
    ) -> Bool[np.ndarray, "T H W"]:
        """The masks `load(index)` of one instance, likewise; False comes in from outside."""
        return self._take(load, indices, _cut_mask, cv2.INTER_NEAREST, 0).view(bool)

    def _take(self, load, indices: Sequence[int], cut, interpolation: int, outside) -> np.ndarray:
        load = lru_cache(1)(load)  # a frame that is drawn twice follows itself
        done: dict[tuple[int, Window], np.ndarray] = {}
        for key in zip(indices, self.windows, strict=True):
            if key not in done:
                image = cut(load(key[0]), key[1], self.size)
                done[key] = np.ascontiguousarray(image[:, ::-1] if self.mirrored else image)
        out = [done[key] for key in zip(indices, self.windows, strict=True)]
        if self.turns:
            size = self.size[::-1]
            out = [
                cv2.warpAffine(image, turn, size, flags=interpolation, borderValue=outside)
                for image, turn in zip(out, self.turns, strict=True)
            ]
        return np.stack(out)


def _cut_picture(rgb: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    top, left, h, w = window
    inside = torch.from_numpy(rgb[top : top + h, left : left + w].copy()).permute(2, 0, 1)
    # smoothed where it shrinks, as pictures are when a model is used (`resize.padded`)
    return F.resize(inside, list(size), antialias=True).permute(1, 2, 0).numpy()


def _cut_mask(mask: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    top, left, h, w = window
    inside = mask.view(np.uint8)[top : top + h, left : left + w]
    # torchvision's masks are off by half a pixel against its pictures, and slower
    return cv2.resize(inside, size[::-1], interpolation=NEAREST)


def draw_shots(
    rng: np.random.Generator,
    size: tuple[int, int],
    frames: int,
    *,
    short_edges: Sequence[int] = SHORT_EDGES,
    long_edge: int = LONG_EDGE,
    crop: tuple[int, int] | None = CROP,
    crop_probability: float = 0.5,
    flip: float = 0.5,
    turn: float = 0.0,
) -> Shots:
    """One draw for a clip of a video of `size` (height, width).

    With `crop_probability` frames are cut by `draw_windows` (`crop` None: never). Then the short edge is one of
    `short_edges`, unless that makes the long edge longer than `long_edge`. `flip`: how likely the clip is mirrored.
    `turn`: the largest turn in degrees; one angle per frame, ascending or descending, about one centre in the middle
    fifth."""
    windows = [(0, 0, *size)] * frames
    if crop is not None and rng.random() < crop_probability:
        windows = draw_windows(rng, size, frames, crop)
    out = short_edge_size(*windows[0][2:], short_edge=int(rng.choice(short_edges)), long_edge=long_edge)
    mirrored = bool(rng.random() < flip)
    return Shots(tuple(windows), out, mirrored, tuple(_draw_turns(rng, out, frames, turn)) if turn else ())


def draw_windows(
    rng: np.random.Generator, size: tuple[int, int], frames: int, sides: tuple[int, int] = CROP
) -> list[Window]:
    """Windows of one shape that drift in a straight line between two random places, at random speed, never back.

    Both sides are drawn from the range `sides`, in pixels of a frame that is brought to a short edge of 400, 500 or 600
    (long edge at most 1333); a side is at most the frame's. The result is in pixels of the video, of `size`."""
    scaled = short_edge_size(*size, short_edge=int(rng.choice(CROP_SHORT_EDGES)), long_edge=CROP_LONG_EDGE)
    low, high = sides
    wanted = [int(rng.integers(min(low, side), min(high, side) + 1)) for side in scaled]
    height, width = (max(1, round(w * real / side)) for w, real, side in zip(wanted, size, scaled, strict=True))
    start, end = rng.integers(0, (size[0] - height + 1, size[1] - width + 1), (2, 2))
    way = np.sort(rng.random(frames))[:, None]
    return [(top, left, height, width) for top, left in np.rint(start + way * (end - start)).astype(int).tolist()]


def _draw_turns(rng: np.random.Generator, size: tuple[int, int], frames: int, most: float) -> list[np.ndarray]:
    angles = np.sort(rng.uniform(-most, most, frames)) * rng.choice([-1, 1])
    y, x = rng.uniform(0.4, 0.6, 2) * size - 0.5
    return [cv2.getRotationMatrix2D((x, y), angle, 1.0) for angle in angles.tolist()]


# ---- sources


def ytvis_source(
    data: VISData,
    frames: int,
    *,
    reach: int,
    short_edges: Sequence[int] = SHORT_EDGES,
    long_edge: int = LONG_EDGE,
    crop: tuple[int, int] | None = CROP,
    crop_probability: float = 0.5,
    flip: float = 0.5,
    drop_empty: bool = True,
) -> TubeSource:
    """Clips of the videos of a file, drawn with equal chance, for a stream with `collate=collate_tubes`.

    Frames are drawn by `sample_frames`, sizes and windows by `draw_shots`. Crowds are left out, and so is an instance
    that no frame of the clip shows; a class is the position of its category id among those of the file, ascending.
    `drop_empty`: leave out videos without instances. Where the crop loses all instances that the drawn frames show,
    another clip is drawn (video, frames and shots), as in the authors' training, but at most 10 times: the last one
    is taken as it is. Frames that show no instance are no reason.

    Raises `ValueError` if no video is left, its frames are not known, or a number makes no sense. The source raises
    what reading frames raises."""
    camera = _camera(short_edges, long_edge, crop, crop_probability, flip)
    return _source(data, frames, reach, camera, drop_empty)


def coco_source(
    path: Path | str,
    images: Path | str,
    frames: int,
    *,
    dataset: str | None = "ytvis_2019",
    short_edges: Sequence[int] = SHORT_EDGES,
    long_edge: int = LONG_EDGE,
    crop: tuple[int, int] | None = CROP,
    crop_probability: float = 0.5,
    flip: float = 0.5,
    turn: float = TURN,
) -> TubeSource:
    """Clips of still images: `frames` copies each, seen as `draw_shots` says, for a stream with
    `collate=collate_tubes`.

    `path`, `images` and `dataset` as in `read_coco`; images without an instance are left out. Clips that lost all
    instances are drawn again as in `ytvis_source`. Raises like both."""
    camera = _camera(short_edges, long_edge, crop, crop_probability, flip)
    return _source(read_coco(path, images, dataset=dataset), frames, 0, {**camera, "turn": turn}, True)


def _camera(
    short_edges: Sequence[int],
    long_edge: int,
    crop: tuple[int, int] | None,
    crop_probability: float,
    flip: float,
) -> dict[str, Any]:
    if not short_edges or min(*short_edges, long_edge) < 1:
        raise ValueError(f"clips need at least one short edge, of 1 pixel or more; got {short_edges} and {long_edge}")
    if crop is not None and not 1 <= crop[0] <= crop[1]:
        raise ValueError(f"the sides of a crop are (least, most) in pixels, or None for no crop; got {crop}")
    if not (0 <= crop_probability <= 1 and 0 <= flip <= 1):
        raise ValueError(f"probabilities are 0..1; got crop_probability={crop_probability} and flip={flip}")
    sizes = {"short_edges": tuple(short_edges), "long_edge": long_edge}
    return {**sizes, "crop": crop, "crop_probability": crop_probability, "flip": flip}


def _source(data: VISData, frames: int, reach: int, camera: dict[str, Any], drop_empty: bool) -> TubeSource:
    sample_frames(np.random.default_rng(0), 1, frames, reach=reach)  # says what is wrong now, not in a worker
    videos = _usable(data, drop_empty)
    if not videos:
        raise ValueError(
            f"none of the {len(data)} videos has frames and an instance that is no crowd, so no clip can be drawn; "
            "train on a file with annotations"
        )
    classes = {category: index for index, category in enumerate(sorted(data.categories))}
    return partial(_draw_clip, videos=videos, classes=classes, frames=frames, reach=reach, camera=camera)


def _usable(data: VISData, drop_empty: bool) -> list[tuple[VISVideo, list[VISInstance]]]:
    """The videos that clips can be drawn from, with their instances but for crowds and what is never visible."""
    out = []
    for video in data.videos.values():
        instances = [i for i in data.instances.get(video.id, ()) if not i.iscrowd and any(i.segmentations)]
        if video.length and (instances or not drop_empty):
            if len(video.frame_paths) < video.length:
                raise ValueError(f"video {video.name} has {video.length} frames but no file_names, so none can be read")
            out.append((video, instances))
    return out


def _draw_clip(
    rng: np.random.Generator,
    *,
    videos: Sequence[tuple[VISVideo, list[VISInstance]]],
    classes: Mapping[int, int],
    frames: int,
    reach: int,
    camera: Mapping[str, Any],
) -> Tubes:
    for _ in range(1 + REDRAWS):
        video, instances = videos[int(rng.integers(len(videos)))]
        indices = sample_frames(rng, video.length, frames, reach=reach)
        shots = draw_shots(rng, video.size, frames, **camera)
        there = [instance for instance in instances if any(instance.visible(t) for t in indices)]
        masks, seen = _see(there, shots, indices)
        if seen or not there:  # the crop left something, or had nothing to lose
            break
    return shots.pictures(video.load_frame, indices), masks, np.array([classes[i.category_id] for i in seen], np.int64)


def _see(
    instances: Sequence[VISInstance], shots: Shots, indices: Sequence[int]
) -> tuple[Bool[np.ndarray, "N T H W"], list[VISInstance]]:
    """The masks of those instances of which anything is left, and which they are."""
    masks, seen = np.empty((len(instances), len(indices), *shots.size), bool), []
    for instance in instances:
        tube = masks[len(seen)]
        tube[:] = shots.masks(instance.mask, indices)
        if tube.any():  # else the next one takes its place
            seen.append(instance)
    return masks[: len(seen)], seen
