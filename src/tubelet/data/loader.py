"""Training clips as an endless numbered stream: batch k depends on the seed and on k, and on nothing else.

So a run that resumes at step k sees what it would have seen, whatever the number of workers.

A source is a callable that draws everything from the generator it is given. There are four kinds, each with its
`collate`, which makes a batch of clips:

    rng -> (rgb (T, H, W, 3) uint8, ids (T, H, W) uint8)                              `collate` -> (Clip, Labels)
    rng -> (rgb, masks (N, T, H, W) bool, classes (N,) int64)                   `collate_tubes` -> (Clip, TubeLabels)
    rng -> (rgb, classes (T, H, W) uint8)                                     `collate_semantic` -> (Clip, TubeLabels)
    rng -> (rgb (2, H, W, 3), flow (H, W, 2) float32)                             `collate_flow` -> (Clip, FlowLabels)

The sources here are `functools.partial`s of plain functions, so that they also travel to spawned workers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tubelet.data.augment import augment_video, merge
from tubelet.data.dataset import VideoItem
from tubelet.data.photos import NO_PHOTOS, Photos
from tubelet.data.sampling import renumber, sample_clip
from tubelet.data.shapes import CALM, Tubes, make_tubes
from tubelet.data.still_sets import Still
from tubelet.data.stills import move_image
from tubelet.data.synthetic import MAX_PACE, make_clip
from tubelet.data.views import draw_views
from tubelet.types import VOID, Clip, FlowLabels, Labels, TubeLabels

RgbIds = tuple[UInt8[np.ndarray, "T H W 3"], UInt8[np.ndarray, "T H W"]]
Source = Callable[[np.random.Generator], RgbIds]
RgbFlow = tuple[UInt8[np.ndarray, "2 H W 3"], Float32[np.ndarray, "H W 2"]]
FlowSource = Callable[[np.random.Generator], RgbFlow]
TubeSource = Callable[[np.random.Generator], Tubes]
Drawn = TypeVar("Drawn", RgbIds, RgbFlow, Tubes)
Truth = TypeVar("Truth", Labels, TubeLabels, FlowLabels)


# ---- batches


def collate(clips: Sequence[RgbIds]) -> tuple[Clip, Labels]:
    """A batch of B clips: images (B, T, 3, H, W) float32 0..1, ids (B, T, H, W) and objects (B,) int64.

    Raises `ValueError` if the clips differ in frames or size."""
    images, ids = _stacked(clips)
    objects = ids.masked_fill(ids == VOID, 0).flatten(1).amax(1)
    return Clip(images), Labels(ids, objects)


def collate_semantic(clips: Sequence[RgbIds]) -> tuple[Clip, TubeLabels]:
    """A batch of B clips whose maps hold classes: images (B, T, 3, H, W) float32 0..1, and of each clip the classes
    (N,) int64 that it shows and where, (N, T, H, W). What is void is in no mask.

    Raises `ValueError` if the clips differ in frames or size."""
    images, maps = _stacked(clips)
    classes = [shown[shown != VOID] for shown in (x.unique() for x in maps)]
    masks = [x == shown[:, None, None, None] for x, shown in zip(maps, classes, strict=True)]
    return Clip(images), TubeLabels(classes, masks)


def collate_flow(clips: Sequence[RgbFlow]) -> tuple[Clip, FlowLabels]:
    """A batch of B pairs: images (B, 2, 3, H, W) float32 0..1, and the flow (B, 2, H, W) float32, NaN where unknown.

    Raises `ValueError` if the pairs differ in size."""
    images = _images([rgb for rgb, _ in clips])
    flow = torch.from_numpy(np.stack([flow for _, flow in clips])).permute(0, 3, 1, 2).contiguous()
    return Clip(images), FlowLabels(flow)


def _stacked(clips: Sequence[RgbIds]) -> tuple[Float32[Tensor, "B T 3 H W"], Int64[Tensor, "B T H W"]]:
    return _images([rgb for rgb, _ in clips]), torch.from_numpy(np.stack([ids for _, ids in clips])).long()


def _images(pictures: Sequence[UInt8[np.ndarray, "T H W 3"]]) -> Float32[Tensor, "B T 3 H W"]:
    shapes = {rgb.shape for rgb in pictures}
    if len(shapes) > 1:
        raise ValueError(
            f"the clips of a batch must agree in frames and size, but the shapes (T, H, W, 3) are {sorted(shapes)}; "
            "give all sources the same `frames` and `size`"
        )
    return (torch.from_numpy(np.stack(pictures)).permute(0, 1, 4, 2, 3).float() / 255).contiguous()


def collate_tubes(clips: Sequence[Tubes]) -> tuple[Clip, TubeLabels]:
    """A batch of B clips of any sizes: images (B, T, 3, H, W) float32 0..1, and of each clip its classes (N,) int64 and
    masks (N, T, H, W), without the objects that no frame shows.

    H and W are the largest of the batch; smaller clips are padded to the right and below, images with 0, masks with
    False. Raises `ValueError` if the clips differ in frames."""
    lengths = {len(rgb) for rgb, _, _ in clips}
    if len(lengths) > 1:
        raise ValueError(
            f"the clips of a batch must agree in frames, but they have {sorted(lengths)}; "
            "give all sources the same `frames`"
        )
    height, width = (max(rgb.shape[axis] for rgb, _, _ in clips) for axis in (1, 2))
    images = torch.zeros(len(clips), lengths.pop(), 3, height, width)
    labels = TubeLabels([], [])
    for image, (rgb, masks, classes) in zip(images, clips, strict=True):
        h, w = rgb.shape[1:3]
        image[..., :h, :w] = torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255
        shown = masks.any((1, 2, 3))
        labels.classes.append(torch.from_numpy(classes[shown]))
        labels.masks.append(F.pad(torch.from_numpy(masks[shown]), (0, width - w, 0, height - h)))
    return Clip(images), labels


class ClipStream(Dataset, Generic[Drawn, Truth]):
    """`stream[k]` is the k-th batch, `(Clip, Labels)` or what else `collate` makes, of clips from weighted `sources`.

    Each clip of a batch comes from a source drawn by weight (any positive numbers); all sources must give
    clips of the same kind, frames and (for `collate`) size. `part` (i, n): this is process i of n, which together take
    n batches a step. Raises `ValueError` for no source, a weight that is not positive, or clips that differ."""

    def __init__(
        self,
        sources: Sequence[tuple[Callable[[np.random.Generator], Drawn], float]],
        *,
        batch: int,
        seed: int = 0,
        part: tuple[int, int] = (0, 1),
        collate: Callable[[Sequence[Drawn]], tuple[Clip, Truth]] = collate,
    ) -> None:
        if not sources or any(weight <= 0 for _, weight in sources) or batch < 1:
            raise ValueError(
                f"a clip stream needs sources with positive weights and a batch of at least 1; "
                f"got weights {[weight for _, weight in sources]} and batch {batch}"
            )
        self.sources = [source for source, _ in sources]
        weights = np.array([weight for _, weight in sources], float)
        self.shares = weights / weights.sum()
        self.batch = batch
        self.seed = seed
        self.part = part
        self.collate = collate

    def clip(self, number: int) -> Drawn:
        """Clip `number` of the stream, before it becomes part of a batch."""
        rng = np.random.default_rng([self.seed, number])
        return self.sources[rng.choice(len(self.sources), p=self.shares)](rng)

    def __getitem__(self, step: int) -> tuple[Clip, Truth]:
        process, processes = self.part
        first = (step * processes + process) * self.batch
        numbers = range(first, first + self.batch)
        clip, labels = self.collate([self.clip(number) for number in numbers])
        return replace(clip, numbers=torch.tensor(numbers)), labels


class Interleaved(Dataset):
    """One stream with `count` batches of another after each of its batches, each stream in its own order."""

    def __init__(self, stream: Dataset, between: Dataset, *, count: int) -> None:
        self.stream, self.between, self.count = stream, between, count

    def __getitem__(self, step: int) -> tuple[Clip, Labels | TubeLabels | FlowLabels]:
        number, place = divmod(step, self.count + 1)
        return self.between[number * self.count + place - 1] if place else self.stream[number]


def load(
    stream: Dataset[tuple[Clip, Truth]], *, start: int = 0, stop: int, workers: int = 0
) -> Iterator[tuple[Clip, Truth]]:
    """The batches `start` .. `stop - 1` of a stream in order, prepared by `workers` processes (0: by this one)."""
    if not workers:
        _one_thread(0)
    # Batches are asked for by number, so the order holds for any number of workers.
    return iter(
        DataLoader(
            stream,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            worker_init_fn=_one_thread,
            prefetch_factor=4 if workers else None,
        )
    )


def _one_thread(worker: int) -> None:
    """Clips are small: OpenCV's threads only get into each other's way, and into that of the training."""
    cv2.setNumThreads(0)


# ---- sources


def synthetic_source(
    size: tuple[int, int],
    frames: int,
    *,
    objects: tuple[int, int] = (1, 4),
    max_pace: float = MAX_PACE,
    photos: Photos = NO_PHOTOS,
) -> Source:
    """Clips of `make_clip`; see there for `max_pace`."""
    return partial(_draw_synthetic, size=size, frames=frames, objects=objects, max_pace=max_pace, photos=photos)


def _draw_synthetic(rng: np.random.Generator, **options) -> RgbIds:
    return make_clip(int(rng.integers(2**62)), **options)


def tube_source(
    size: tuple[int, int],
    frames: int,
    *,
    objects: tuple[int, int] = (1, 4),
    pace: float | None = None,
    calm: float = CALM,
) -> TubeSource:
    """Clips of `make_tubes`, for a stream with `collate=collate_tubes`."""
    return partial(_draw_tubes, size=size, frames=frames, objects=objects, pace=pace, calm=calm)


def _draw_tubes(rng: np.random.Generator, **options) -> Tubes:
    return make_tubes(int(rng.integers(2**62)), **options)


def video_source(
    videos: Sequence[VideoItem], size: tuple[int, int], frames: int, *, max_gap: int = 12, colour: bool = True
) -> Source:
    """Clips of masked videos, drawn with equal chance, sampled as `sample_clip` does and augmented as
    `augment_video`.

    `max_gap` counts annotated frames: 12 for DAVIS, 3 for YouTube-VOS, whose masks are five frames apart."""
    return partial(_draw_video, videos=list(videos), size=size, frames=frames, max_gap=max_gap, colour=colour)


def _draw_video(rng: np.random.Generator, *, videos, size, frames, max_gap, colour) -> RgbIds:
    rgb, ids = sample_clip(rng, videos[rng.integers(len(videos))], frames, max_gap=max_gap)
    rgb, ids = augment_video(rng, rgb, ids, size, colour=colour)
    return rgb, renumber(rng, ids)  # the crop may have lost objects


def image_source(stills: Sequence[Still], size: tuple[int, int], frames: int, **options: float) -> Source:
    """Clips made of still images with masks (`still_sets.read_stills`), drawn with equal chance and moved as
    `move_image` does; `options` are its `bend`, `blurred` and `covered`.

    In half of the clips what may come in front of the objects is an object of another image."""
    return partial(_draw_image, stills=list(stills), size=size, frames=frames, options=options)


def _draw_image(rng: np.random.Generator, *, stills, size, frames, options) -> RgbIds:
    one, two = rng.integers(len(stills), size=2)
    rgb, ids = stills[one].load()
    # the same once more in front would be an object and background at once
    foreign = one != two and options.get("covered") != 0 and rng.random() < 0.5
    rgb, ids = move_image(rng, rgb, ids, frames, size, other=stills[two].load() if foreign else None, **options)
    return rgb, renumber(rng, ids)


def view_source(pictures: Source, size: tuple[int, int]) -> FlowSource:
    """Pairs of views of a picture, as `draw_views` makes them of the first frame of a clip of `pictures`."""
    return partial(_draw_views, pictures=pictures, size=size)


def _draw_views(rng: np.random.Generator, *, pictures, size) -> RgbFlow:
    rgb, _ = pictures(rng)
    return draw_views(rng, rgb[0], size)


def merged_source(below: Source, above: Source, probability: float) -> Source:
    """Clips of `below`; with the given probability, and whenever no object is left, the objects of a clip of
    `above` go over them."""
    return partial(_draw_merged, below=below, above=above, probability=probability)


def _draw_merged(rng: np.random.Generator, *, below, above, probability) -> RgbIds:
    rgb, ids = below(rng)
    nothing = not ((ids > 0) & (ids != VOID)).any()
    return merge(rng, (rgb, ids), above(rng)) if nothing or rng.random() < probability else (rgb, ids)
