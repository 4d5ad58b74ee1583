"""Results out, as the stream goes: palette PNGs, an H.264 mp4, COCO RLE JSON.

What is unusual here: nothing bears its final name before it is complete. A run that dies leaves the finished
PNGs, and `NAME.part` files that hold what came until then (the mp4 part plays, the JSON part is one line per
frame)."""

import contextlib
import json
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8
from PIL import Image

from tubelet.types import Track, TrackFrame, encode_rle, visible

H264 = ("libx264", "libopenh264", "h264_videotoolbox")
Writer = TypeVar("Writer", bound="_Writer")  # beartype does not take Self on single methods


class _Writer:
    """`with` closes a writer: completed if all went well, left as a part if an exception is on its way."""

    def __enter__(self: Writer) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)

    def close(self, *, complete: bool = True) -> None:
        """Gives the output its final name if `complete`, else leaves what there is under a part's name."""


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _cannot_write(path: Path, error: Exception) -> OSError:
    reason = getattr(error, "strerror", None) or str(error)
    return OSError(f"cannot write {path}: {reason}; free some space or choose another output folder")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


class LabelPngs(_Writer):
    """A folder of indexed PNGs, one per frame, pixel value = id (the format of DAVIS and YouTube-VOS).

    palette: (256, 3) RGB, for viewers only."""

    def __init__(self, folder: str | Path, palette: UInt8[np.ndarray, "256 3"]) -> None:
        self.folder, self._palette = Path(folder), palette.tobytes()
        _make_folder(self.folder)

    def write(self, labels: UInt8[np.ndarray, "H W"], name: str) -> None:
        """Writes `name`.png. Raises `OSError` if it cannot be written; no half file is left with that name."""
        path = self.folder / f"{name}.png"
        image = Image.fromarray(labels)  # grey; the palette makes it indexed, with the same values
        image.putpalette(self._palette)
        part = _part(path)
        try:
            image.save(part, format="PNG")
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise _cannot_write(path, error) from error


class Mp4(_Writer):
    """An H.264 mp4 (yuv420p, plays everywhere). Odd sizes grow by one repeated row or column.

    While it is being written it is a fragmented mp4 named `PATH.part`, which plays up to its last whole
    fragment (about one second); a clean close makes it an ordinary mp4 and renames it. crf: quality, 0
    (lossless) .. 51, 18 looks like the original."""

    def __init__(self, path: str | Path, fps: float | int, *, crf: int = 20) -> None:
        self.path, self._rate, self._crf = Path(path), Fraction(fps).limit_denominator(1001), crf
        if not self._rate > 0:
            raise ValueError(f"the frame rate of {self.path} must be above 0, not {fps}")
        _make_folder(self.path.parent)
        options = {"movflags": "hybrid_fragmented", "flush_packets": "1"}  # each fragment to the disk at once
        try:
            self._container: Any = av.open(str(_part(self.path)), "w", format="mp4", options=options)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self._stream: Any = None

    def write(self, rgb: UInt8[np.ndarray, "H W 3"]) -> None:
        """Appends a frame. Raises `ValueError` if its size changes, `OSError` if it cannot be written."""
        if self._stream is None:
            self._stream, self._size = self._start(*rgb.shape[:2]), rgb.shape
        if rgb.shape != self._size:
            raise ValueError(
                f"{self.path} is {self._size[1]}x{self._size[0]} but this frame is {rgb.shape[1]}x{rgb.shape[0]}"
            )
        odd = (rgb.shape[0] % 2, rgb.shape[1] % 2)
        even = np.pad(rgb, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else rgb
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        try:
            self._container.mux(self._stream.encode(frame))
        except (FFmpegError, OSError) as error:
            raise _cannot_write(self.path, error) from error

    def close(self, *, complete: bool = True) -> None:
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            if self._stream is not None:
                container.mux(self._stream.encode(None))
            container.close()
        except (FFmpegError, OSError) as error:
            with contextlib.suppress(FFmpegError, OSError):  # the same again
                container.close()
            if complete:
                raise _cannot_write(self.path, error) from error
            return
        if self._stream is None:  # not one frame came: no video, and no part of one
            _part(self.path).unlink(missing_ok=True)
        elif complete:
            os.replace(_part(self.path), self.path)

    def _start(self, height: int, width: int) -> Any:
        codec = next((name for name in H264 if name in av.codecs_available), "mpeg4")
        if codec == "mpeg4":
            warnings.warn("this build of FFmpeg has no H.264 encoder; writing MPEG-4 part 2", stacklevel=3)
        options = {"crf": str(self._crf), "preset": "veryfast"} if codec == "libx264" else {}
        stream: Any = self._container.add_stream(codec, rate=self._rate, options=options)
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = max(1, round(self._rate))
        return stream


class _RleSpool(_Writer, ABC):
    """Masks of tracks that arrive frame by frame and leave track by track, without being held in memory.

    Until a clean close there is only `PATH.part`, JSON lines: `{"frame": name}`, then one line
    `{"id": 1, "size": [H, W], "counts": "..."}` per object visible in it. In memory: where each line begins, and the
    names."""

    def __init__(self, path: str | Path) -> None:
        self.path, self._size = Path(path), (0, 0)
        self._names: list[str] = []
        self._places: dict[int, dict[int, int]] = {}  # id -> frame -> where in the part its line begins
        _make_folder(self.path.parent)
        try:
            self._part: Any = _part(self.path).open("w+", encoding="ascii", newline="\n")
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def _append(self, name: str, size: tuple[int, int], masks: Iterable[tuple[int, dict]]) -> None:
        if self._names and size != self._size:
            raise ValueError(f"the masks of {self.path} are {self._size} (H, W) but {name} is {size}")
        self._size = size
        try:
            self._line({"frame": name})
            for i, rle in masks:
                self._places.setdefault(i, {})[len(self._names)] = self._part.tell()
                self._line({"id": i, "size": rle["size"], "counts": rle["counts"]})
            self._part.flush()
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self._names.append(name)

    def close(self, *, complete: bool = True) -> None:
        if self._part.closed:
            return
        whole = self.path.with_name(self.path.name + ".tmp")
        try:
            if complete:
                with whole.open("w", encoding="ascii") as out:
                    self._join(out)
            self._part.close()
        except OSError as error:
            whole.unlink(missing_ok=True)
            if complete:
                raise _cannot_write(self.path, error) from error
        if complete:
            os.replace(whole, self.path)
            _part(self.path).unlink()

    @abstractmethod
    def _join(self, out: TextIO) -> None:
        """Writes the final file, reading the masks back from the part."""

    def _line(self, record: dict[str, Any]) -> None:
        self._part.write(json.dumps(record, separators=(",", ":")) + "\n")

    def _write_segmentations(self, out: TextIO, i: int) -> None:
        """`[RLE or null, ...]`, one per frame."""
        out.write("[")
        for t in range(len(self._names)):
            out.write((", " if t else "") + json.dumps(self._segmentation(i, t)))
        out.write("]")

    def _segmentation(self, i: int, t: int) -> dict[str, Any] | None:
        place = self._places.get(i, {}).get(t)
        if place is None:
            return None
        self._part.seek(place)
        record = json.loads(self._part.readline())
        return {"size": record["size"], "counts": record["counts"]}


class RleJson(_RleSpool):
    """Followed objects as COCO RLE in one JSON file:

        {"height": H, "width": W, "frames": [name, ...],
         "tracks": [{"id": 1, "segmentations": [{"size": [H, W], "counts": "..."} or null, ...]}, ...]}

    with one segmentation per frame for every id ever followed, `null` where it is not visible. `counts` is
    the compressed string that `pycocotools.mask.decode` reads. Before a clean close: see `_RleSpool`."""

    def write(self, labels: UInt8[np.ndarray, "H W"], name: str, *, objects: Iterable[int] = ()) -> None:
        """Appends a frame. `objects`: ids being followed, so that one never visible gets its track of nulls
        too.

        Raises `ValueError` if the size changes, `OSError` if it cannot be written."""
        size = (labels.shape[0], labels.shape[1])
        self._append(name, size, ((i, encode_rle(labels == i)) for i in visible(labels)))
        for i in objects:
            self._places.setdefault(int(i), {})

    def _join(self, out: TextIO) -> None:
        height, width = self._size
        head = {"height": height, "width": width, "frames": self._names}
        out.write(json.dumps(head)[:-1] + ', "tracks": [')
        for k, i in enumerate(sorted(self._places)):
            out.write(f'{"," if k else ""}\n{{"id": {i}, "segmentations": ')
            self._write_segmentations(out, i)
            out.write("}")
        out.write("\n]}\n")


class YtvisJson(_RleSpool):
    """The tracks of one video as a YouTube-VIS result file, a list with one entry per track:

        {"video_id": 1, "category_id": 3, "score": 0.9, "segmentations": [{"size": [H, W], "counts": "..."} or null]}

    Set `tracks` before a clean close; `category_id` is the class index plus 1, or what `categories` says.
    Before a clean close: see `_RleSpool`."""

    def __init__(self, path: str | Path, *, video_id: int = 1, categories: Sequence[int] | None = None) -> None:
        super().__init__(path)
        self.tracks: Sequence[Track] | None = None
        self._video_id, self._categories = video_id, categories

    def write(self, result: TrackFrame, name: str) -> None:
        """Appends a frame. Raises `ValueError` if the size changes, `OSError` if it cannot be written."""
        self._append(name, result.size, result.masks.items())

    def _join(self, out: TextIO) -> None:
        assert self.tracks is not None, "say what the tracks are before the file is closed"
        out.write("[")
        for k, track in enumerate(self.tracks):
            category = track.category + 1 if self._categories is None else self._categories[track.category]
            head = {"video_id": self._video_id, "category_id": category, "score": track.score, "track_id": track.id}
            out.write(("," if k else "") + "\n" + json.dumps(head)[:-1] + ', "segmentations": ')
            self._write_segmentations(out, track.id)
            out.write("}")
        out.write("\n]\n")
