"""Frames -> session -> results -> writers: the one loop that the command line, the evaluation and a program share."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tubelet.data.dataset import VideoItem, list_images, read_mask
from tubelet.data.semantic import SemanticVideo
from tubelet.models.base import Result, Session, TrackSession
from tubelet.types import MAX_OBJECT_ID, Frame, LabelFrame, LabelVideo, Prompt, Track, TrackFrame, decode_rle
from tubelet.video.read import Video, read
from tubelet.video.write import LabelPngs, Mp4, RleJson, YtvisJson
from tubelet.viz.draw import class_overlay, contact_sheet, overlay
from tubelet.viz.palette import VOC
from tubelet.viz.progress import progress

Prompts = Mapping[int, Prompt]


def follow(
    frames: Iterable[Frame], session: Session[LabelFrame], prompts: "Prompts | MaskFolder | Path | str"
) -> Iterator[tuple[Frame, LabelFrame]]:
    """Feeds a video to a session; yields every frame with its result as soon as it is final.

    `prompts`: frame index -> `Prompt`, or the mask file of the first frame. Holds only the frames whose results the
    session still owes. Raises `ValueError` for a mask without an object or of another size than its frame."""
    if isinstance(prompts, str | Path):
        prompts = {0: first_prompt(prompts)}
    at = prompts.at if isinstance(prompts, MaskFolder) else lambda frame: prompts.get(frame.index)
    yield from watch(frames, session, at)


def watch(
    frames: Iterable[Frame], session: Session[Result], prompt: Callable[[Frame], Prompt | None] = lambda frame: None
) -> Iterator[tuple[Frame, Result]]:
    """Feeds a video to a session; yields every frame with its result as soon as it is final."""
    owed: dict[int, Frame] = {}
    for frame in frames:
        owed[frame.index] = frame
        for result in session.feed(frame, prompt(frame)):
            yield owed.pop(result.index), result
    for result in session.finish():
        yield owed.pop(result.index), result


def first_prompt(path: str | Path) -> Prompt:
    """The mask file of the first frame as a prompt. Raises `ValueError` if it shows no object."""
    prompt = Prompt(read_mask(path))
    if not prompt.objects():
        raise ValueError(f"{path} shows no object: every pixel is background; paint what to follow with ids 1, 2, ...")
    return prompt


class MaskFolder:
    """Masks of some frames, as files: `NAME.png` belongs to the frame of that name, or else to the frame whose index
    is the number at the end of NAME. They are read when their frame comes."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"there is no folder of masks {self.folder}")
        self.files = {path.stem: path for path in list_images(self.folder, {".png"})}
        if not self.files:
            raise FileNotFoundError(f"there is no PNG mask in {self.folder}")
        self.numbers = {int(number): stem for stem in self.files if (number := trailing_number(stem)) is not None}
        self.used: set[str] = set()

    def at(self, frame: Frame) -> Prompt | None:
        """The prompt of a frame, if there is a mask for it."""
        stem = frame.name if frame.name in self.files else self.numbers.get(frame.index)
        if stem is None or stem in self.used:
            return None
        self.used.add(stem)
        return first_prompt(self.files[stem]) if len(self.used) == 1 else Prompt(read_mask(self.files[stem]))

    @property
    def unused(self) -> list[str]:
        """Masks for which no frame has come."""
        return sorted(set(self.files) - self.used)


def trailing_number(stem: str) -> str | None:
    digits = stem[len(stem.rstrip("0123456789")) :]
    return digits or None


@dataclass
class Thumbnails:
    """At most `most` small pictures spread evenly over a stream of unknown length, `width` wide, at most twice as
    high."""

    most: int = 16
    width: int = 480
    every: int = 1
    images: list[UInt8[np.ndarray, "_ _ 3"]] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)

    def wants(self, index: int) -> bool:
        return index % self.every == 0

    def add(self, image: UInt8[np.ndarray, "_ _ 3"], title: str) -> None:
        if len(self.images) == self.most:  # keep every other one, and be half as eager from now on
            self.images, self.titles, self.every = self.images[::2], self.titles[::2], 2 * self.every
        h, w = image.shape[:2]
        scale = min(self.width / w, 2 * self.width / h)
        size = max(1, round(w * scale)), max(1, round(h * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        if size[0] < self.width:  # a sheet makes pictures equally wide, and this one would become a tower
            missing = self.width - size[0]
            small = np.pad(small, ((0, 0), (missing // 2, missing - missing // 2), (0, 0)), constant_values=128)
        self.images.append(small)
        self.titles.append(title)

    def save(self, path: Path) -> None:
        sheet = contact_sheet(self.images, columns=4, titles=self.titles)
        part = path.with_name(path.name + ".part")
        Image.fromarray(sheet).save(part, format="PNG")
        part.replace(path)


@dataclass(frozen=True)
class Summary:
    """What a run did: `frames`, `objects` followed at any time, `seconds` in all and `model_seconds` in the session."""

    frames: int
    objects: tuple[int, ...]
    seconds: float
    model_seconds: float

    @property
    def fps(self) -> float:
        """Frames per second of the model alone."""
        return self.frames / max(self.model_seconds, 1e-9)


class Timed(Session[Result]):
    """A session that also says how long it has been at work."""

    def __init__(self, session: Session[Result]):
        self.session, self.seconds = session, 0.0

    def feed(self, frame: Frame, prompt: Prompt | None = None) -> list[Result]:
        began = time.perf_counter()
        results = self.session.feed(frame, prompt)
        self.seconds += time.perf_counter() - began
        return results

    def finish(self) -> list[Result]:
        began = time.perf_counter()
        results = self.session.finish()
        self.seconds += time.perf_counter() - began
        return results


def predict(
    video: Video,
    session: Session[LabelFrame],
    prompts: "Prompts | MaskFolder",
    out: Path,
    *,
    draw: bool = True,
    fps: float | None = None,
) -> Summary:
    """Follows objects through a video and writes, as the stream goes, into `out`: `masks/NAME.png`, `masks.json`
    (COCO RLE), and with `draw` `overlay.mp4` and `contact_sheet.png`.

    A run that dies leaves the finished masks and `.part` files, nothing that looks complete."""
    timed, began, objects = Timed(session), time.perf_counter(), set()

    def write(frame: Frame, result: LabelFrame) -> None:
        pngs.write(result.labels, frame.name)
        rle.write(result.labels, frame.name, objects=result.objects)
        objects.update(result.objects)

    with (
        LabelPngs(out / "masks", VOC) as pngs,
        RleJson(out / "masks.json") as rle,
        Drawn(video, out, draw, fps) as drawn,
    ):
        results = follow(progress(video, total=video.frame_count), timed, prompts)
        frames = drawn.run(results, write, lambda frame, result: overlay(frame.rgb, result.labels, names={}))
        check_used(prompts, objects, video.name)
    return Summary(frames, tuple(sorted(objects)), time.perf_counter() - began, timed.seconds)


def predict_tracks(
    video: Video,
    session: TrackSession,
    classes: Sequence[str],
    out: Path,
    *,
    draw: bool = True,
    show: float = 0.3,
    fps: float | None = None,
) -> tuple[Summary, list[Track]]:
    """Finds, labels and tracks what is in a video and writes, as the stream goes, into `out`: `tracks.json` (the format
    of YouTube-VIS results, categories numbered from 1 in the order of `classes`), and with `draw` `overlay.mp4` and
    `contact_sheet.png`, which show tracks of at least the score `show`.

    Returns what was done, and the tracks, best first. A run that dies leaves `.part` files, nothing that looks
    complete."""
    timed, began = Timed(session), time.perf_counter()
    with YtvisJson(out / "tracks.json") as rle, Drawn(video, out, draw, fps) as drawn:
        frames = drawn.run(
            watch(progress(video, total=video.frame_count), timed),
            lambda frame, result: rle.write(result, frame.name),
            lambda frame, result: draw_tracks(frame.rgb, result, classes, show=show),
        )
        rle.tracks = session.tracks()
    ids = tuple(sorted({track.id for track in rle.tracks}))
    return Summary(frames, ids, time.perf_counter() - began, timed.seconds), list(rle.tracks)


def predict_classes(
    video: Video,
    session: Session[LabelFrame],
    classes: Sequence[str],
    palette: UInt8[np.ndarray, "256 3"],
    out: Path,
    *,
    draw: bool = True,
    fps: float | None = None,
) -> Summary:
    """Gives every pixel of a video a class and writes, as the stream goes, into `out`: `classes/NAME.png`, whose values
    are indices of `classes`, and with `draw` `overlay.mp4` and `contact_sheet.png` with a legend. `palette`: the colour
    of each class. `objects` of the summary are the classes that were seen.

    A run that dies leaves the finished PNGs and `.part` files, nothing that looks complete."""
    timed, began, seen = Timed(session), time.perf_counter(), np.zeros(256, bool)

    def write(frame: Frame, result: LabelFrame) -> None:
        pngs.write(result.labels, frame.name)
        seen[np.unique(result.labels)] = True

    with LabelPngs(out / "classes", palette) as pngs, Drawn(video, out, draw, fps) as drawn:
        frames = drawn.run(
            watch(progress(video, total=video.frame_count), timed),
            write,
            lambda frame, result: class_overlay(frame.rgb, result.labels, classes, palette),
        )
    return Summary(frames, tuple(np.flatnonzero(seen).tolist()), time.perf_counter() - began, timed.seconds)


class Drawn:
    """`overlay.mp4` and `contact_sheet.png` of a video in `out`, if `draw`; in a `with` of the writers beside it."""

    def __init__(self, video: Video, out: Path, draw: bool, fps: float | None):
        self.video, self.out = video, out
        self.mp4 = Mp4(out / "overlay.mp4", fps or video.fps or 25) if draw else None
        self.thumbnails = Thumbnails()

    def run(
        self,
        results: Iterable[tuple[Frame, Result]],
        write: Callable[[Frame, Result], None],
        picture: Callable[[Frame, Result], UInt8[np.ndarray, "H W 3"]],
    ) -> int:
        """Writes and draws each result as it comes; how many there were. Raises `ValueError` if there were none."""
        frames = 0
        for frame, result in results:
            write(frame, result)
            frames += 1
            if self.mp4 is None:
                continue
            drawn = picture(frame, result)
            self.mp4.write(drawn)
            if self.thumbnails.wants(frame.index):
                self.thumbnails.add(drawn, f"frame {frame.name}")
        if not frames:
            raise ValueError(f"{self.video.name} has no frame")
        return frames

    def __enter__(self) -> "Drawn":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.mp4 is not None:
            self.mp4.close(complete=kind is None)
            if kind is None:
                self.thumbnails.save(self.out / "contact_sheet.png")


def predict_set(
    videos: Iterable[tuple[int, Iterable[Frame]]],
    new_session: Callable[[], TrackSession],
    path: Path,
    *,
    categories: Sequence[int] | None = None,
) -> Summary:
    """The result file of a whole set of videos (id, frames), each through a session of its own.

    `categories`: the category id of each class (None: its index + 1). The file is there when all videos are done; until
    then, and if the run dies, there is `PATH.part`."""
    began, count, seconds, found = time.perf_counter(), 0, 0.0, 0
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open("w", encoding="ascii") as out, tempfile.TemporaryDirectory() as folder:
        out.write("[")
        for video_id, frames in videos:
            own, session = Path(folder) / "video.json", new_session()
            timed = Timed(session)
            with YtvisJson(own, video_id=video_id, categories=categories) as rle:
                for frame, result in watch(frames, timed):
                    rle.write(result, frame.name)
                    count += 1
                rle.tracks = session.tracks()
            for entry in json.loads(own.read_text(encoding="ascii")):
                out.write(("," if found else "") + "\n" + json.dumps(entry))
                found += 1
            seconds += timed.seconds
        out.write("\n]\n")
    part.replace(path)
    return Summary(count, (), time.perf_counter() - began, seconds)


def draw_tracks(
    rgb: UInt8[np.ndarray, "H W 3"], result: TrackFrame, classes: Sequence[str], *, show: float
) -> UInt8[np.ndarray, "H W 3"]:
    """The frame with its tracks of at least the score `show`, the best on top, each with class, score and id."""
    labels, names = np.zeros(result.size, np.uint8), {}
    best = {track.id: track for track in reversed(result.tracks) if track.score >= show}
    for track in best.values():  # worst first
        colour = (track.id - 1) % MAX_OBJECT_ID + 1
        labels[decode_rle(result.masks[track.id])] = colour
        names[colour] = f"{classes[track.category]} {track.score:.2f} #{track.id}"
    return overlay(rgb, labels, names=names)


def check_used(prompts: "Prompts | MaskFolder", objects: set[int], name: str) -> None:
    """Raises `ValueError` if masks were given for frames that never came."""
    if isinstance(prompts, MaskFolder) and prompts.unused:
        lost = ", ".join(prompts.unused[:3])
        raise ValueError(
            f"{len(prompts.unused)} of {len(prompts.files)} masks in {prompts.folder} belong to no frame of {name} "
            f"(first {lost}); a mask is named like its frame, or ends in the frame's index"
        )
    if not objects:
        raise ValueError(f"no mask of an object was given for any frame of {name}")


def label_video(frames: Iterable[Frame], session: Session[LabelFrame], prompts: "Prompts | Path | str") -> LabelVideo:
    """The whole answer for a video in memory, as RLE."""
    out: LabelVideo | None = None
    for _, result in follow(frames, session, prompts):
        out = out or LabelVideo(*result.labels.shape)
        out.append(result)
    if out is None:
        raise ValueError("the video has no frame")
    return out


def predict_item(item: VideoItem, session: Session[LabelFrame], folder: Path) -> Summary:
    """Follows the objects of a data set's video from its own first masks; writes `folder/FRAME.png`."""
    timed, began, objects = Timed(session), time.perf_counter(), set()
    frames = (item.load_frame(i) for i in range(len(item)))
    with LabelPngs(folder, VOC) as pngs:
        for frame, result in follow(frames, timed, item.prompts()):
            pngs.write(result.labels, frame.name)
            objects |= set(result.objects)
    return Summary(len(item), tuple(sorted(objects)), time.perf_counter() - began, timed.seconds)


def label_item(
    video: SemanticVideo,
    session: Session[LabelFrame],
    folder: Path,
    palette: UInt8[np.ndarray, "256 3"],
    *,
    labelled_only: bool = False,
) -> Summary:
    """Gives every pixel of a data set's video a class; writes `folder/FRAME.png`, of all frames or of those with
    labels."""
    timed, began = Timed(session), time.perf_counter()
    frames = (video.load_frame(i) for i in range(len(video)))
    with LabelPngs(folder, palette) as pngs:
        for frame, result in watch(frames, timed):
            if frame.index in video.labels or not labelled_only:
                pngs.write(result.labels, frame.name)
    return Summary(len(video), (), time.perf_counter() - began, timed.seconds)


def open_video(source: str, *, on_error: str) -> Video:
    """`video.read`, where a string of digits is a camera's index."""
    return read(int(source) if source.isdigit() else source, on_error=on_error)
