"""Decoding a video file, URL or camera with PyAV, and noticing what FFmpeg keeps quiet about.

FFmpeg conceals damage and ends early without a word, so three things are watched: the decoder's own "corrupt"
marks, the packets that the container's index promises, and the seconds that its header promises.

Not noticed, because the file carries nothing to notice it by: flipped bits that still decode, an MPEG-TS or a
fragmented mp4 that ends on a packet's edge, a hole in the middle of an mkv whose next packet is a key
frame."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from jaxtyping import UInt8

END_SLACK = 0.2  # seconds (plus the longest gap seen) a file may end before its header says


class Picture(NamedTuple):
    rgb: np.ndarray
    time: float | None
    name: str  # empty: named by its index


class Damage(NamedTuple):
    """Stands in the stream where a picture is missing."""

    reason: str


def facts(path: str) -> dict[str, Any]:
    """What a file says of itself: `frame_count`, whether that is `estimated`, `fps`, `size` (H, W)."""
    with _open(path) as container:
        stream = _stream(container, path)
        rate = stream.average_rate or stream.guessed_rate
        count, estimated = _indexed_pictures(container, stream) or stream.frames or None, False
        if count is None and rate and container.duration:
            count, estimated = round(container.duration / av.time_base * rate), True
        first = next((p for p in _decode(container, stream) if isinstance(p, Picture)), None)
    size = None if first is None else first.rgb.shape[:2]
    return {"frame_count": count, "estimated": estimated, "fps": float(rate) if rate else None, "size": size}


def pictures(address: str, kind: str | None = None) -> Iterator[Picture | Damage]:
    """Opens and decodes a file, URL or camera (`kind`: its FFmpeg input format), picture by picture."""
    with _open(address, kind) as container:
        yield from _decode(container, _stream(container, address))


def _open(address: str, kind: str | None = None) -> Any:
    try:
        container = av.open(address, format=kind)
    except (FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, OSError):
            raise OSError(f"cannot open the video {address}: {reason}") from error
        raise ValueError(f"{address} is not a video that can be read, or its head is damaged: {reason}") from error
    if container.format.name == "tty":  # FFmpeg would draw any text file as a video
        container.close()
        raise ValueError(f"{address} is a text file, not a video")
    return container


def _stream(container: Any, address: str) -> Any:
    covers = Disposition.attached_pic  # the picture in a music file is no video
    for stream in container.streams.video:
        if not stream.disposition & covers:
            stream.thread_type = "AUTO"
            return stream
    raise ValueError(f"{address} has no video in it, only {_kinds(container)}")


def _kinds(container: Any) -> str:
    return " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _decode(container: Any, stream: Any) -> Iterator[Picture | Damage]:
    """The pictures in display order. A picture that the decoder had to invent, and the end of a file that
    should have gone on, is a `Damage`; so is a refused packet, at the place where its picture is missing."""
    end = _End(container, stream)
    waiting: list[int] = []  # when the pictures inside the decoder are due: it works ahead, and reports errors late
    error, start = "", None
    for packet in _packets(container, stream, end):
        if packet is not None and packet.pts is not None and not packet.is_discard:
            waiting.append(packet.pts)
        try:
            frames = stream.codec_context.decode(packet)
        except FFmpegError as refused:
            error, frames = refused.strerror or "error of the decoder", []
        for frame in frames:
            if error and _passed_over(waiting, frame.pts):
                yield Damage(error)
                error = ""
            if frame.is_corrupt:
                yield Damage("damaged data")
                continue
            time = None if frame.pts is None else float(frame.pts * stream.time_base)
            start = time if start is None else start
            yield Picture(_upright(frame), None if time is None or start is None else time - start, "")
            waiting = [pts for pts in waiting if frame.pts is None or pts > frame.pts]
    if error or (error := end.missing()):
        yield Damage(error)


def _passed_over(waiting: list[int], pts: int | None) -> bool:
    """Whether a picture was due before `pts` and did not come (yes if there are no times to tell by)."""
    return pts is None or not waiting or min(waiting) < pts


def _packets(container: Any, stream: Any, end: "_End") -> Iterator[Any]:
    """The stream's whole packets, then `None` (which empties the decoder)."""
    try:
        for packet in container.demux():  # all streams, since the sound also tells how long the file is
            if packet.dts is None and not packet.size:
                continue
            end.see(packet, packet.stream_index == stream.index)
            if packet.stream_index == stream.index and not packet.is_corrupt:
                yield packet
    except FFmpegError as error:
        end.error = error.strerror or "the file ends early"
    yield None


def _upright(frame: Any) -> UInt8[np.ndarray, "H W 3"]:
    rgb = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # degrees, counter-clockwise
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


# ---- has the file ended where it should?


def _indexed_pictures(container: Any, stream: Any) -> int | None:
    """How many pictures the container's own index shows, where it has a whole one (edit lists hide some)."""
    kind = container.format.name
    if kind == "gif":
        return stream.frames
    if stream.frames and ("mp4" in kind or (kind == "avi" and len(stream.index_entries) >= stream.frames)):
        return sum(not entry.is_discard and entry.size > 0 for entry in stream.index_entries)
    return None


def _promised_seconds(container: Any, stream: Any) -> float | None:
    """The duration in the header, for the containers where FFmpeg reads it there and does not guess."""
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)
    if "matroska" in container.format.name and container.duration:
        return container.duration / av.time_base
    return None


class _End:
    """Compares what came out of a container with what it promised."""

    def __init__(self, container: Any, stream: Any) -> None:
        self.pictures = _indexed_pictures(container, stream)
        self.seconds = _promised_seconds(container, stream)
        self.gif = container.name if container.format.name == "gif" else None
        self.start = (container.start_time or 0) / av.time_base
        self.error, self.seen, self.last, self.gap = "", 0, 0.0, 0.0

    def see(self, packet: Any, of_video: bool) -> None:
        if of_video and packet.is_corrupt:
            self.error = "the file ends early" if self.pictures is not None else "damaged data"
        self.seen += of_video and packet.size > 0 and not (packet.is_corrupt or packet.is_discard)
        time = packet.dts if packet.pts is None else packet.pts
        if time is None or not packet.time_base:
            return
        ends = float((time + (packet.duration or 0)) * packet.time_base) - self.start
        if of_video:
            self.gap = max(self.gap, ends - self.last)
        self.last = max(self.last, ends)

    def missing(self) -> str:
        """What is wrong, or nothing."""
        if self.error:
            return self.error
        if self.pictures is not None and self.seen < self.pictures:
            return "the file ends early or has holes"
        if self.seconds is not None and self.last + self.gap + END_SLACK < self.seconds:
            return f"the file ends at {self.last:.1f} s but its header says {self.seconds:.1f} s"
        if self.gif and not Path(self.gif).read_bytes()[-64:].rstrip(b"\0").endswith(b";"):
            return "the gif ends early"
        return ""
