"""`tubelet make-ytvis` and `tubelet check`: data sets of your own."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from tubelet.cli.output import make_output

if TYPE_CHECKING:
    from tubelet.data.validate import Findings

Classes = Literal["ytvis_2019", "ytvis_2021", "ytvis_2022", "ovis"]


def make_ytvis(
    source: Positional[Path],
    out: Path,
    masks: Path | None = None,
    names: str = "object",
    classes: Classes | None = None,
    overwrite: bool = False,
) -> None:
    """Make a YouTube-VIS file of folders of masks, a labelme export or a COCO file.

        tubelet make-ytvis JPEGImages --masks Annotations --names names.json --out instances.json
        tubelet make-ytvis labelled --out instances.json
        tubelet make-ytvis coco.json --classes ytvis_2021 --out instances.json

    `tubelet check FILE --as ytvis` says whether all is well with it.

    Args:
        source: With --masks a folder of frames, VIDEO/00000.jpg or those of one video; else a folder of labelme files
            (00000.json beside 00000.jpg; or one such folder per video), or a COCO or CocoVID file.
        out: The file to write. Frames stay where they are; what is printed says where its file names start from.
        masks: Folder of id masks (PNG) named like their frames. Only frames with a mask are listed.
        names: For --masks: the category of all objects, or a JSON file of {video: category} or
            {video: {id: category}}.
        classes: For a COCO file: rename its categories to those of this data set and leave out the others.
        overwrite: Replace OUT if it is there.
    """
    from tubelet.data.make_ytvis import write_ytvis

    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; expected frames, a labelme folder or a COCO file")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} already exists; choose another name or add --overwrite")
    if masks is None and names != "object":
        raise ValueError("--names is for --masks; labelme and COCO files name their categories themselves")
    if classes is not None and (masks is not None or source.is_dir()):
        raise ValueError("--classes is for a COCO file; the categories of masks are given by --names")
    make_output(out.parent)
    content = content_of(source, masks, names, classes)
    write_ytvis(out, content)
    videos, instances, kinds = (len(content[key]) for key in ("videos", "annotations", "categories"))
    first = content["videos"][0]["file_names"][0]
    print(f"{out}: {videos} videos, {instances} instances, {kinds} categories; its first frame is {first}")


def content_of(source: Path, masks: Path | None, names: str, classes: Classes | None) -> dict[str, Any]:
    """`make_ytvis` without writing."""
    from tubelet.data.make_ytvis import from_coco, from_folders, from_labelme, read_names

    if masks is not None:
        return from_folders(source, masks, names=read_names(names))
    if not source.is_dir():
        return from_coco(source, dataset=classes)
    if not [*source.glob("*.json"), *source.glob("*/*.json")]:
        raise ValueError(f"{source} holds no labelme file; if it holds frames, say where their masks are: --masks")
    return from_labelme(source)


def check(
    source: Positional[Path],
    kind: Annotated[
        Literal["ytvis", "ovis", "davis", "ytvos", "vspw", "vipseg", "cityscapes", "camvid"], tyro.conf.arg(name="as")
    ],
    frames: Path | None = None,
    split: str | None = None,
    train_ids: bool = False,
) -> None:
    """Say what is wrong with a data set, before hours are spent on it.

        tubelet check instances.json --as ytvis --frames JPEGImages
        tubelet check DAVIS --as davis
        tubelet check VSPW_480p --as vspw --split val

    Prints a sentence for each problem; the exit status is 1 if there is any. Masks are decoded, of frames only the
    header is read.

    Args:
        source: ytvis and ovis: the file (.json, .gz or .zip). davis: the folder that holds JPEGImages and Annotations,
            or one laid out like it. ytvos: the folder of a split, or the one above. vspw, vipseg and camvid: the folder
            with train.txt and val.txt. cityscapes: the folder with gtFine.
        kind: Which kind of data set it should be.
        frames: ytvis, ovis: the folder that the file names start from; by default JPEGImages beside the file. If
            there is none, frames are not looked at.
        split: ytvos: the split, if SOURCE is the folder above (valid). vspw, vipseg, cityscapes, camvid: the split to
            look at; by default all that are there.
        train_ids: vspw, cityscapes: the masks hold train ids.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    if source.is_dir() == (kind in ("ytvis", "ovis")):
        of_masks = "JPEGImages and Annotations" if kind in ("davis", "ytvos") else "the data set"
        wanted = "file, annotations as JSON" if source.is_dir() else f"folder with {of_masks}"
        raise ValueError(f"{source} is a {'folder' if source.is_dir() else 'file'}; {kind} needs a {wanted}")
    if train_ids and kind not in ("vspw", "cityscapes"):
        raise ValueError(f"--train-ids is for vspw and cityscapes; the masks of {kind} hold one kind of ids only")
    found, note = examine_as(kind, source, frames, split, train_ids)
    for problem in found.problems:
        print(problem)
    if found.problems:
        sys.exit(1)
    print(f"nothing wrong: {found.videos} videos, {note}")


def examine_as(
    kind: str, source: Path, frames: Path | None, split: str | None, train_ids: bool = False
) -> "tuple[Findings, str]":
    """`check` without printing: what was found, and how much of it there is."""
    from tubelet.data.validate import examine, examine_ytvos
    from tubelet.data.validate_semantic import examine_semantic
    from tubelet.data.validate_ytvis import examine_ytvis

    if kind in ("ytvis", "ovis"):
        beside = source.parent / "JPEGImages"
        folder = frames or (beside if beside.is_dir() else None)
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder; --frames is where the file names start from")
        note = " (frames were not looked at; say where they are with --frames)" if folder is None else ""
        found = examine_ytvis(source, frames=folder, occlusion=kind == "ovis")
        return found, f"{found.instances} instances{note}"
    if frames is not None:
        raise ValueError(f"--frames is for ytvis and ovis; {kind} has its frames in a folder of its own")
    if kind in ("davis", "ytvos"):
        above = kind == "ytvos" and not (source / "JPEGImages").is_dir()
        folder = source / (split or "valid") if above else source
        found = examine(folder) if kind == "davis" else examine_ytvos(folder)
        return found, f"{found.instances} instances"
    found = examine_semantic(kind, source, split=split, train_ids=train_ids)  # pyright: ignore[reportArgumentType]
    return found, f"{found.labelled} labelled frames, {len(found.classes)} classes"
