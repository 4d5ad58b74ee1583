"""VSPW, and VIPSeg, which has the videos and the classes of VSPW with panoptic labels.

    ROOT/train.txt, val.txt, test.txt           one video per line
    ROOT/data/VIDEO/origin/00000000.jpg         ROOT/data/VIDEO/mask/00000000.png                  VSPW and VSPW_480p
    ROOT/images/VIDEO/00000000.jpg              ROOT/panomasks/VIDEO/00000000.png                  VIPSeg (or imgs)

The masks of VSPW hold 1..124 for its 124 classes, 0 ("others") and 255 are void. Those of VIPSeg hold these ids for
what has no instances and id * 100 + number for what has; 0 is void. The test masks are not public.
"""

from functools import partial
from pathlib import Path

from tubelet.data.dataset import list_images
from tubelet.data.semantic import Labelled, SemanticVideo, images_of, match_labels, read_list
from tubelet.data.semantic_classes import VSPW, VSPW_TRAIN_IDS

IMAGE_FOLDERS = ("images", "imgs")  # VIPSeg at 720 lines, and as it was annotated


def read_vspw(
    root: Path | str,
    split: str = "val",
    *,
    labelled: Labelled = "all",
    train_ids: bool = False,
    pictures: bool = True,
) -> list[SemanticVideo]:
    """The videos of a split, in its order.

    `split` is a list in ROOT without `.txt`. `labelled`: whether every frame must have a mask ("all"), masks may be
    missing ("some"), or they are not looked for ("none", the test split). `train_ids`: the masks hold 0..123 and 255
    already. `pictures` False is for scoring: the frames are those with a mask, and may be missing themselves.

    Raises `FileNotFoundError` naming what is missing, `ValueError` for a mask without a frame or, if "all", a frame
    without a mask."""
    read = partial(read_vspw_video, root, labelled=labelled, train_ids=train_ids, pictures=pictures)
    return [read(name) for name in read_list(Path(root) / f"{split}.txt")]


def read_vspw_video(
    root: Path | str,
    name: str,
    *,
    labelled: Labelled = "all",
    train_ids: bool = False,
    pictures: bool = True,
) -> SemanticVideo:
    """One video of VSPW; arguments and errors as in `read_vspw`."""
    frame_dir, mask_dir = (Path(root) / "data" / name / kind for kind in ("origin", "mask"))
    frames = (
        images_of(frame_dir, "frame")
        if pictures
        else [frame_dir / f"{path.stem}.jpg" for path in images_of(mask_dir, "mask")]
    )
    labels = {} if labelled == "none" else match_labels(frames, _masks(mask_dir, labelled), labelled, mask_dir)
    ids, void = (range(len(VSPW)), (255,)) if train_ids else (VSPW_TRAIN_IDS, None)
    return SemanticVideo(name, tuple(frames), labels, tuple(ids), void)


def read_vipseg(root: Path | str, split: str = "val", *, labelled: Labelled = "all") -> list[SemanticVideo]:
    """The videos of a split, in its order, their class being that of each pixel's segment; arguments and errors as in
    `read_vspw`."""
    return [read_vipseg_video(root, name, labelled=labelled) for name in read_list(Path(root) / f"{split}.txt")]


def read_vipseg_video(root: Path | str, name: str, *, labelled: Labelled = "all") -> SemanticVideo:
    """One video of VIPSeg."""
    root = Path(root)
    folder = next((f for f in IMAGE_FOLDERS if (root / f).is_dir()), IMAGE_FOLDERS[0])
    frames, mask_dir = images_of(root / folder / name, "frame"), root / "panomasks" / name
    labels = {} if labelled == "none" else match_labels(frames, _masks(mask_dir, labelled), labelled, mask_dir)
    return SemanticVideo(name, tuple(frames), labels, VSPW_TRAIN_IDS, void=(0,), panoptic=True)


def _masks(folder: Path, labelled: Labelled) -> list[Path]:
    return [] if labelled == "some" and not folder.is_dir() else list_images(folder, {".png"})
