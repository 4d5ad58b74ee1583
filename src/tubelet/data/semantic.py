"""What every semantic video data set is once it has been read: a list of `SemanticVideo`s.

Only paths are held; frames and class maps are read when asked for. Most data sets label few frames, some only one of
a video, so labels are a mapping from frame to file. `VideoItem` is not this: its masks hold object ids, where 0 is
background and a map of just 0 and 255 shows one object; here 0 is a class and 255 always void.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Integer, UInt8

from tubelet.data.dataset import list_images, open_image
from tubelet.data.semantic_classes import to_train_ids
from tubelet.types import VOID, Frame
from tubelet.video.read import read_image

Labelled = Literal["all", "some", "none"]

PANOPTIC_BASE = 100  # VIPSeg: a value is the class id, or class id * 100 + number of the instance
MAX_CLASS_ID = 124


@dataclass(frozen=True)
class SemanticVideo:
    """One video of a semantic data set.

    `frames` are in order of time, `labels` maps the index of a frame to its class map (not every frame has one).
    `ids[k]` is the id that the files hold for class k, `void` as in `to_train_ids`; `panoptic`: they hold VIPSeg's
    numbers of instances too. `numbers` are the frames' numbers in the video that they were taken from, ascending;
    none given: 0, 1, 2, ..."""

    name: str
    frames: tuple[Path, ...]
    labels: Mapping[int, Path]
    ids: tuple[int, ...]
    void: tuple[int, ...] | None = None
    panoptic: bool = False
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert all(0 <= i < len(self.frames) for i in self.labels)
        if not self.numbers:
            object.__setattr__(self, "numbers", tuple(range(len(self.frames))))
        assert len(self.numbers) == len(self.frames)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def frame_names(self) -> list[str]:
        """The stems of the frames' files."""
        return [path.stem for path in self.frames]

    def rgb(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of frame `index`. Raises `FileNotFoundError`, or `ValueError` if the file is damaged."""
        return read_image(self.frames[index])

    def load_frame(self, index: int) -> Frame:
        """Frame `index` with its name, as a session takes it. Raises like `rgb`."""
        return Frame(self.rgb(index), index, name=self.frames[index].stem)

    def classes(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """The class of each pixel of frame `index`, 255 void.

        Raises `FileNotFoundError` if that frame has no class map, `OSError` if the file is damaged, `ValueError` if it
        is no class map or holds an id that is neither a class nor void."""
        if index not in self.labels:
            raise FileNotFoundError(
                f"frame {self.frames[index].stem} of {self.name} has no class map; "
                f"the frames with one are those in `labels` ({len(self.labels)} of {len(self)})"
            )
        path = self.labels[index]
        values = read_class_map(path)
        if self.panoptic:
            values = np.where(values > MAX_CLASS_ID, values // PANOPTIC_BASE, values)
        if values.max(initial=0) > VOID:
            raise ValueError(f"{path} holds ids up to {values.max()}; the ids of classes are 0..255")
        return to_train_ids(values.astype(np.uint8), self.ids, void=self.void, where=str(path))


def read_class_map(path: Path) -> Integer[np.ndarray, "H W"]:
    """The values of a class map as its file has them: a grey image of 8 or 16 bits, or the indices of a palette image.

    Raises `FileNotFoundError`, `OSError` (damaged) or `ValueError` (a colour image)."""
    with open_image(path) as image:
        mode, values = image.mode, np.asarray(image)
    if mode not in ("1", "L", "P") and not mode.startswith("I"):
        raise ValueError(
            f"{path} is an {mode} image; a class map holds one id per pixel, so save it as a grey or palette PNG"
        )
    return values.astype(np.uint8) if mode == "1" else values


def read_list(path: Path | str) -> list[str]:
    """The lines of a split's list, blank ones left out. Raises `FileNotFoundError`, or `ValueError` if none is left or
    one comes twice."""
    path = Path(path)
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        raise FileNotFoundError(f"{path} does not exist; lists there: {', '.join(there) or 'none'}")
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} lists nothing; expected one video or one frame per line")
    if twice := sorted({line for line in lines if lines.count(line) > 1}) if len(set(lines)) < len(lines) else []:
        raise ValueError(f"{path} lists {twice[0]} twice ({len(twice)} such lines)")
    return lines


def images_of(folder: Path, what: str) -> list[Path]:
    """The images of a folder in natural order. Raises `FileNotFoundError` if it is missing or holds none."""
    found = list_images(folder)
    if not found:
        raise FileNotFoundError(f"{folder} holds no {what}")
    return found


def match_labels(frames: Iterable[Path], maps: Iterable[Path], labelled: Labelled, where: Path) -> dict[int, Path]:
    """Index of a frame -> the class map of the same stem.

    Raises `ValueError` if a map has no frame or, for "all", a frame no map."""
    stems = {path.stem: i for i, path in enumerate(frames)}
    found = {path.stem: path for path in maps}
    if lost := [path for stem, path in found.items() if stem not in stems]:
        raise ValueError(f"{lost[0]} is a class map without a frame of that name ({len(lost)} such maps)")
    bare = [stem for stem in stems if stem not in found]
    if bare and labelled == "all":
        raise ValueError(
            f"{where} has no class map {bare[0]}.png ({len(bare)} of {len(stems)} frames have none); get the missing "
            "files, or read with labelled='some'"
        )
    return {stems[stem]: path for stem, path in found.items()}
