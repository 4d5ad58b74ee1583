"""YouTube-VOS 2018 and 2019, where objects enter at any time and only every fifth frame is scored.

    ROOT/SPLIT/JPEGImages/VIDEO/00000.jpg       ROOT/SPLIT/Annotations/VIDEO/00000.png
    ROOT/SPLIT/meta.json                        {"videos": {VIDEO: {"objects": {ID: {"category", "frames": [...]}}}}}
    ROOT/SPLIT_all_frames/JPEGImages            the same videos at 30 frames per second

The first of an object's frames is where it enters; the masks of `valid` exist for those frames only.
"""

import json
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from tubelet.data.dataset import VideoItem, VideoSet, open_image, read_video


@dataclass(frozen=True)
class ObjectMeta:
    """What meta.json says about one object: its `category` and the names of the `frames` in which it is annotated."""

    category: str
    frames: tuple[str, ...]


def read_ytvos(root: Path | str, *, split: str = "valid", all_frames: bool = False) -> VideoSet:
    """The videos of meta.json. `evaluated` of each are the frames to submit, `prompt_frames` those where objects enter.

    `all_frames` takes the frames from SPLIT_all_frames; masks and evaluated frames stay those of SPLIT.
    Raises `FileNotFoundError` naming what is missing, `ValueError` for a meta.json of another kind."""
    folder = Path(root) / split
    frames = (folder.with_name(f"{split}_all_frames") if all_frames else folder) / "JPEGImages"
    meta = read_meta(folder / "meta.json")
    return VideoSet(
        _read_video(name, frames / name, folder / "Annotations" / name, objects) for name, objects in meta.items()
    )


def read_meta(path: Path | str) -> dict[str, dict[int, ObjectMeta]]:
    """video -> object id -> category and frames, in the file's order."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; YouTube-VOS comes with a meta.json in each split")
    try:
        videos = json.loads(path.read_text())["videos"]
        return {
            video: {
                int(i): ObjectMeta(entry.get("category", ""), tuple(entry["frames"]))
                for i, entry in content["objects"].items()
            }
            for video, content in videos.items()
        }
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a YouTube-VOS meta.json ({type(error).__name__}: {error}); expected "
            '{"videos": {VIDEO: {"objects": {ID: {"category": ..., "frames": [...]}}}}}'
        ) from None


def evaluated_frames(objects: dict[int, ObjectMeta]) -> list[str]:
    """The names of a video's evaluated frames: those in which any of its objects is annotated, ascending."""
    return sorted({frame for entry in objects.values() for frame in entry.frames})


def _read_video(name: str, frames: Path, masks: Path, objects: dict[int, ObjectMeta]) -> VideoItem:
    item = read_video(name, frames, masks)
    position = {frame: i for i, frame in enumerate(item.frame_names)}
    if lost := [frame for frame in evaluated_frames(objects) if frame not in position]:
        raise FileNotFoundError(f"{frames} has no frame {lost[0]}, which meta.json lists ({len(lost)} missing)")
    entering = sorted({position[min(entry.frames)] for entry in objects.values() if entry.frames})
    if without := [i for i in entering if i not in item.mask_paths]:
        raise FileNotFoundError(f"{masks} has no mask {item.frame_names[without[0]]}.png, where an object enters")
    evaluated = [position[frame] for frame in evaluated_frames(objects)]
    return replace(item, prompt_frames=entering, evaluated=evaluated)


def write_submission(zip_path: Path | str, pred_dir: Path | str, videos: Iterable[VideoItem]) -> None:
    """Packs PRED_DIR/VIDEO/FRAME.png of the evaluated frames as Annotations/VIDEO/FRAME.png, as the server wants it.

    The zip appears under its name only when it is complete. Raises `FileNotFoundError` if a frame is missing,
    `ValueError` if a mask is not an 8-bit palette or grey image."""
    zip_path, pred_dir = Path(zip_path), Path(pred_dir)
    part = zip_path.with_name(zip_path.name + ".part")
    try:
        # PNG is compressed already
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for video in videos:
                for name in required_names(video):
                    path = pred_dir / video.name / f"{name}.png"
                    _check_submitted(path)
                    archive.write(path, f"Annotations/{video.name}/{name}.png")
        os.replace(part, zip_path)
    finally:
        part.unlink(missing_ok=True)


def required_names(video: VideoItem) -> list[str]:
    """The names of the frames that a submission must hold for one video."""
    wanted = range(len(video)) if video.evaluated is None else video.evaluated
    return [video.frame_names[i] for i in wanted]


def _check_submitted(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, but its frame is evaluated; predict the whole video first")
    with open_image(path) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"{path} has mode {image.mode}; the server takes 8-bit palette PNG with one id per pixel")
