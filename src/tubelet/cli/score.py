"""`tubelet score`: predictions against the truth."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from tubelet.metrics.jf import JFResult, YTVOSResult


def score(
    benchmark: Positional[Literal["davis", "ytvos", "ytvis", "ovis"]],
    gt: Path,
    pred: Path,
    json: Path | None = None,
    sequences: Path | None = None,
    binary: bool = False,
    meta: Path | None = None,
    seen: Path | None = None,
    long: str | None = None,
    zip: Path | None = None,
    workers: int | None = None,
) -> None:
    """Score predictions against the truth; no model is involved.

    davis and ytvos take folders of masks, SEQUENCE/00000.png ... . DAVIS is the official semi-supervised protocol: J
    and F with mean, recall and decay, first and last frame not scored. ytvis and ovis take a truth and a result file
    (JSON, .gz or .zip) and give the official AP and AR.

        tubelet score davis --gt DAVIS/Annotations/480p --pred results --sequences DAVIS/ImageSets/2017/val.txt
        tubelet score ytvis --gt instances.json --pred results.json

    Args:
        benchmark: davis; ytvos (mean over seen and unseen categories; needs --meta and --seen); ytvis; ovis.
        gt: Folder of true masks, one folder per sequence; for ytvis and ovis a file.
        pred: Folder or file of predictions, likewise.
        json: Also write the numbers here.
        sequences: davis: text file with the names to score; by default every folder of GT.
        binary: davis: merge all objects into one (DAVIS 2016).
        meta: ytvos: meta.json of the scored split.
        seen: ytvos: meta.json of the train split, whose categories are the seen ones.
        long: ytvis, ovis: also score short and long videos apart. A number of frames from which a video is long, or a
            text file with the ids or names of the long ones.
        zip: ytvis, ovis: check the predictions and pack them for the server; GT may then be without annotations.
        workers: Processes; by default one, or all cores for a large ytvis or ovis file.
    """
    import json as json_

    if benchmark in ("ytvis", "ovis"):
        from tubelet.metrics.vis_ap import long_videos, pack, score_vis

        if zip is not None and not pack(zip, gt, pred):
            return
        lengthy = None if long is None else long_videos(long)
        result = score_vis(gt, pred, occlusion=benchmark == "ovis", long=lengthy, workers=workers)
    else:
        result = score_masks(benchmark, gt, pred, sequences, binary, meta, seen, workers or 1)
    print(result.table())
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_.dumps(result.to_json(), indent=1) + "\n")


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
