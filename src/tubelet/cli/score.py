"""`tubelet score`: predictions against the truth."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from tubelet.metrics.jf import JFResult, YTVOSResult
    from tubelet.metrics.semantic import SemanticScore
    from tubelet.metrics.vis_ap import VISResult


def score(
    benchmark: Positional[Literal["davis", "ytvos", "ytvis", "ovis", "vspw", "cityscapes", "camvid"]],
    gt: Path,
    pred: Path,
    json: Path | None = None,
    sequences: Path | None = None,
    binary: bool = False,
    meta: Path | None = None,
    seen: Path | None = None,
    long: str | None = None,
    zip: Path | None = None,
    classes: int | None = None,
    labels: Literal["train", "raw"] | None = None,
    workers: int | None = None,
) -> None:
    """Score predictions against the truth; no model is involved.

    davis and ytvos take folders of masks, SEQUENCE/00000.png ... . DAVIS is the official semi-supervised protocol: J
    and F with mean, recall and decay, first and last frame not scored. ytvis and ovis take a truth and a result file
    (JSON, .gz or .zip) and give the official AP and AR. vspw, cityscapes and camvid take 8-bit PNGs with one class per
    pixel and give mIoU, weighted IoU and pixel accuracy, and but for cityscapes VC8 and VC16 as the official scripts
    compute them (VC8_paper and VC16_paper: by the formula in the papers).

        tubelet score davis --gt DAVIS/Annotations/480p --pred results --sequences DAVIS/ImageSets/2017/val.txt
        tubelet score ytvis --gt instances.json --pred results.json
        tubelet score vspw --gt VSPW_480p --pred results
        tubelet score cityscapes --gt gtFine/val --pred results

    Args:
        benchmark: davis; ytvos (mean over seen and unseen categories; needs --meta and --seen); ytvis; ovis; vspw;
            cityscapes; camvid.
        gt: Folder of true masks, one folder per sequence; for ytvis and ovis a file; for vspw the folder with val.txt
            and data/VIDEO/mask; for camvid the folder of the masks, SEQUENCE_FRAME.png.
        pred: Folder or file of predictions, likewise; for vspw PRED/VIDEO/NAME.png; for cityscapes any .png below it
            whose name begins with CITY_SEQ_FRAME.
        json: Also write the numbers here.
        sequences: davis: text file with the names to score; by default every folder of GT. vspw: likewise; by default
            val.txt beside data.
        binary: davis: merge all objects into one (DAVIS 2016).
        meta: ytvos: meta.json of the scored split.
        seen: ytvos: meta.json of the train split, whose categories are the seen ones.
        long: ytvis, ovis: also score short and long videos apart. A number of frames from which a video is long, or a
            text file with the ids or names of the long ones.
        zip: ytvis, ovis: check the predictions and pack them for the server; GT may then be without annotations.
        classes: vspw: how many there are; by default its 124.
        labels: vspw: what the true masks hold: raw, VSPW's own ids, 0 and 255 void, classes from 1 (the default), or
            train, classes from 0, 255 void. Predictions always hold classes from 0, and no void. cityscapes: what the
            predictions hold: train, 0..18 (the default), or raw, the label ids 0..33.
        workers: Processes; by default one, or all cores for a large ytvis or ovis file or 500 frames of classes.
    """
    import json as json_

    if benchmark in ("ytvis", "ovis"):
        result = score_tubes(gt, pred, benchmark == "ovis", long, zip, workers)
    elif benchmark in ("vspw", "cityscapes", "camvid"):
        result = score_classes(benchmark, gt, pred, sequences, classes, labels, workers)
    else:
        result = score_masks(benchmark, gt, pred, sequences, binary, meta, seen, workers or 1)
    if result is None:
        return
    print(result.table())
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_.dumps(result.to_json(), indent=1) + "\n")


def score_tubes(
    gt: Path, pred: Path, occlusion: bool, long: str | None, zip: Path | None, workers: int | None
) -> "VISResult | None":
    """`score` for result files; None if they were only to be packed."""
    from tubelet.metrics.vis_ap import long_videos, pack, score_vis

    if zip is not None and not pack(zip, gt, pred):
        return None
    lengthy = None if long is None else long_videos(long)
    return score_vis(gt, pred, occlusion=occlusion, long=lengthy, workers=workers)


def score_masks(
    benchmark: str,
    gt: Path,
    pred: Path,
    sequences: Path | None,
    binary: bool,
    meta: Path | None,
    seen: Path | None,
    workers: int,
) -> "JFResult | YTVOSResult":
    """`score` for folders of masks."""
    from tubelet.data.davis import read_split
    from tubelet.metrics.jf import score_folders, score_ytvos

    if benchmark == "ytvos":
        if meta is None or seen is None:
            raise ValueError("ytvos needs --meta META.json of the scored split and --seen META.json of the train split")
        return score_ytvos(gt, pred, meta, seen=seen, workers=workers)
    names = None if sequences is None else read_split(sequences)
    return score_folders(gt, pred, sequences=names, binary=binary, workers=workers)


def score_classes(
    benchmark: str,
    gt: Path,
    pred: Path,
    sequences: Path | None,
    classes: int | None,
    labels: Literal["train", "raw"] | None,
    workers: int | None,
) -> "SemanticScore":
    """`score` for folders of classes."""
    from tubelet.data.semantic import read_list
    from tubelet.metrics.semantic import score_camvid, score_cityscapes, score_vspw

    if benchmark != "vspw" and (classes is not None or sequences is not None):
        raise ValueError(f"--classes and --sequences are for vspw; {benchmark} has its own and takes all of GT")
    if benchmark == "camvid":
        if labels is not None:
            raise ValueError("camvid has one kind of ids, 0 to 10 and 11 for void; leave --labels out")
        return score_camvid(gt, pred, workers=workers)
    if benchmark == "cityscapes":
        return score_cityscapes(gt, pred, labels=labels or "train", workers=workers)
    names = None if sequences is None else read_list(sequences)
    count = 124 if classes is None else classes
    return score_vspw(gt, pred, classes=count, labels=labels or "raw", videos=names, workers=workers)
