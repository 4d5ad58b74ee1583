"""DAVIS 2016 and 2017, and every folder laid out like them.

    ROOT/JPEGImages/480p/SEQUENCE/00000.jpg     ROOT/Annotations/480p/SEQUENCE/00000.png
    ROOT/ImageSets/2017/val.txt                 one sequence per line

The masks of DAVIS 2016 are grey 0/255, those of 2017 palette images with one id per object (`read_mask` takes both).
"""

from dataclasses import replace
from pathlib import Path

from tubelet.data.dataset import VideoItem, VideoSet, read_mask, read_video

__all__ = ["read_davis", "read_mask"]


def read_davis(
    root: Path | str,
    *,
    year: int = 2017,
    split: str | None = "val",
    resolution: str | None = "480p",
    enter_later: bool = False,
) -> VideoSet:
    """The sequences of a split, in its order.

    `year` 2016 merges all objects into one, as that benchmark does. `split` is a file of ImageSets/YEAR
    without `.txt`; None takes every sequence that has masks. `resolution` is a folder name ("480p",
    "Full-Resolution"); None is for folders without that level. `enter_later`: every mask may bring new
    objects, not only the first.

    Raises `FileNotFoundError` naming what is missing, `ValueError` for a mask without a frame."""
    root = Path(root)
    frames, masks = (root / kind / (resolution or "") for kind in ("JPEGImages", "Annotations"))
    for folder in (frames, masks):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder; {_layout_hint(folder.parent, resolution)}")
    names = _subfolders(masks) if split is None else read_split(root / "ImageSets" / str(year) / f"{split}.txt")
    return VideoSet(_read_sequence(name, frames, masks, year == 2016, enter_later) for name in names)


def read_split(path: Path | str) -> list[str]:
    """The sequence names of an ImageSets file, one per line (DAVIS 2016 also has lines of two image paths)."""
    path = Path(path)
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        raise FileNotFoundError(f"{path} does not exist; splits there: {', '.join(there) or 'none'}")
    words = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    # the original 2016 lists say "/JPEGImages/480p/bear/00000.jpg /Annotations/..." for every frame
    return list(dict.fromkeys(Path(word).parent.name if "/" in word else word for word in words))


def _read_sequence(name: str, frames: Path, masks: Path, binary: bool, enter_later: bool) -> VideoItem:
    item = read_video(name, frames / name, masks / name, binary=binary)
    return replace(item, prompt_frames=tuple(sorted(item.mask_paths))) if enter_later else item


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir())


def _layout_hint(parent: Path, resolution: str | None) -> str:
    if not parent.is_dir():
        return f"expected ROOT/JPEGImages/{resolution or 'SEQUENCE'} and ROOT/Annotations/{resolution or 'SEQUENCE'}"
    return f"choose `resolution` among {', '.join(_subfolders(parent)[:10]) or 'nothing'} (or None for no such level)"
