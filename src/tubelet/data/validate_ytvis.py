"""Says what is wrong with a YouTube-VIS or OVIS file before hours are spent on it; `validate` is for folders."""

from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from tubelet.data.dataset import image_size
from tubelet.data.json_stream import stream_json
from tubelet.data.validate import Findings, Problem
from tubelet.data.ytvis import VISData, VISInstance, add_header, check_header, read_annotation, to_rle
from tubelet.viz.progress import progress


def validate_ytvis(path: Path | str, *, frames: Path | str | None = None, occlusion: bool = False) -> list[Problem]:
    """Everything found wrong, annotation by annotation; empty if all is well.

    `frames` is the folder that `file_names` start from; without it frames are not looked at, of their files only the
    header is read. `occlusion`: every annotation must say how occluded it is, as in OVIS. Raises `FileNotFoundError` if
    there is no such file, `ValueError` if it is not JSON."""
    return examine_ytvis(path, frames=frames, occlusion=occlusion).problems


def examine_ytvis(path: Path | str, *, frames: Path | str | None = None, occlusion: bool = False) -> Findings:
    """`validate_ytvis`, and how many videos and annotations there are. Raises likewise."""
    path, data, entries, problems = Path(path), VISData({}, {}), [], []
    for key, value in stream_json(path):
        if key == "annotations" and value is not None:
            entries.append(value)
            continue
        try:
            add_header(data, key, value, path, None if frames is None else Path(frames))
        except ValueError as error:
            problems.append(_problem(path, error))
            if key is None:
                return Findings(problems)
    try:
        check_header(data, path)
    except ValueError as error:
        return Findings([*problems, _problem(path, error)])
    if frames is not None:
        videos = progress(list(data.videos.values()), unit="videos", description="checking frames")
        problems += [problem for video in videos for problem in _check_frames(video)]
    problems += _check_annotations(path, data, entries, occlusion)
    return Findings(problems, len(data), len(entries))


def _problem(path: Path, error: ValueError) -> Problem:
    return Problem(path, str(error).removeprefix(str(path)).removeprefix(":").strip())


def _check_frames(video: Any) -> list[Problem]:
    problems = []
    if not video.file_names:
        return [Problem(video.root, f"cannot be searched: video {video.id} has no file_names")]
    for path in video.frame_paths:
        try:
            width, height = image_size(path)
        except OSError as error:
            problems.append(Problem(path, str(error).removeprefix(f"{path} ")))
            continue
        if (height, width) != video.size:
            problems.append(Problem(path, f"is {width}x{height}, but its video is {video.size[1]}x{video.size[0]}"))
    return problems


def _check_annotations(path: Path, data: VISData, entries: list[Any], occlusion: bool) -> list[Problem]:
    problems, seen = [], set()
    for entry in progress(entries, unit="annotations", description="checking masks"):
        try:
            instance = read_annotation(data, entry, path)
        except ValueError as error:
            problems.append(_problem(path, error))
            continue
        messages = ["has the id of an earlier annotation; ids must differ"] if instance.id in seen else []
        if instance.id == 0:
            messages.append("has the id 0, which the official scoring never counts as found; number from 1")
        if occlusion and not instance.occlusion:
            messages.append("has no `occlusion`, by which OVIS tells its groups apart")
        seen.add(instance.id)
        problems += [Problem(path, f"annotation {instance.id} {m}") for m in messages + _check_masks(instance)]
    return problems


def _check_masks(instance: VISInstance) -> list[str]:
    """At most one message of each kind, naming the first frame concerned."""
    found: dict[str, str] = {}
    areas = []
    for t, segmentation in enumerate(instance.segmentations):
        try:
            rle = to_rle(segmentation, instance.size)
        except ValueError as error:
            found.setdefault("mask", f"is wrong in frame {t}: {error}")
            continue
        area = 0 if rle is None else int(coco.area(rle))  # pyright: ignore
        areas.append(area)
        if area > instance.size[0] * instance.size[1]:
            found.setdefault("mask", f"is wrong in frame {t}: its RLE describes more pixels than its size has")
        elif rle is not None and area == 0:
            found.setdefault("empty", f"has an empty mask in frame {t}; write null where it is absent")
        for message in _check_extras(instance, t, area):
            found.setdefault(message.split()[1], message)
    if areas and not np.any(areas):
        found["empty"] = "is visible in no frame"
    return list(found.values())


def _check_extras(instance: VISInstance, t: int, area: int) -> list[str]:
    messages = []
    stated = instance.areas[t] if instance.areas else area
    if not isinstance(stated, int | float | None):
        messages.append(f"says area {stated!r} in frame {t}, which is no number")
    # polygons have fractional areas in some files, so a small difference is none
    elif abs((stated or 0) - area) > max(2, 0.1 * area):
        messages.append(f"says area {stated} in frame {t}, but its mask has {area} pixels; scoring uses the former")
    if instance.occlusion and (instance.occlusion[t] is None) != (area == 0):
        messages.append(f"has occlusion {instance.occlusion[t]!r} in frame {t}, where its mask has {area} pixels")
    return messages
