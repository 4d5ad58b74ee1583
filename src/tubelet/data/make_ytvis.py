"""Makes a YouTube-VIS file of what people have: folders of frames and id masks, a labelme export, a COCO file.

    write_ytvis("instances.json", from_folders("JPEGImages", "Annotations"))

Only frames that are annotated are listed, as in YouTube-VIS itself (every fifth frame): a frame of which nothing is
said would otherwise count as one without objects.
"""

import base64
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image
from pycocotools import mask as coco
from scipy.optimize import linear_sum_assignment

from tubelet.data.coco import read_coco
from tubelet.data.dataset import VideoItem, list_images, read_video
from tubelet.data.ytvis import to_rle
from tubelet.types import encode_rle, visible
from tubelet.video.read import natural_key
from tubelet.viz.progress import progress


def write_ytvis(path: Path | str, content: Mapping[str, Any]) -> None:
    """Writes one of the below; the file appears under its name only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(content) + "\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@dataclass
class Content:
    """The file as it grows. `ids`: category name -> id; a new name gets the next one."""

    ids: dict[str, int] = field(default_factory=dict)
    videos: list[dict] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)

    def add_video(self, file_names: list[str], size: tuple[int, int]) -> None:
        self.videos.append(
            {
                "id": len(self.videos) + 1,
                "height": size[0],
                "width": size[1],
                "length": len(file_names),
                "file_names": file_names,
            }
        )

    def add_instance(self, category: str, masks: Mapping[int, Any], *, iscrowd: bool = False) -> None:
        """An instance of the last video: frame index -> segmentation, wherever it is visible."""
        video = self.videos[-1]
        size = video["height"], video["width"]
        rles = [to_rle(masks.get(t), size) for t in range(video["length"])]
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "video_id": video["id"],
                "category_id": self.ids.setdefault(category, len(self.ids) + 1),
                "iscrowd": int(iscrowd),
                "height": size[0],
                "width": size[1],
                "length": video["length"],
                "segmentations": rles,
                "areas": [None if rle is None else int(coco.area(rle)) for rle in rles],  # pyright: ignore
                "bboxes": [None if rle is None else coco.toBbox(rle).tolist() for rle in rles],  # pyright: ignore
            }
        )

    def content(self) -> dict[str, Any]:
        kinds = [{"id": i, "name": name, "supercategory": "object"} for name, i in self.ids.items()]
        return {"info": {}, "videos": self.videos, "categories": kinds, "annotations": self.annotations}


# Folders of frames and masks -----------------------------------------------------------------------------------------


def from_folders(
    frames: Path | str, masks: Path | str, *, names: str | Mapping[str, str | Mapping[int, str]] = "object"
) -> dict[str, Any]:
    """FRAMES/VIDEO/00000.jpg and MASKS/VIDEO/00000.png, masks as `read_mask` takes them; or one video without that
    level.

    `names`: the category of all objects, or of each video, or of each id of each video. Category ids
    count from 1 in the order of appearance. Void (255) is no object.

    Raises `FileNotFoundError` naming what is missing; `ValueError` for a mask without a frame or of another size, or an
    object without a name."""
    frames, masks, out = Path(frames), Path(masks), Content()
    for item, prefix in progress(list(_folder_videos(frames, masks)), unit="videos", description="reading masks"):
        shown: dict[int, dict[int, dict]] = {}
        size = (0, 0)
        for t, index in enumerate(sorted(item.mask_paths)):
            labels = item.load_mask(index)
            if t and labels.shape != size:
                raise ValueError(f"{item.mask_paths[index]} is {_wxh(labels.shape)}, but the first is {_wxh(size)}")
            size = labels.shape
            for i in visible(labels):
                shown.setdefault(i, {})[t] = encode_rle(labels == i)
        out.add_video([f"{prefix}/{item.frame_paths[i].name}" for i in sorted(item.mask_paths)], size)
        for i in sorted(shown):
            out.add_instance(_category(names, item.name, i), shown[i])
    return out.content()


def _folder_videos(frames: Path, masks: Path) -> Iterator[tuple[VideoItem, str]]:
    if not masks.is_dir():
        raise FileNotFoundError(f"{masks} is not a folder; expected {masks}/VIDEO/00000.png")
    if list_images(masks, {".png"}):
        name = frames.resolve().name  # "." has none
        yield read_video(name, frames, masks), name
        return
    folders = sorted((p for p in masks.iterdir() if p.is_dir()), key=natural_key)
    if not folders:
        raise FileNotFoundError(f"{masks} holds neither masks nor folders of masks; expected {masks}/VIDEO/00000.png")
    for folder in folders:
        yield read_video(folder.name, frames / folder.name, folder), folder.name


def _category(names: str | Mapping[str, str | Mapping[int, str]], video: str, i: int) -> str:
    if isinstance(names, str):
        return names
    of_video = names.get(video)
    name = of_video if isinstance(of_video, str | None) else of_video.get(i)
    if name is None:
        raise ValueError(f"object {i} of video {video} has no category; `names` must give one for it")
    return name


def read_names(text: str) -> str | dict[str, str | dict[int, str]]:
    """What `from_folders` takes as `names`, from a category or the name of a JSON file.

    Raises `FileNotFoundError`, or `ValueError` for a file that holds something else."""
    if not text.endswith(".json"):
        return text
    if not Path(text).is_file():
        raise FileNotFoundError(f"{text} does not exist; names are a category or a JSON file")
    try:
        said = json.loads(Path(text).read_text())
        return {
            video: name if isinstance(name, str) else {int(i): str(one) for i, one in name.items()}
            for video, name in said.items()
        }
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{text} is not {{video: category}} or {{video: {{id: category}}}} ({error})") from None


# labelme -------------------------------------------------------------------------------------------------------------


def from_labelme(folder: Path | str) -> dict[str, Any]:
    """A folder of labelme files (00000.json beside 00000.jpg), or a folder of such folders, one video each.

    Shapes with a `group_id` are parts of one instance, in all frames; those without are linked from frame to frame
    where they overlap most (per label, one to one). Polygons, rectangles, circles and masks are taken.

    Raises `FileNotFoundError` if there is no labelme file, `ValueError` naming the file that cannot be read, holds a
    shape without an area, or is of another size than the first."""
    folder, out = Path(folder), Content()
    folders = [folder] if list(folder.glob("*.json")) else sorted({p.parent for p in folder.glob("*/*.json")})
    if not folders:
        raise FileNotFoundError(f"{folder} holds no labelme file; expected 00000.json, ... in it or one level down")
    for video in folders:
        pages = [_read_labelme(path) for path in sorted(video.glob("*.json"), key=natural_key)]
        if other := [page for page in pages if page.size != pages[0].size]:
            raise ValueError(f"{other[0].path} is {_wxh(other[0].size)}, but the first is {_wxh(pages[0].size)}")
        out.add_video([f"{video.resolve().name}/{page.image}" for page in pages], pages[0].size)
        for label, masks in _link(pages):
            out.add_instance(label, {t: encode_rle(mask) for t, mask in masks.items()})
    return out.content()


class _Page(NamedTuple):
    """One labelme file. `grouped`: (label, group id) -> mask; `single`: (label, mask) of the others."""

    path: Path
    image: str
    size: tuple[int, int]
    grouped: dict[tuple[str, int], np.ndarray]
    single: list[tuple[str, np.ndarray]]


def _read_labelme(path: Path) -> _Page:
    try:
        content = json.loads(path.read_text())
        size = int(content["imageHeight"]), int(content["imageWidth"])
        page = _Page(path, Path(content["imagePath"].replace("\\", "/")).name, size, {}, [])
        for shape in content["shapes"]:
            label, group, mask = str(shape["label"]), shape.get("group_id"), _shape_mask(shape, size)
            if group is None:
                page.single.append((label, mask))
            else:
                page.grouped[label, group] = page.grouped.get((label, group), False) | mask
    except (json.JSONDecodeError, LookupError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no labelme file ({type(error).__name__}: {error})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return page


def _shape_mask(shape: dict, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    kind, points = shape.get("shape_type") or "polygon", np.array(shape["points"], float)
    if kind == "mask":
        return _labelme_mask(shape, size)
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    elif kind == "circle" and len(points) == 2:
        turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        radius = np.linalg.norm(points[1] - points[0])
        points = points[0] + radius * np.stack([np.cos(turns), np.sin(turns)], 1)
    elif kind != "polygon":
        raise ValueError(f"the shape {shape['label']!r} is a {kind}, which has no area; remove it or draw a polygon")
    rle = to_rle([points.ravel().tolist()], size)
    assert rle is not None
    return coco.decode(rle).astype(bool)  # pyright: ignore


def _labelme_mask(shape: dict, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """labelme keeps a mask as a PNG of its bounding box, whose first corner is the first point."""
    try:
        part = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))).convert("L")) > 0
    except (OSError, SyntaxError):  # as PIL says that it is no image, or a damaged one
        raise ValueError(f"the mask of the shape {shape['label']!r} is no PNG, or a damaged one") from None
    x, y = (round(value) for value in shape["points"][0])
    out = np.zeros(size, bool)
    height, width = out[y : y + part.shape[0], x : x + part.shape[1]].shape
    out[y : y + height, x : x + width] = part[:height, :width]
    return out


def _link(pages: list[_Page]) -> list[tuple[str, dict[int, np.ndarray]]]:
    """(label, frame index -> mask) of each instance, in order of appearance."""
    grouped: dict[tuple[str, int], dict[int, np.ndarray]] = {}
    tracks: list[tuple[str, dict[int, np.ndarray]]] = []
    for t, page in enumerate(pages):
        for key, mask in page.grouped.items():
            if key not in grouped:
                grouped[key] = {}
                tracks.append((key[0], grouped[key]))
            grouped[key][t] = mask
        for label in dict.fromkeys(name for name, _ in page.single):
            masks = [mask for name, mask in page.single if name == label]
            in_groups = {id(track) for track in grouped.values()}
            known = [track for name, track in tracks if name == label and id(track) not in in_groups]
            for mask, track in zip(masks, _nearest(masks, known), strict=True):
                if track is None:
                    track = {}
                    tracks.append((label, track))
                track[t] = mask
    return tracks


def _nearest(masks: list[np.ndarray], tracks: list[dict[int, np.ndarray]]) -> list[dict[int, np.ndarray] | None]:
    """For each mask the track whose last mask it overlaps, one to one, with the largest overlap in all."""
    out: list[dict[int, np.ndarray] | None] = [None] * len(masks)
    if not tracks:
        return out
    last = [track[max(track)] for track in tracks]
    iou = np.array([[(a & b).sum() / max((a | b).sum(), 1) for b in last] for a in masks])
    for i, j in zip(*linear_sum_assignment(-iou), strict=True):
        if iou[i, j] > 0:
            out[i] = tracks[j]
    return out


# COCO ----------------------------------------------------------------------------------------------------------------


def from_coco(path: Path | str, *, dataset: str | None = None) -> dict[str, Any]:
    """A COCO file: each image becomes a video of one frame. With `video_id` (and `frame_id`) on the images and
    `instance_id` (or `track_id`) on the annotations, as in CocoVID files, images and instances are joined instead.

    `dataset` ("ytvis_2019", "ytvis_2021", "ytvis_2022", "ovis") renames COCO's categories to those of that data set
    and leaves out the others, as for joint training.

    Raises like `read_coco`, and `ValueError` for two categories of one name."""
    data = read_coco(path, dataset=dataset, join=True)
    out = Content({name: number for number, name in data.categories.items()})
    if len(out.ids) < len(data.categories):
        raise ValueError(f"{path} has two categories of the same name; names must differ")
    for video in progress(list(data.videos.values()), unit="videos", description="converting"):
        out.add_video(list(video.file_names), video.size)
        for instance in data.instances.get(video.id, ()):
            masks = dict(enumerate(instance.segmentations))
            out.add_instance(data.categories[instance.category_id], masks, iscrowd=instance.iscrowd)
    return out.content()


def _wxh(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"
