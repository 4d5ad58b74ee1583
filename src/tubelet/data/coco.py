"""COCO instances files, and every file like them: what they say about images and the instances in them.

    {"images": [...], "categories": [...], "annotations": [...]}

An annotation is one instance in one image: its `segmentation` is a list of polygons, or an RLE where it is a crowd.
CocoVID files also say which images are the frames of one video (`video_id`, `frame_id`) and which annotations are one
instance (`instance_id` or `track_id`). Read, both are what a YouTube-VIS file is (`ytvis.VISData`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tubelet.data.classes import COCO, COCO_TO, categories
from tubelet.data.json_stream import stream_json
from tubelet.data.ytvis import VISData, VISInstance, VISVideo, to_rle


def read_coco(
    path: Path | str, images: Path | str | None = None, *, dataset: str | None = None, join: bool = False
) -> VISData:
    """A COCO instances file (plain, .gz or .zip) as videos of one frame, whose ids are those of the images.

    `images` is the folder of its `file_name`s, needed only to load frames. `dataset` ("ytvis_2019", "ytvis_2021",
    "ytvis_2022", "ovis") gives the categories of that data set and leaves out what it does not have, by
    `classes.COCO_TO`; None keeps those of the file. `join` follows what CocoVID files add: then videos have several
    frames and are numbered from 1. Crowds are kept, annotations without a segmentation are not. Masks become compressed
    RLE at once, which takes a tenth of the memory.

    Raises `FileNotFoundError`, or `ValueError` for an unknown data set, a file that is no COCO file or does not have
    COCO's categories where `dataset` is given, and a damaged entry, by its id."""
    names = {c["id"]: c["name"] for c in categories(dataset)} if dataset is not None else {}
    content = _Content(Path(path), dataset)
    waiting = []
    for key, entry in stream_json(path):
        if key == "annotations" and isinstance(entry, dict) and entry.get("image_id") not in content.images:
            waiting.append(entry)  # annotations may come before the images
        else:
            content.add(key, entry)
    content.check_header()
    for entry in waiting:
        content.add("annotations", entry)
    content.check_categories()
    root = None if images is None else Path(images)
    groups = _videos(content.images.values()) if join else ((i.id, [i]) for i in content.images.values())
    data = VISData({}, names if dataset is not None else content.categories)
    for number, frames in groups:
        _add_video(data, content, number, frames, root)
    return data


class _Image(NamedTuple):
    """`order`: its place among the frames of `video` (None: an image by itself)."""

    id: Any
    size: tuple[int, int]
    file_name: str
    video: Any
    order: int


class _Shown(NamedTuple):
    """An instance in one image. `own`: what it shares with its appearances in other images; None: it has none."""

    id: int
    category: int
    rle: dict
    crowd: bool
    own: Any


@dataclass
class _Content:
    """The file, read so far. `shown`: by the id of the image."""

    path: Path
    dataset: str | None
    images: dict[Any, _Image] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    shown: dict[Any, list[_Shown]] = field(default_factory=dict)

    def add(self, key: str | None, entry: Any) -> None:
        """Takes one element of `stream_json`. Raises `ValueError` if it cannot be read."""
        if entry is None or key not in ("images", "categories", "annotations"):
            return
        try:
            if key == "images":
                size = int(entry["height"]), int(entry["width"])
                video, order = entry.get("video_id"), int(entry.get("frame_id") or 0)
                self.images[entry["id"]] = _Image(entry["id"], size, str(entry["file_name"]), video, order)
            elif key == "categories":
                self.categories[entry["id"]] = str(entry["name"])
            else:
                self._annotation(entry)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            which = f" (id {entry['id']})" if isinstance(entry, dict) and "id" in entry else ""
            said = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{self.path} has an entry in {key}{which} that cannot be read: {said}") from None

    def _annotation(self, entry: dict) -> None:
        category = entry["category_id"]
        if self.dataset is not None:
            category = COCO_TO[self.dataset].get(category)
        if category is None or not entry.get("segmentation"):
            return
        image = self.images.get(entry["image_id"])
        if image is None:
            raise ValueError(f"its image {entry['image_id']} is not in the file")
        rle = to_rle(entry["segmentation"], image.size)
        assert rle is not None
        own = entry.get("instance_id", entry.get("track_id"))
        shown = _Shown(entry["id"], category, rle, bool(entry.get("iscrowd")), own)
        self.shown.setdefault(image.id, []).append(shown)

    def check_header(self) -> None:
        """Raises `ValueError` if it is no COCO file, or not of COCO's categories where they shall be renamed."""
        if not self.images or not self.categories:
            raise ValueError(f"{self.path} is no COCO file; it needs lists of images, annotations and categories")
        if self.dataset is not None and any(COCO.get(i) != name for i, name in self.categories.items()):
            raise ValueError(
                f"{self.path} does not have COCO's categories, so they cannot be renamed to those of {self.dataset}"
            )

    def check_categories(self) -> None:
        """Raises `ValueError` if an annotation has a category that the file does not list."""
        used = {one.category for found in self.shown.values() for one in found}
        if self.dataset is None and (unknown := used - set(self.categories)):
            raise ValueError(f"{self.path} has annotations of category {min(unknown)}, which it does not list")


def _videos(images: Iterable[_Image]) -> Iterator[tuple[int, list[_Image]]]:
    """(number from 1, frames in order of time) of each video; an image without one is a video by itself."""
    videos: dict[tuple[str, Any], list[_Image]] = {}
    for image in images:
        key = ("image", image.id) if image.video is None else ("video", image.video)
        videos.setdefault(key, []).append(image)
    for number, frames in enumerate(videos.values(), start=1):
        yield number, sorted(frames, key=lambda image: image.order)


def _add_video(data: VISData, content: _Content, number: int, frames: list[_Image], root: Path | None) -> None:
    size = frames[0].size
    if other := [image for image in frames if image.size != size]:
        raise ValueError(
            f"{content.path}: image {other[0].file_name} is {_wxh(other[0].size)}, but the first of its video "
            f"is {_wxh(size)}"
        )
    data.videos[number] = VISVideo(number, size, tuple(image.file_name for image in frames), len(frames), root)
    tubes: dict[tuple[str, Any], list[tuple[int, _Shown]]] = {}
    for t, image in enumerate(frames):
        for one in content.shown.get(image.id, ()):
            alone = one.own is None or len(frames) == 1
            tubes.setdefault(("alone", one.id) if alone else ("joined", one.own), []).append((t, one))
    for tube in tubes.values():
        masks: list[dict | None] = [None] * len(frames)
        first = tube[0][1]
        for t, one in tube:
            if masks[t] is not None or one.category != first.category:
                raise ValueError(
                    f"{content.path}: annotations {first.id} and {one.id} cannot be one instance: they are in the same "
                    "image or of two categories"
                )
            masks[t] = one.rle
        instance = VISInstance(first.id, number, first.category, tuple(masks), size, first.crowd)
        data.instances.setdefault(number, []).append(instance)


def _wxh(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
