"""Says what is wrong with a folder of videos and masks before hours are spent on it.

Two layouts are understood: ROOT/JPEGImages/SEQUENCE and ROOT/JPEGImages/480p/SEQUENCE (any resolution name), each
with the same path under Annotations. For YouTube-VOS, ROOT is the folder of the split.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from tubelet.data.dataset import image_size, list_images, open_image, read_mask
from tubelet.data.ytvos import evaluated_frames, read_meta
from tubelet.types import VOID, visible
from tubelet.viz.progress import progress

FEW_LABELS = 5  # a mask with fewer labels is never called smoothed


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the file (or folder) and a sentence without its name. `str` joins the two."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path} {self.message}"


@dataclass
class Findings:
    """What a look at a data set found: `problems`, and how much of it there is."""

    problems: list[Problem] = field(default_factory=list)
    videos: int = 0
    instances: int = 0


def validate(root: Path | str) -> list[Problem]:
    """Everything found wrong with the frames and masks under `root`, sequence by sequence; empty if all is well.

    Masks are decoded, of frames only the header is read. Raises `FileNotFoundError` if there is no JPEGImages."""
    return examine(root).problems


def examine(root: Path | str) -> Findings:
    """`validate`, and how many sequences and objects there are. Raises likewise."""
    frames, masks = Path(root) / "JPEGImages", Path(root) / "Annotations"
    if not frames.is_dir():
        raise FileNotFoundError(f"{frames} is not a folder; expected JPEGImages and Annotations side by side in {root}")
    names = sorted(set(_sequences(frames)) | set(_sequences(masks)))
    if not names:
        return Findings(
            [Problem(frames, "holds no sequence; expected SEQUENCE/00000.jpg or 480p/SEQUENCE/00000.jpg in it")]
        )
    out = Findings(videos=len(names))
    for name in progress(names, unit="videos", description="checking"):
        objects: set[int] = set()
        out.problems += _check_sequence(frames / name, masks / name, objects)
        out.instances += len(objects)
    return out


def examine_ytvos(folder: Path | str) -> Findings:
    """`examine` for the folder of a YouTube-VOS split, and whether what its meta.json lists is there: the frames of
    each object, and the mask in which it enters."""
    out, path = examine(folder), Path(folder) / "meta.json"
    try:
        meta = read_meta(path)
    except (FileNotFoundError, ValueError) as error:
        return replace(out, problems=[*out.problems, Problem(path, str(error).removeprefix(f"{path} "))])
    for video, objects in meta.items():
        frames, masks = (
            {p.stem for p in list_images(d)} if d.is_dir() else set()
            for d in (Path(folder) / kind / video for kind in ("JPEGImages", "Annotations"))
        )
        if not frames:
            out.problems.append(Problem(path, f"lists video {video}, which has no frames"))
            continue
        if lost := [name for name in evaluated_frames(objects) if name not in frames]:
            out.problems.append(Problem(path, f"lists frame {lost[0]} of video {video}, which is not there"))
        for i, entry in objects.items():
            if entry.frames and min(entry.frames) not in masks:
                message = f"lets object {i} of video {video} enter in frame {min(entry.frames)}, which has no mask"
                out.problems.append(Problem(path, message))
    return out


def _sequences(folder: Path) -> list[str]:
    """Relative paths of the folders that hold images, one or two levels down."""
    inside = [p for depth in ("*", "*/*") for p in folder.glob(depth) if p.is_dir()]
    return [str(p.relative_to(folder)) for p in inside if list_images(p)]


def _check_sequence(frame_dir: Path, mask_dir: Path, objects: set[int]) -> list[Problem]:
    """Also puts the ids that its masks show into `objects`."""
    frames = list_images(frame_dir) if frame_dir.is_dir() else []
    masks = {p.stem: p for p in list_images(mask_dir)} if mask_dir.is_dir() else {}
    if not frames:
        return [Problem(mask_dir, f"has masks, but there are no frames in {frame_dir}")]
    if not masks:
        return [Problem(frame_dir, f"has frames, but there is no mask in {mask_dir}")]
    problems = _check_frames(frames)
    if frames[0].stem not in masks:
        problems.append(Problem(frames[0], f"is the first frame, but {mask_dir / frames[0].stem}.png is missing"))
    by_stem = {frame.stem: frame for frame in frames}
    first = next(iter(masks))
    for stem, mask in masks.items():
        problems += _check_mask(mask, by_stem.get(stem), objects, is_first=stem == first)
    return problems


def _check_frames(frames: list[Path]) -> list[Problem]:
    problems, sizes = [], {}
    for frame in frames:
        try:
            sizes[frame] = image_size(frame)
        except OSError:
            problems.append(_unreadable(frame))
    usual = next(iter(sizes.values()), None)
    other = (frame for frame, size in sizes.items() if size != usual)
    return problems + [Problem(f, f"is {_wxh(sizes[f])}, but the first frame is {_wxh(usual)}") for f in other]


def _check_mask(path: Path, frame: Path | None, objects: set[int], *, is_first: bool) -> list[Problem]:
    try:
        with open_image(path) as image:
            mode, size = image.mode, image.size
    except OSError:
        return [_unreadable(path)]
    messages = [] if frame else ["is a mask without a frame of that name"]
    if path.suffix.lower() != ".png":
        messages.append(f"is a {path.suffix} file; masks must be PNG, which keeps every id exactly")
    if frame and (expected := _size_or_none(frame)) not in (None, size):
        messages.append(f"is {_wxh(size)}, but its frame is {_wxh(expected)}")
    messages += _check_colours(path, mode, objects, is_first)
    return [Problem(path, message) for message in messages]


def _check_colours(path: Path, mode: str, objects: set[int], is_first: bool) -> list[str]:
    if mode in ("RGB", "RGBA"):
        return [f"is an {mode} image; save it as an 8-bit palette or grey PNG with one id per pixel"]
    try:
        labels = read_mask(path)
    except ValueError as error:
        return [str(error).removeprefix(f"{path} ")]
    shown = visible(labels)
    objects.update(shown)
    if is_first and not shown:
        return ["is the first mask, but shows no object"]
    if is_smoothed(labels):
        return [
            f"has {len(shown)} labels, most of them only along edges: it was smoothed (resized with "
            "interpolation, antialiased or saved as JPEG); export it again with hard edges"
        ]
    return []


def is_smoothed(labels: UInt8[np.ndarray, "H W"]) -> bool:
    """Whether most labels are nowhere two pixels deep, as after interpolation; few labels are never called smoothed."""
    present = set(visible(labels)) | ({VOID} if (labels == VOID).any() else set())
    if len(present) < FEW_LABELS:
        return False
    centre = labels[1:-1, 1:-1]
    neighbours = (labels[:-2, 1:-1], labels[2:, 1:-1], labels[1:-1, :-2], labels[1:-1, 2:])
    solid = np.all([centre == n for n in neighbours], axis=0)
    return len(present - set(np.unique(centre[solid]).tolist())) > len(present) / 2


def _size_or_none(frame: Path) -> tuple[int, int] | None:
    try:
        return image_size(frame)
    except OSError:
        return None  # said already by _check_frames


def _unreadable(path: Path) -> Problem:
    return Problem(path, "cannot be read as an image; it is damaged or not an image file")


def _wxh(size: tuple[int, int] | None) -> str:
    return "of unknown size" if size is None else f"{size[0]}x{size[1]}"
