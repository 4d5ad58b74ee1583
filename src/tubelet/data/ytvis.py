"""YouTube-VIS 2019, 2021 and 2022, OVIS, and every file like theirs.

    ROOT/JPEGImages/VIDEO/00000.jpg     the frames; a video's `file_names` are relative to that folder
    instances.json                      {"videos": [...], "categories": [...], "annotations": [...]}

An annotation is one instance through its whole video: `segmentations` has one entry per frame, null where it is
absent, else a COCO RLE, compressed or not, or a list of polygons. OVIS adds `occlusion`, likewise one per frame.
Masks stay encoded until they are asked for.
"""

import math
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as coco

from tubelet.data.json_stream import open_json, stream_json

FAR = 1e6  # pixels; no polygon of an image reaches as far
OCCLUSION = ("no_occlusion", "slight_occlusion", "severe_occlusion")
LAYOUT = '{"videos": [...], "categories": [...], "annotations": [...]}'


@dataclass(frozen=True)
class VISVideo:
    """One video: `size` is (height, width) in pixels, `file_names` are its frames in order of time."""

    id: int
    size: tuple[int, int]
    file_names: tuple[str, ...]
    length: int
    root: Path | None = None

    @property
    def name(self) -> str:
        """The folder of its frames, else its id."""
        return str(Path(self.file_names[0]).parent) if self.file_names else str(self.id)

    @property
    def frame_paths(self) -> list[Path]:
        """Raises `ValueError` if the file was read without a folder of frames."""
        if self.root is None:
            raise ValueError(f"where the frames of video {self.name} are is not known; give `frames` to `read_ytvis`")
        return [self.root / name for name in self.file_names]

    def load_frame(self, t: int) -> UInt8[np.ndarray, "H W 3"]:
        """Frame t, RGB 0..255. Raises `FileNotFoundError`, `OSError` (damaged), `ValueError` (of another size)."""
        from tubelet.video.read import read_image

        rgb = read_image(self.frame_paths[t])
        if rgb.shape[:2] != self.size:
            raise ValueError(
                f"{self.frame_paths[t]} is {_wxh(rgb.shape)}, but its video is said to be {_wxh(self.size)}; "
                "are these the frames of that file?"
            )
        return rgb


@dataclass(frozen=True)
class VISInstance:
    """One instance through its video, or one prediction of a result file (then `score` is set).

    `segmentations`, `areas` and `occlusion` have one entry per frame; the last two are empty where the file has none.
    `size` is the video's (height, width)."""

    id: int
    video_id: int
    category_id: int
    segmentations: Sequence[Any]
    size: tuple[int, int]
    iscrowd: bool = False
    areas: Sequence[Any] = ()  # these two as the file has them, wrong or not: `validate_ytvis` says
    occlusion: Sequence[Any] = ()
    score: float | None = None

    def visible(self, t: int) -> bool:
        """Whether the file has a mask for frame t (which may still be empty)."""
        return bool(self.segmentations[t])

    def rle(self, t: int) -> dict | None:
        """Compressed COCO RLE of frame t, as `to_rle` gives it; None if absent. Raises likewise."""
        return to_rle(self.segmentations[t], self.size)

    def rles(self) -> list[dict | None]:
        """`rle` of all frames, quickly. Raises `ValueError` naming the frame."""
        if _all_compressed([s for s in self.segmentations if s], self.size):
            return [s or None for s in self.segmentations]
        out: list[dict | None] = []
        try:
            for segmentation in self.segmentations:
                out.append(to_rle(segmentation, self.size))
        except ValueError as error:
            raise ValueError(f"frame {len(out)}: {error}") from None
        return out

    def mask(self, t: int) -> Bool[np.ndarray, "H W"]:
        """The mask of frame t, all False if absent. Raises like `to_rle`."""
        rle = self.rle(t)
        return np.zeros(self.size, bool) if rle is None else coco.decode(rle).astype(bool)  # pyright: ignore


@dataclass(frozen=True)
class VISData:
    """A read file: its videos by id, its categories (id -> name), and the instances of each video."""

    videos: dict[int, VISVideo]
    categories: dict[int, str]
    instances: dict[int, list[VISInstance]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.videos)

    def labels(self, video_id: int, t: int) -> UInt8[np.ndarray, "H W"]:
        """Frame t as an id map: instance i of `instances[video_id]` is i + 1; a later one covers, crowds are 255.

        Raises `ValueError` if a video has more than 254 instances."""
        instances = self.instances.get(video_id, [])
        if len(instances) > 254:
            raise ValueError(f"video {video_id} has {len(instances)} instances; an id map holds 254 at most")
        out = np.zeros(self.videos[video_id].size, np.uint8)
        for i, instance in enumerate(instances):
            if instance.visible(t):
                out[instance.mask(t)] = 255 if instance.iscrowd else i + 1
        return out


def read_ytvis(path: Path | str, *, frames: Path | str | None = None) -> VISData:
    """Reads a YouTube-VIS or OVIS file (plain, .gz or .zip). `frames` is the folder that `file_names` start from.

    Files without annotations (valid, test) give no instances. Raises `FileNotFoundError`, or `ValueError` naming the
    entry that is wrong: not JSON, another layout, an id twice or unknown, a list of another length than the video."""
    data, entries = VISData({}, {}), []
    for key, value in stream_json(path):
        if key == "annotations" and value is not None:
            entries.append(value)  # they may come before the videos
        else:
            add_header(data, key, value, path, None if frames is None else Path(frames))
    check_header(data, path)
    seen: set[int] = set()
    for entry in entries:
        instance = read_annotation(data, entry, path)
        if instance.id in seen:
            raise ValueError(f"{path} has two annotations with the id {instance.id}; ids must differ")
        seen.add(instance.id)
        data.instances.setdefault(instance.video_id, []).append(instance)
    return data


def add_header(data: VISData, key: str | None, value: Any, path: Path | str, frames: Path | None = None) -> None:
    """Takes one element of `stream_json` into the videos or categories of `data`."""
    if key is None:
        raise ValueError(f"{path} holds a list, so it looks like a result file; expected the truth, {LAYOUT}")
    if key not in ("videos", "categories"):
        return
    try:
        if key == "categories":
            into, new = data.categories, str(value["name"])
        else:
            into, new = data.videos, _video(value, frames)
        number = _whole(value, "id")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has an entry in {key} that cannot be read ({_said(error)})") from None
    if number in into:
        raise ValueError(f"{path} has the id {number} twice in {key}; ids must differ")
    into[number] = new  # pyright: ignore[reportArgumentType]


def _video(value: dict, frames: Path | None) -> VISVideo:
    names = tuple(value.get("file_names") or ())
    length = len(names) if value.get("length") is None else _whole(value, "length")
    if names and len(names) != length:
        raise ValueError(f"video {value['id']} has {len(names)} file_names, but its length is {length}")
    return VISVideo(_whole(value, "id"), (_whole(value, "height"), _whole(value, "width")), names, length, frames)


def check_header(data: VISData, path: Path | str) -> None:
    """Raises `ValueError` unless the file has videos and categories."""
    if missing := [name for name in ("videos", "categories") if not getattr(data, name)]:
        raise ValueError(f"{path} has no {' and no '.join(missing)}; expected {LAYOUT}")


def read_annotation(data: VISData, entry: Any, path: Path | str) -> VISInstance:
    """One entry of `annotations`. Raises `ValueError` if it does not fit the videos and categories."""
    name = f"annotation {entry.get('id')}" if isinstance(entry, dict) else "an annotation"
    instance = _instance(data, entry, f"{path}: {name}", _whole, "id")
    for part in ("areas", "occlusion"):
        if len(values := getattr(instance, part)) not in (0, len(instance.segmentations)):
            raise ValueError(
                f"{path}: {name} has {len(values)} {part} but {len(instance.segmentations)} segmentations; "
                "both have one entry per frame"
            )
    if unknown := [x for x in instance.occlusion if x is not None and x not in OCCLUSION]:
        raise ValueError(f"{path}: {name} has the occlusion {unknown[0]!r}; expected {', '.join(OCCLUSION)} or null")
    return instance


def read_prediction(data: VISData, entry: Any, number: int, path: Path | str) -> VISInstance:
    """Element `number` (from 1, which is its id) of a result file. Raises `ValueError` if it does not fit `data`."""
    return _instance(data, entry, f"{path}: prediction {number}", lambda *_: number, "score")


def _instance(data: VISData, entry: Any, name: str, number: Any, needed: str) -> VISInstance:
    if not isinstance(entry, dict):
        raise ValueError(f"{name} is {type(entry).__name__}; expected an object with video_id, category_id, ...")
    wanted = ("video_id", "category_id", "segmentations", needed)
    if missing := [key for key in wanted if entry.get(key) is None]:
        raise ValueError(f"{name} has no {', no '.join(missing)}; each needs {', '.join(wanted)}")
    try:
        video_id, category_id, own = _whole(entry, "video_id"), _whole(entry, "category_id"), number(entry, "id")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    for key, value, known in (("video", video_id, data.videos), ("category", category_id, data.categories)):
        if value not in known:
            raise ValueError(f"{name} is of {key} {value}, which the truth does not have; it has {_some(known)}")
    video, masks = data.videos[video_id], entry["segmentations"]
    if not isinstance(masks, list) or len(masks) != video.length:
        got = f"{len(masks)} segmentations" if isinstance(masks, list) else "no list of segmentations"
        raise ValueError(f"{name} has {got}, but video {video.name} has {video.length} frames; give null where absent")
    if lists := [key for key in ("areas", "occlusion") if not isinstance(entry.get(key) or [], list)]:
        raise ValueError(f"{name} has {lists[0]} that are no list; expected one entry per frame")
    return VISInstance(
        own,
        video_id,
        category_id,
        masks,
        video.size,
        bool(entry.get("iscrowd")),
        entry.get("areas") or (),
        entry.get("occlusion") or (),
        _score(entry, name) if needed == "score" else None,
    )


def _score(entry: dict, name: str) -> float:
    score = entry["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not np.isfinite(score):
        raise ValueError(f"{name} has the score {score!r}; expected a finite number")
    return float(score)


def _whole(entry: dict, key: str) -> int:
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key} is {value!r}; expected a whole number")
    return value


def _said(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _some(ids: Iterable[int]) -> str:
    ids = sorted(ids)
    return ", ".join(map(str, ids[:5])) + (f", ... ({len(ids)} in all)" if len(ids) > 5 else "")


def read_predictions(data: VISData, path: Path | str) -> Iterator[VISInstance]:
    """The predictions of a result file (plain, .gz or .zip), one at a time; ids count from 1.

    Raises `FileNotFoundError`, or `ValueError` naming the first prediction that does not fit the videos of `data`."""
    for number, (key, entry) in enumerate(stream_json(path), start=1):
        if key is not None:
            raise ValueError(f"{path} holds an object with {key!r}; a result file is a list of predictions")
        yield read_prediction(data, entry, number, path)


def to_rle(segmentation: Any, size: tuple[int, int]) -> dict | None:
    """What is said about one frame as a compressed COCO RLE, `{"size": [H, W], "counts": text}`; None if absent.

    Takes compressed RLE (text, or bytes as pycocotools gives them), RLE with a list of counts, and a list of polygons
    [x, y, x, y, ...] (pixels, origin at the top left corner of the image). Raises `ValueError` for anything else, or an
    RLE of another size."""
    if not segmentation:
        return None
    if _all_compressed([segmentation], size):
        return segmentation
    height, width = size
    if isinstance(segmentation, list):
        _check_polygons(segmentation)
        return text_rle(coco.merge(coco.frPyObjects(segmentation, height, width)))  # pyright: ignore
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise ValueError('a segmentation is null, {"size": [H, W], "counts": ...}, or a list of polygons')
    check_size(segmentation, size)
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if any(not isinstance(n, int) or n < 0 for n in counts) or sum(counts) != height * width:
            raise ValueError(f"an RLE's counts do not add up to the {height * width} pixels of its size; it is damaged")
        return text_rle(coco.frPyObjects(segmentation, height, width))  # pyright: ignore
    if isinstance(counts, bytes) and counts.isascii() and _all_compressed([text := text_rle(segmentation)], size):
        return text
    raise ValueError("an RLE's counts are no compressed COCO RLE; encode masks with pycocotools.mask.encode")


def text_rle(rle: Mapping[str, Any]) -> dict:
    """The same RLE with counts that are text, as files have them, where pycocotools gives bytes.

    Raises `ValueError` for bytes that are no ASCII."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}


def _check_polygons(polygons: list[Any]) -> None:
    """Raises `ValueError` for what pycocotools, which checks nothing, would take for a polygon."""
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                "a polygon needs at least 3 points, as [x, y, x, y, ...]; a segmentation is a list of them"
            )
        try:  # a sum is quick, and not finite if one of its terms is not
            sound = math.isfinite(sum(polygon)) and max(polygon) < FAR and min(polygon) > -FAR
        except TypeError:
            sound = False
        if not sound:
            raise ValueError("a polygon has a coordinate that is no number or far outside of any image")


def _all_compressed(segmentations: list[Any], size: tuple[int, int]) -> bool:
    """Whether they are compressed RLE of that size, as text, which can be given to pycocotools, which checks
    nothing."""
    try:
        counts = [s["counts"] for s in segmentations]
        ends = [c[-1:] for c in counts]
        # an end must say that its number ends there, or pycocotools reads on
        sound = "".join(counts).isascii() and all(map("0".__le__, ends)) and all(map("P".__gt__, ends))
        return sound and [s["size"] for s in segmentations].count([*size]) == len(counts)
    except (TypeError, KeyError):
        return False


def check_size(rle: dict, size: tuple[int, int]) -> None:
    """Raises `ValueError` unless the RLE has the video's (height, width)."""
    sides = rle["size"]
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        raise ValueError(f"an RLE has the size {sides!r}; expected [height, width]")
    if list(sides) != list(size):
        raise ValueError(
            f"a mask is {_wxh(sides)}, but its video is {_wxh(size)}; bring masks back to the video's own size"
        )


def _wxh(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"


def write_submission(zip_path: Path | str, result: Path | str, data: VISData) -> int:
    """Packs a result file as results.json, as the servers want it. Returns the number of predictions.

    Every prediction is checked against `data` first. The zip appears under its name only when it is complete."""
    zip_path = Path(zip_path)
    count = sum(1 for _ in read_predictions(data, result))
    zip_path.parent.mkdir(parents=True, exist_ok=True)
    part = zip_path.with_name(zip_path.name + ".part")
    try:
        with (
            zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("results.json", "w", force_zip64=True) as out,
            open_json(result) as file,
        ):
            shutil.copyfileobj(file, out, 1 << 20)
        os.replace(part, zip_path)
    finally:
        part.unlink(missing_ok=True)
    return count
