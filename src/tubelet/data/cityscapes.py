"""Cityscapes as video: of each clip of 30 frames one is labelled, the 20th.

    ROOT/leftImg8bit_sequence/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png     all frames
    ROOT/leftImg8bit/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png              the labelled ones alone
    ROOT/gtFine/SPLIT/CITY/CITY_SEQUENCE_FRAME_gtFine_labelIds.png

What comes after the labelled frame can neither be scored nor teach anything, so a clip ends on it.
"""

import re
from pathlib import Path

from tubelet.data.semantic import SemanticVideo
from tubelet.data.semantic_classes import CITYSCAPES, CITYSCAPES_TRAIN_IDS

LABELLED_AT = 19  # index of the labelled frame among the 30
NAME = re.compile(r"(?P<place>.+_\d+)_(?P<frame>\d+)_gtFine_label(?P<kind>Train)?Ids\.png")


def read_cityscapes(
    root: Path | str, split: str = "val", *, length: int | None = None, train_ids: bool = False
) -> list[SemanticVideo]:
    """One video per labelled frame, which is its last; named after that frame, in the order of these names.

    `length` is how many frames a video has: 1 is the labelled frame alone; with key frames every n frames from the
    first, it is (length - 1) % n frames after its key frame. None is 20 where there is leftImg8bit_sequence, else 1.
    `train_ids` reads labelTrainIds, which not every copy has, in place of labelIds.

    Raises `FileNotFoundError` naming the frame or folder that is missing, `ValueError` for another length."""
    root = Path(root)
    paths = label_paths(root, split, train_ids)
    return [read_cityscapes_clip(root, path, length=length) for path in paths]


def label_paths(root: Path, split: str, train_ids: bool = False) -> list[Path]:
    """The class maps of a split, by name. Raises `FileNotFoundError` if there is none."""
    folder, kind = root / "gtFine" / split, "labelTrainIds" if train_ids else "labelIds"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; Cityscapes has gtFine/{split}/CITY/..._{kind}.png")
    paths = sorted(p for p in folder.glob(f"*/*_gtFine_{kind}.png") if not p.name.startswith("."))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no CITY/..._gtFine_{kind}.png; the labels come as gtFine_trainvaltest")
    return paths


def read_cityscapes_clip(root: Path | str, labels: Path, *, length: int | None = None) -> SemanticVideo:
    """The clip that ends on the frame of the class map `labels`; arguments and errors as in `read_cityscapes`."""
    found = NAME.fullmatch(labels.name)
    if found is None:
        raise ValueError(f"{labels} is not named CITY_SEQUENCE_FRAME_gtFine_labelIds.png, so its frame is not known")
    pictures = Path(root) / "leftImg8bit_sequence"
    has_sequences = pictures.is_dir()
    length = (LABELLED_AT + 1 if has_sequences else 1) if length is None else length
    if not 1 <= length <= LABELLED_AT + 1:
        raise ValueError(f"length is 1 to {LABELLED_AT + 1}, the frames up to the labelled one; got {length}")
    pictures = pictures if has_sequences else Path(root) / "leftImg8bit"
    folder = pictures / labels.parents[1].name / labels.parent.name  # split and city
    last, digits = int(found["frame"]), len(found["frame"])
    numbers = tuple(range(last - length + 1, last + 1))
    frames = tuple(folder / f"{found['place']}_{number:0{digits}d}_leftImg8bit.png" for number in numbers)
    if lost := [path for path in frames if not path.is_file()]:
        raise FileNotFoundError(
            f"{lost[0]} does not exist ({len(lost)} of the {length} frames up to the labelled one); get the frames of "
            "leftImg8bit_sequence, or give a smaller `length`"
        )
    ids, void = (range(len(CITYSCAPES)), (255,)) if found["kind"] else (CITYSCAPES_TRAIN_IDS, None)
    name = f"{found['place']}_{found['frame']}"
    return SemanticVideo(name, frames, {length - 1: labels}, tuple(ids), void, numbers=numbers)
