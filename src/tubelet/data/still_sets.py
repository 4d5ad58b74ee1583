"""Still images with masks, as their sets were published: what AOT trains on first (section 5, stage one).

JPEGImages/NAME/x.jpg          Annotations/NAME/x.png           index PNGs; any set, as AOT's code wants it
JPEGImages/x.jpg               SegmentationObject/x.png         PASCAL VOC 2012 (VOCdevkit/VOC2012); 255 is void
train2017/x.jpg                annotations/instances_train2017.json                                    COCO
images/x.jpg                   ground_truth_mask/x.png          ECSSD; grey, one object
Imgs/x.jpg                     Imgs/x.png                       MSRA10K; grey, one object
datasets/imgs/pascal/x.jpg     datasets/masks/pascal/x.png      PASCAL-S; grey: the share of people who chose it
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from pycocotools import mask as coco

from tubelet.data.coco import read_coco
from tubelet.data.dataset import list_images, open_image, read_mask
from tubelet.types import VOID

CROWD = b"*"  # never in a COCO RLE, nor is the space
LOOKED_FOR = (
    "SegmentationObject (PASCAL VOC), annotations/instances_*.json (COCO), ground_truth_mask (ECSSD), Imgs (MSRA10K), "
    "datasets/masks/pascal (PASCAL-S), or JPEGImages/NAME/x.jpg with Annotations/NAME/x.png (any set)"
)


@runtime_checkable
class Still(Protocol):
    """One image and the objects in it."""

    def load(self) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
        """RGB 0..255 and ids (0 background, 1..254 objects, 255 void).

        Raises `FileNotFoundError`, `OSError` (damaged) or `ValueError` (no mask, or of another size)."""
        ...


@dataclass(frozen=True, slots=True)
class MaskedImage:
    """A `Still` of two files. `binary`: the mask is grey, and object 1 is where it is brighter than half."""

    image: Path
    mask: Path
    binary: bool = False

    def load(self) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
        rgb = _load_rgb(self.image)
        ids = _load_half(self.mask) if self.binary else read_mask(self.mask)
        _check_size(rgb, ids.shape, self.image, str(self.mask))
        return rgb, ids


@dataclass(frozen=True, slots=True)
class CocoImage:
    """A `Still` whose masks are in `rles`: compressed COCO RLE at `size` (H, W), the largest first, crowds before all
    and marked. In an id map a smaller object covers a larger one, and any object covers a crowd, which is void."""

    folder: Path
    name: str
    size: tuple[int, int]
    rles: bytes

    def load(self) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
        path = self.folder / self.name
        rgb, ids, number = _load_rgb(path), np.zeros(self.size, np.uint8), 0
        _check_size(rgb, self.size, path, "what its annotation file says")
        for counts in self.rles.split():
            number += not counts.startswith(CROWD)
            inside = coco.decode({"size": list(self.size), "counts": counts.removeprefix(CROWD)})  # pyright: ignore
            # 254 objects fit into an id map; more than that, the smallest, are not told apart
            ids[inside > 0] = VOID if counts.startswith(CROWD) else min(number, VOID)
        return rgb, ids


def _load_rgb(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    # not turned by what EXIF says: masks are made for the pixels as they are stored
    return np.asarray(open_image(path).convert("RGB"))


def _load_half(path: Path) -> UInt8[np.ndarray, "H W"]:
    return (np.asarray(open_image(path).convert("L")) > 127).astype(np.uint8)


def _check_size(rgb: np.ndarray, size: tuple[int, ...], image: Path, mask: str) -> None:
    if rgb.shape[:2] != tuple(size):
        raise ValueError(
            f"{image} is {rgb.shape[1]}x{rgb.shape[0]}, but {mask} is {size[1]}x{size[0]}; are they of the same set?"
        )


# ---- sets


def read_stills(root: Path | str) -> list[MaskedImage] | list[CocoImage]:
    """The images with masks of a folder, in one of the layouts above, whichever it is.

    VOC is all that has objects segmented (trainval). Of COCO's annotation files it is the training one, the newest.
    The folders that their archives unpack to (VOCdevkit/VOC2012, MSRA10K_Imgs_GT) may be there or not.
    Raises `FileNotFoundError` if it is none of them, or for the first image or mask that is missing; `ValueError` for a
    COCO file that is none."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; it should hold images with masks: {LOOKED_FOR}")
    for inner in (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root):
        if (inner / "SegmentationObject").is_dir():
            return read_voc(inner)
    if files := list((root / "annotations").glob("instances_*.json")):
        return read_coco_images(max(files, key=lambda path: ("train" in path.stem, path.stem)))
    if (root / "ground_truth_mask").is_dir():
        return read_grey(root / "images", root / "ground_truth_mask")
    for inner in (root / "MSRA10K_Imgs_GT" / "Imgs", root / "Imgs"):
        if inner.is_dir():
            return read_grey(inner, inner)
    if (root / "datasets" / "masks" / "pascal").is_dir():
        return read_grey(root / "datasets" / "imgs" / "pascal", root / "datasets" / "masks" / "pascal")
    if (root / "JPEGImages").is_dir():
        return read_indexed(root)
    raise FileNotFoundError(f"{root} holds no set of images with masks that is known; looked for {LOOKED_FOR}")


def read_indexed(root: Path | str) -> list[MaskedImage]:
    """Every image of JPEGImages/NAME that has a mask of its name in Annotations/NAME.

    Raises `FileNotFoundError` if there is none."""
    root, found = Path(root), []
    for folder in sorted(p for p in (root / "JPEGImages").glob("*") if p.is_dir()):
        masks = {p.stem: p for p in list_images(root / "Annotations" / folder.name, {".png"})}
        found += [MaskedImage(p, masks[p.stem]) for p in list_images(folder) if p.stem in masks]
    if not found:
        raise FileNotFoundError(
            f"no image with a mask below {root}: expected JPEGImages/NAME/x.jpg, Annotations/NAME/x.png"
        )
    return found


def read_voc(root: Path | str, split: str | None = None) -> list[MaskedImage]:
    """The images of PASCAL VOC 2012 whose objects are segmented; `root` holds SegmentationObject.

    `split`: a list of ImageSets/Segmentation ("train", "val", "trainval"); None: all that have a mask. Raises
    `FileNotFoundError` for the list, or the first image or mask, that is missing."""
    root = Path(root)
    masks = list_images(root / "SegmentationObject", {".png"})
    if split is not None:
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; it should list the images of the split, one per line")
        masks = [root / "SegmentationObject" / f"{name}.png" for name in path.read_text().split()]
    found = [MaskedImage(root / "JPEGImages" / f"{mask.stem}.jpg", mask) for mask in masks]
    _check_all_there(root, [path for still in found for path in (still.image, still.mask)])
    return found


def read_grey(images: Path | str, masks: Path | str) -> list[MaskedImage]:
    """Every JPEG of a folder, with the PNG of its name in another or the same: one object, where that is brighter than
    half. Raises `FileNotFoundError` if there is none, or for the first mask or image that is missing."""
    images, masks = Path(images), Path(masks)
    stems = {p.stem: p for p in list_images(images, {".jpg", ".jpeg"})}
    grey = {p.stem: p for p in list_images(masks, {".png"})}
    _check_all_there(images, [masks / f"{stem}.png" for stem in stems if stem not in grey])
    _check_all_there(images, [images / f"{stem}.jpg" for stem in grey if stem not in stems])
    if not stems:
        raise FileNotFoundError(f"{images} holds no .jpg; expected x.jpg there, and x.png in {masks}")
    return [MaskedImage(path, grey[stem], binary=True) for stem, path in stems.items()]


def read_coco_images(path: Path | str, images: Path | str | None = None) -> list[CocoImage]:
    """The images of a COCO instances file (plain, .gz or .zip) that have an object other than a crowd.

    `images` is their folder; None: that of the file's split, ROOT/train2017 or ROOT/images/train2017 for
    ROOT/annotations/instances_train2017.json. Of an image only the masks are kept, as one compressed string: for
    train2017 about 0.25 GB, and 1 GB while it is read (estimated from a made file of its proportions).
    Raises `FileNotFoundError` for the folder or the first image that is missing, or if no image has an object, and like
    `read_coco`."""
    path = Path(path)
    folder = _coco_folder(path) if images is None else Path(images)
    data, found = read_coco(path), []
    for number, video in data.videos.items():
        instances = data.instances.pop(number, [])
        rles = [(one.iscrowd, one.segmentations[0]) for one in instances]
        if not all(crowd for crowd, _ in rles):
            found.append(CocoImage(folder, video.file_names[0], video.size, b" ".join(_packed(rles))))
    _check_all_there(folder, [folder / still.name for still in found])
    if not found:
        raise FileNotFoundError(f"{path} has no image with an object")
    return found


def _packed(rles: list[tuple[bool, dict]]) -> Iterator[bytes]:
    for crowd, rle in sorted(rles, key=lambda one: (not one[0], -int(coco.area(one[1])))):  # pyright: ignore
        yield CROWD * crowd + rle["counts"].encode("ascii")


def _coco_folder(path: Path) -> Path:
    root, split = path.parent.parent, path.name.split(".")[0].removeprefix("instances_")
    choices = [root / split, root / "images" / split]
    found = next((folder for folder in choices if folder.is_dir()), None)
    if found is None:
        raise FileNotFoundError(
            f"the images of {path} were looked for in {choices[0]} and {choices[1]}, but neither is a folder"
        )
    return found


def _check_all_there(root: Path, paths: list[Path]) -> None:
    lost = [path for path in paths if not path.is_file()]
    if lost:
        raise FileNotFoundError(f"{lost[0]} does not exist ({len(lost)} such files below {root}); is the set complete?")
