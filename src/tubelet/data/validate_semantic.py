"""Says what is wrong with a semantic data set before hours are spent on it; `validate` is for masks of objects.

Class maps are decoded, of frames only the header is read. A fault that many files of a video share is said once, with
the first of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from tubelet.data import camvid, cityscapes, vspw
from tubelet.data.dataset import image_size
from tubelet.data.semantic import SemanticVideo, read_list
from tubelet.data.validate import Findings, Problem
from tubelet.types import VOID
from tubelet.viz.progress import progress

Kind = Literal["vspw", "vipseg", "cityscapes", "camvid"]
Reader = Callable[[], SemanticVideo]
Faults = dict[str, list[tuple[Path, str]]]  # kind of fault -> the files that have it, and a sentence of each

LISTS = ("train", "val", "test")


@dataclass
class ClassFindings(Findings):
    """What a look at a semantic data set found: also how many frames have labels, and which classes they show."""

    labelled: int = 0
    classes: set[int] = field(default_factory=set)


def validate_semantic(
    kind: Kind, root: Path | str, *, split: str | None = None, train_ids: bool = False
) -> list[Problem]:
    """Everything found wrong with the data set of a kind under `root`, video by video; empty if all is well.

    `split` None takes every split that is there. `train_ids`: the files of VSPW or Cityscapes hold those. Masks of a
    split "test" may be missing. Of a video that cannot be put together only the reason is said.

    Raises `FileNotFoundError` if there is no such folder or no split at all."""
    return examine_semantic(kind, root, split=split, train_ids=train_ids).problems


def examine_semantic(
    kind: Kind, root: Path | str, *, split: str | None = None, train_ids: bool = False
) -> ClassFindings:
    """`validate_semantic`, and how much of the data set there is. Raises likewise."""
    root, out = Path(root), ClassFindings()
    for name in splits_of(kind, root) if split is None else [split]:
        try:
            readers = _readers(kind, root, name, train_ids)
        except (OSError, ValueError) as error:
            out.problems.append(_problem(error))
            continue
        for read in progress(readers, unit="videos", description=f"checking {name}"):
            _check(read, out)
    return out


def splits_of(kind: Kind, root: Path) -> list[str]:
    """The splits that a data set has. Raises `FileNotFoundError` if it has none."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; it should hold a data set of the kind {kind}")
    if kind == "cityscapes":
        found = sorted(p.name for p in (root / "gtFine").glob("*") if p.is_dir())
    else:
        found = [name for name in LISTS if (root / f"{name}.txt").is_file()]
    if not found:
        wanted = "gtFine/SPLIT" if kind == "cityscapes" else " or ".join(f"{name}.txt" for name in LISTS)
        raise FileNotFoundError(f"{root} has no split; {kind} has {wanted} there")
    return found


def _readers(kind: Kind, root: Path, split: str, train_ids: bool) -> Sequence[Reader]:
    """What reads the videos one by one, so that one that is wrong does not hide the others."""
    if kind == "cityscapes":
        paths = cityscapes.label_paths(root, split, train_ids)
        return [partial(cityscapes.read_cityscapes_clip, root, path) for path in paths]
    if kind == "camvid":
        return [lambda video=video: video for video in _camvid_videos(root, split)]
    labelled = "some" if split == "test" else "all"
    if kind == "vspw":
        read = partial(vspw.read_vspw_video, root, labelled=labelled, train_ids=train_ids)
    else:
        read = partial(vspw.read_vipseg_video, root, labelled=labelled)
    return [partial(read, name) for name in read_list(root / f"{split}.txt")]


def _camvid_videos(root: Path, split: str) -> Iterable[SemanticVideo]:
    classes, void = camvid.read_classes(root)
    return camvid.sequences(camvid.read_rows(root, split), tuple(range(len(classes))), (void, VOID))


def _check(read: Reader, out: ClassFindings) -> None:
    """Adds what one video has, and what is wrong with it, to `out`."""
    out.videos += 1
    try:
        video = read()
    except (OSError, ValueError) as error:
        out.problems.append(_problem(error))
        return
    out.labelled += len(video.labels)
    faults: Faults = {}
    sizes = _check_frames(video, faults)
    for t, path in sorted(video.labels.items()):
        if said := _look(video, t, sizes.get(t), out):
            faults.setdefault(said[0], []).append((path, said[1]))
    out.problems += [_joined(found) for found in faults.values()]


def _check_frames(video: SemanticVideo, faults: Faults) -> dict[int, tuple[int, int]]:
    """The (width, height) of the frames that can be read."""
    sizes: dict[int, tuple[int, int]] = {}
    for t, path in enumerate(video.frames):
        try:
            sizes[t] = image_size(path)
        except OSError as error:
            faults.setdefault("frame", []).append((path, _sentence(path, error)))
    usual = next(iter(sizes.values()), None)
    for t, size in sizes.items():
        if size != usual:
            said = f"is {_wxh(size)}, but the first frame of its video is {_wxh(usual)}"
            faults.setdefault("size", []).append((video.frames[t], said))
    return sizes


def _look(video: SemanticVideo, t: int, size: tuple[int, int] | None, out: ClassFindings) -> tuple[str, str] | None:
    """What is wrong with the class map of frame t, after the kind of the fault."""
    path = video.labels[t]
    try:
        classes = video.classes(t)
    except OSError as error:
        return "unreadable", _sentence(path, error)
    except ValueError as error:
        return "ids", _sentence(path, error)
    out.classes |= set(np.flatnonzero(np.bincount(classes.ravel(), minlength=1)).tolist()) - {VOID}
    here = classes.shape[1], classes.shape[0]
    return None if size in (None, here) else ("map size", f"is {_wxh(here)}, but its frame is {_wxh(size)}")


def _joined(found: list[tuple[Path, str]]) -> Problem:
    path, said = found[0]
    more = f" (and {len(found) - 1} more of this video)" if len(found) > 1 else ""
    return Problem(path, said + more)


def _problem(error: Exception) -> Problem:
    """Sentences of readers begin with the file or folder."""
    path, _, message = str(error).partition(" ")
    return Problem(Path(path), message)


def _sentence(path: Path, error: Exception) -> str:
    return str(error).removeprefix(f"{path} ")


def _wxh(size: tuple[int, int] | None) -> str:
    return "of unknown size" if size is None else f"{size[0]}x{size[1]}"
