"""The data that flows through Tubelet, and the one legend of axis letters.

Axis letters, everywhere in the package:

    B  clips in a batch            T  frames of a clip          H, W  rows, columns of an image (pixels)
    C  channels                    N  objects                   M     identities of a bank (AOT: 10)
    Q  queries                     K  classes                   L     layers
    h, w  rows, columns of a feature map (the stride is in the name or the docstring)

Images are RGB. As `uint8` they hold 0..255, as float tensors they are normalised unless the docstring says 0..1.
Points and displacements are (x, y) in pixels, origin at the centre of the top left pixel.

Object ids: 0 is background, 1..254 are objects, 255 is void ("not labelled") and is read as background when a
mask is used as a prompt. An id never changes its meaning during a video.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

BACKGROUND = 0
VOID = 255
MAX_OBJECT_ID = 254


@dataclass(frozen=True)
class Frame:
    """One frame of a video: `rgb` (H, W, 3) uint8 0..255, its `index` from 0, its `time` in seconds if known.

    `name` is the stem of the file it came from (a folder of images), else the index with five digits."""

    rgb: UInt8[np.ndarray, "H W 3"]
    index: int
    time: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", f"{self.index:05d}")


@dataclass(frozen=True)
class Prompt:
    """What the user says about one frame of a video to follow objects in.

    `labels` (H, W) uint8 object ids, 0 where nothing is said. Ids not seen before start being followed; ids already
    followed are corrected (their mask of this frame becomes exactly the one given).
    `remove`: ids to stop following from this frame on."""

    labels: UInt8[np.ndarray, "H W"] | None = None
    remove: tuple[int, ...] = ()

    def objects(self) -> tuple[int, ...]:
        """The ids given, ascending, without background and void."""
        return () if self.labels is None else tuple(visible(self.labels))


@dataclass(frozen=True)
class LabelFrame:
    """The final answer for one frame: `labels` (H, W) uint8, one id (or class) per pixel, at the frame's own size.

    `index` is the frame's. `objects` are the ids being followed, whether visible in this frame or not."""

    labels: UInt8[np.ndarray, "H W"]
    index: int
    objects: tuple[int, ...] = ()


@dataclass(frozen=True)
class Clip:
    """A batch of training clips: `images` (B, T, 3, H, W) float, RGB 0..1, not yet normalised.

    `numbers`: which clips of their stream they are. They also seed the chance in a loss, so that a clip meets the same
    however a batch is divided."""

    images: Float[Tensor, "B T 3 H W"]
    numbers: Int[Tensor, " B"] | None = None


@dataclass(frozen=True)
class Labels:
    """The truth of a `Clip`: `ids` (B, T, H, W) object ids, 0 background, 255 void; `objects` (B,) how many there are.

    The ids of clip b are 1..objects[b]; an object may be absent from some frames."""

    ids: Int[Tensor, "B T H W"]
    objects: Int[Tensor, " B"]


@dataclass(frozen=True)
class TubeLabels:
    """The truth of a `Clip` whose objects have classes and may overlap: one entry per clip of the batch.

    `classes`: class indices from 0. `masks`: each object in each frame, all False where it is not seen. Only objects
    seen in at least one frame are here."""

    classes: list[Int[Tensor, " _"]]
    masks: list[Bool[Tensor, "_ T H W"]]

    def __post_init__(self) -> None:
        assert [len(c) for c in self.classes] == [len(m) for m in self.masks]


@dataclass(frozen=True)
class FlowLabels:
    """The truth of a `Clip` of two frames: the `flow` (x, y) in pixels from the second frame to the first, NaN where it
    is not known."""

    flow: Float[Tensor, "B 2 H W"]


@dataclass(frozen=True)
class Track:
    """What a video's object is: its `id` from 1, its class `category` (an index from 0), a `score` 0..1.

    An id may be in a list of tracks more than once, with several classes: its masks then stand for all of them."""

    id: int
    category: int
    score: float


@dataclass(frozen=True)
class TrackFrame:
    """The final masks of one frame: COCO RLE at the frame's own `size` (H, W), by the id of the track; they may
    overlap. Tracks that are not visible are left out.

    `tracks`: what is known so far of the visible ones, best first; the last word is `TrackSession.tracks`."""

    index: int
    size: tuple[int, int]
    masks: dict[int, dict]
    tracks: tuple[Track, ...] = ()


@dataclass
class Tracks:
    """The answer for a whole video: scored tubes that may overlap.

    `frames[t]` maps a track's id to its RLE at (height, width); `tracks` is best first."""

    height: int
    width: int
    frames: list[dict[int, dict]] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)

    def append(self, result: TrackFrame) -> None:
        """Adds the next frame. Raises `ValueError` if its size is not (height, width)."""
        if result.size != (self.height, self.width):
            raise ValueError(
                f"frame {result.index} is {result.size[1]}x{result.size[0]}, the video is {self.width}x{self.height}"
            )
        self.frames.append(result.masks)

    def masks(self, track_id: int) -> Bool[np.ndarray, "T H W"]:
        """The tube of one track."""
        nothing = np.zeros((self.height, self.width), bool)
        return np.stack([decode_rle(frame[track_id]) if track_id in frame else nothing for frame in self.frames])

    def __len__(self) -> int:
        return len(self.frames)

    def detections(self, t: int):
        """Frame t as `supervision.Detections` (needs `pip install tubelet[supervision]`), one per visible track."""
        shown = [track for track in self.tracks if track.id in self.frames[t]]
        masks = [decode_rle(self.frames[t][track.id]) for track in shown]
        return _detections(
            np.stack(masks) if masks else np.zeros((0, self.height, self.width), bool),
            tracker_id=np.array([track.id for track in shown], int),
            class_id=np.array([track.category for track in shown], int),
            confidence=np.array([track.score for track in shown], float),
        )


@dataclass
class LabelVideo:
    """One id per pixel for every frame of a video, held as COCO RLE (a few hundred bytes per object and frame).

    `frames[t]` maps an id to its RLE (`{"size": [H, W], "counts": text}`); ids that are not visible are left out."""

    height: int
    width: int
    frames: list[dict[int, dict]] = field(default_factory=list)
    objects: tuple[int, ...] = ()

    def append(self, result: LabelFrame) -> None:
        """Adds the next frame. Raises `ValueError` if its size is not (height, width)."""
        if result.labels.shape != (self.height, self.width):
            raise ValueError(
                f"frame {result.index} is {result.labels.shape[1]}x{result.labels.shape[0]}, "
                f"the video is {self.width}x{self.height}"
            )
        self.frames.append({i: encode_rle(result.labels == i) for i in visible(result.labels)})
        self.objects = tuple(sorted(set(self.objects) | set(result.objects)))

    def labels(self, t: int) -> UInt8[np.ndarray, "H W"]:
        """Frame t as an id map."""
        out = np.zeros((self.height, self.width), np.uint8)
        for i, rle in self.frames[t].items():
            out[decode_rle(rle)] = i
        return out

    def __len__(self) -> int:
        return len(self.frames)

    def detections(self, t: int):
        """Frame t as `supervision.Detections` (needs `pip install tubelet[supervision]`), `tracker_id` = object id."""
        ids = sorted(self.frames[t])
        masks = [decode_rle(self.frames[t][i]) for i in ids]
        return _detections(
            np.stack(masks) if masks else np.zeros((0, self.height, self.width), bool),
            tracker_id=np.array(ids, int),
        )


def _detections(masks: Bool[np.ndarray, "N H W"], **columns: np.ndarray):
    import supervision  # pyright: ignore[reportMissingImports]

    return supervision.Detections(xyxy=supervision.mask_to_xyxy(masks), mask=masks, **columns)


def visible(labels: UInt8[np.ndarray, "H W"]) -> list[int]:
    """The object ids present in an id map, ascending, without background and void."""
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=1))
    return [int(i) for i in present if i not in (BACKGROUND, VOID)]


def encode_rle(mask: Bool[np.ndarray, "H W"]) -> dict:
    """COCO RLE of a binary mask: `{"size": [H, W], "counts": text}`, as files have it."""
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}  # pyright: ignore


def decode_rle(rle: dict) -> Bool[np.ndarray, "H W"]:
    """The binary mask of a COCO RLE, its counts compressed, as text or bytes."""
    from pycocotools import mask as coco

    return coco.decode(rle).astype(bool)  # pyright: ignore[reportArgumentType]


def check_prompt(prompt: Prompt, size: Sequence[int], where: str = "prompt") -> None:
    """Raises `ValueError` unless the prompt's labels have `size` (H, W)."""
    if prompt.labels is not None and tuple(prompt.labels.shape) != tuple(size):
        h, w = prompt.labels.shape
        raise ValueError(
            f"the {where} mask is {w}x{h} but the frame is {size[1]}x{size[0]}; give the mask at the frame's own size"
        )
