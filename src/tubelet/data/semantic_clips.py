"""Training clips with one class per pixel: a frame alone (Mask2Former), or a pair of frames (MPVSS).

A pair is a key frame and a later, current frame near it. The key frame's labels are never needed for training, so a
pair needs a labelled current frame only, and labels that are missing are void everywhere.

The recipe is MPVSS's (`reach`, sizes and crop; section 4.1 and its code): one size, crop, colour and flip for both
frames. The colours are those of SSD. All chance is drawn before a pixel is read, and only the window that is kept is
ever resized."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tubelet.data.drift import draw_drift, drift, flow_of
from tubelet.data.loader import FlowSource, RgbFlow, RgbIds, Source
from tubelet.data.semantic import SemanticVideo
from tubelet.types import VOID
from tubelet.video.resize import short_edge_size

LONG_EDGE = 960
SHORT_EDGES = tuple(int(0.1 * LONG_EDGE * k) for k in range(5, 21))  # 480 .. 1920
BRIGHTNESS, GAIN, HUE = 32, (0.5, 1.5), 18  # HUE of OpenCV's 180


# ---- which frames


def draw_pair(
    rng: np.random.Generator, video: SemanticVideo, *, reach: int, span: int | None = None
) -> tuple[int, int] | None:
    """Two indices, the key frame's and the later, labelled one's; None if the video has no such two.

    A random frame and a random other one at most `reach` frames away (of those listed) and `span` away by their
    `numbers` (None: no limit); the frames that are drawn from are those that have such another one. So where all are
    labelled any frame is as likely, as in MPVSS, and where one is labelled any key frame before it."""
    for t in rng.permutation(len(video)).tolist():
        if near := partners(video, t, reach=reach, span=span):
            other = near[int(rng.integers(len(near)))]
            return min(t, other), max(t, other)
    return None


def partners(video: SemanticVideo, t: int, *, reach: int, span: int | None = None) -> list[int]:
    """The frames that make a pair with frame t, as in `draw_pair`."""
    return [
        s
        for s in range(max(0, t - reach), min(len(video), t + reach + 1))
        if s != t and max(s, t) in video.labels and (span is None or abs(video.numbers[s] - video.numbers[t]) <= span)
    ]


# ---- how they are seen


@dataclass(frozen=True)
class Colours:
    """A change of colours, in 8 bits throughout: `brightness` is added, `contrast` and `saturation` are factors, `hue`
    is a turn of the colour circle in degrees of 180. `contrast_first`: the contrast changes before saturation and hue,
    else after."""

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: int = 0
    contrast_first: bool = True

    def change(self, rgb: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """The picture in other colours."""
        rgb = _linear(rgb, 1.0, self.brightness)
        if self.contrast_first:
            rgb = _linear(rgb, self.contrast)
        if self.saturation != 1 or self.hue:
            hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
            hsv[..., 1] = _linear(hsv[..., 1], self.saturation)
            hsv[..., 0] = (hsv[..., 0].astype(int) + self.hue) % 180
            rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        return rgb if self.contrast_first else _linear(rgb, self.contrast)


PLAIN = Colours()


def _linear(values: np.ndarray, gain: float, offset: float = 0.0) -> np.ndarray:
    """By a table, cut off at 0 and 255."""
    table = (np.arange(256) * gain + offset).clip(0, 255).astype(np.uint8)
    return values if gain == 1 and offset == 0 else cv2.LUT(values, table)


def draw_colours(rng: np.random.Generator) -> Colours:
    """SSD's jitter: each of brightness (+-32), contrast, saturation (0.5..1.5) and hue (+-18 of 180) changes half of
    the time."""
    changed = (rng.random(4) < 0.5).tolist()
    return Colours(
        brightness=float(rng.uniform(-BRIGHTNESS, BRIGHTNESS)) if changed[0] else 0.0,
        contrast=float(rng.uniform(*GAIN)) if changed[1] else 1.0,
        saturation=float(rng.uniform(*GAIN)) if changed[2] else 1.0,
        hue=int(rng.integers(-HUE, HUE + 1)) if changed[3] else 0,
        contrast_first=bool(rng.random() < 0.5),
    )


@dataclass(frozen=True)
class Shot:
    """How the frames of a clip are seen: brought to `scaled` (H, W), of which `window` (top, left, height, width) is
    kept, mirrored or not, in other `colours`, and padded to `size` to the right and below."""

    scaled: tuple[int, int]
    window: tuple[int, int, int, int]
    size: tuple[int, int]
    mirrored: bool = False
    colours: Colours = PLAIN

    def picture(self, rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """A frame; black comes in from outside."""
        return self.padded(self.colours.change(self._cut(rgb, Image.Resampling.BILINEAR)), 0)

    def classes(self, classes: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "H W"]:
        """Its classes; void comes in from outside."""
        return self.padded(self._cut(classes, Image.Resampling.NEAREST), VOID)

    def _cut(self, image: np.ndarray, how: Image.Resampling) -> np.ndarray:
        """The window, straight from the frame: what resizing all of it and cutting then would give, save at its rim."""
        top, left, height, width = self.window
        fy, fx = image.shape[0] / self.scaled[0], image.shape[1] / self.scaled[1]
        far = min(image.shape[1], (left + width) * fx), min(image.shape[0], (top + height) * fy)  # rounding
        cut = np.asarray(Image.fromarray(image).resize((width, height), how, box=(left * fx, top * fy, *far)))
        return np.ascontiguousarray(cut[:, ::-1] if self.mirrored else cut)

    def padded(self, image: np.ndarray, outside: int | float) -> np.ndarray:
        """What fills the window, brought to `size`."""
        below, after = self.size[0] - image.shape[0], self.size[1] - image.shape[1]
        return np.pad(image, ((0, below), (0, after), (0, 0))[: image.ndim], constant_values=outside)


def draw_shot(
    rng: np.random.Generator,
    frame: tuple[int, int],
    size: tuple[int, int],
    *,
    short_edges: Sequence[int] = SHORT_EDGES,
    long_edge: int = LONG_EDGE,
    colour: bool = True,
    flip: float = 0.5,
) -> Shot:
    """One draw for frames of (height, width) `frame`: the short edge is one of `short_edges`, unless that makes the
    long edge longer than `long_edge`; a window of `size`, or all there is of a side that is smaller; with `colour`,
    those of `draw_colours`; mirrored with probability `flip`."""
    scaled = short_edge_size(*frame, short_edge=int(rng.choice(short_edges)), long_edge=long_edge)
    height, width = (min(side, wanted) for side, wanted in zip(scaled, size, strict=True))
    top, left = int(rng.integers(scaled[0] - height + 1)), int(rng.integers(scaled[1] - width + 1))
    colours = draw_colours(rng) if colour else PLAIN
    return Shot(scaled, (top, left, height, width), size, bool(rng.random() < flip), colours)


# ---- sources


def semantic_source(
    videos: Sequence[SemanticVideo],
    *,
    frames: int = 2,
    size: tuple[int, int] = (480, 480),
    reach: int = 10,
    span: int | None = None,
    short_edges: Sequence[int] = SHORT_EDGES,
    long_edge: int = LONG_EDGE,
    colour: bool = True,
    flip: float = 0.5,
    by_frames: bool = False,
    still: float = 0.0,
) -> Source:
    """Clips of one labelled frame (`frames` 1) or of a key frame and a later labelled one (2), (H, W) `size`, for a
    stream with `collate=collate_semantic`.

    Videos are drawn with equal chance, or `by_frames` in proportion to their labelled frames. Pairs are drawn by
    `draw_pair` (`reach`, `span`), sizes, crops and colours by `draw_shot`. `still` is for data whose frames are far
    apart: this share of the pairs is a labelled frame, and the same after a motion of `draw_drift`. Videos without a
    labelled frame, or for pairs without two frames near enough (those of one frame among them), are left out. A crop
    may hold void alone.

    Raises `ValueError` if no video is left or a number makes no sense. The source raises what reading the files
    raises, and `ValueError` for frames or labels of different sizes."""
    shares = 0 <= flip <= 1 and 0 <= still <= 1
    if frames not in (1, 2) or reach < 1 or min(*size, *short_edges, long_edge) < 1 or not shares:
        raise ValueError(
            f"a clip needs frames 1 or 2, reach, sizes and edges of 1 or more, flip and still 0..1; got {frames=}, "
            f"{reach=}, {size=}, short_edges={tuple(short_edges)}, {long_edge=}, {flip=}, {still=}"
        )
    pair = {"reach": reach, "span": span} if frames == 2 else None
    usable = [video for video in videos if _usable(video, pair if still < 1 else None)]
    if not usable:
        wanted = "a labelled frame" if pair is None else f"a labelled frame that another comes before within {pair}"
        raise ValueError(f"none of the {len(videos)} videos has {wanted}, so no clip can be drawn")
    weights = np.array([len(video.labels) if by_frames else 1 for video in usable], float)
    camera = {"short_edges": tuple(short_edges), "long_edge": long_edge, "colour": colour, "flip": flip}
    chance = {"shares": weights / weights.sum(), "still": still}
    return partial(_draw, videos=usable, **chance, pair=pair, size=size, camera=camera)


def _usable(video: SemanticVideo, pair: dict | None) -> bool:
    if pair is None:
        return bool(video.labels)
    return any(s < t for t in video.labels for s in partners(video, t, **pair))


def _draw(rng: np.random.Generator, *, videos, shares, pair, still, size, camera) -> RgbIds:
    video = videos[rng.choice(len(videos), p=shares)]
    moved = pair is not None and still > 0 and rng.random() < still
    if pair is None or moved:
        labelled = sorted(video.labels)
        indices = (labelled[int(rng.integers(len(labelled)))],)
    else:
        indices = draw_pair(rng, video, **pair)
        assert indices is not None
    pictures, maps = _read(video, indices)
    shot = draw_shot(rng, maps[0].shape, size, **camera)
    if moved:
        return _drifted(rng, shot, pictures[0], maps[0])[:2]
    return np.stack([shot.picture(rgb) for rgb in pictures]), np.stack([shot.classes(classes) for classes in maps])


def flow_source(
    videos: Sequence[SemanticVideo],
    *,
    size: tuple[int, int] = (480, 480),
    short_edges: Sequence[int] = SHORT_EDGES,
    long_edge: int = LONG_EDGE,
    colour: bool = True,
    flip: float = 0.5,
) -> FlowSource:
    """Pairs of a frame and the same after a motion of `draw_drift`, (H, W) `size`, with the flow between them, for a
    stream with `collate=collate_flow`. All frames of all videos are as likely; those with labels are better, since
    their things move apart. The rest is as in `semantic_source`."""
    frames = [(video, t) for video in videos for t in range(len(video))]
    if not frames:
        raise ValueError(f"the {len(videos)} videos have no frames to make pairs of")
    camera = {"short_edges": tuple(short_edges), "long_edge": long_edge, "colour": colour, "flip": flip}
    return partial(_draw_flow, frames=frames, size=size, camera=camera)


def _draw_flow(rng: np.random.Generator, *, frames, size, camera) -> RgbFlow:
    video, t = frames[int(rng.integers(len(frames)))]
    (rgb,), (classes,) = _read(video, (t,))
    shot = draw_shot(rng, classes.shape, size, **camera)
    pictures, _, flow = _drifted(rng, shot, rgb, classes)
    return pictures, flow


def _read(video: SemanticVideo, indices: Sequence[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames and their classes, void where they have no labels."""
    pictures = [video.rgb(t) for t in indices]
    maps = [video.classes(t) if t in video.labels else np.full_like(pictures[0][..., 0], VOID) for t in indices]
    _check_sizes(video, indices, [array.shape[:2] for array in (*pictures, *maps)])
    return pictures, maps


def _drifted(
    rng: np.random.Generator, shot: Shot, rgb: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A frame as the shot sees it, and the same after a motion: pictures, classes, and the flow between them."""
    height, width = shot.window[2:]
    rgb, classes = shot.picture(rgb)[:height, :width], shot.classes(classes)[:height, :width]
    before, seen = draw_drift(rng, classes)
    later, later_classes = drift(rgb, classes, before, seen)
    pictures = np.stack([shot.padded(x, 0) for x in (rgb, later)])
    maps = np.stack([shot.padded(x, VOID) for x in (classes, later_classes)])
    return pictures, maps, shot.padded(flow_of(before, seen), np.nan)


def _check_sizes(video: SemanticVideo, indices: Sequence[int], sizes: Sequence[tuple[int, ...]]) -> None:
    if len(set(sizes)) > 1:
        names = " and ".join(video.frames[t].name for t in indices)
        found = ", ".join(f"{w}x{h}" for h, w in sizes)
        raise ValueError(
            f"{names} of {video.name} and their labels must have one size, but they are {found}; "
            "`tubelet check` finds all such files"
        )
