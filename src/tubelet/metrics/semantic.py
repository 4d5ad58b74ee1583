"""The scores of video semantic segmentation: IoU over classes, and how steady the classes are in time.

`score_vspw` follows the official VSPW scripts (Miao et al., CVPR 2021), which the papers' numbers come from:

- one confusion matrix over all frames of all videos; pixels whose truth is void do not count;
- mIoU is the mean over the classes that the truth shows; weighted IoU weighs by the share of true pixels instead;
- VCf looks at windows of f frames (8 and 16). Of the pixels whose true label stays the same in a window, it is the
  share whose predicted label stays the same too, be it right or wrong. Void is a label like any other there. A video
  of T frames has T - f windows: the last one is left out, and so is a video of f frames or fewer. Windows without a
  steady pixel are left out. The mean is over all windows of all videos, so long videos count more.

The formula in the papers (MPVSS, appendix A.1) says otherwise: T - f + 1 windows, the prediction has to be right as
well, and the mean is over videos. That is `VC8_paper` and `VC16_paper`. Void has nothing to be right about and does
not count there.

A window is not kept: each pixel counts for how many frames in a row it has had its label, and is steady in the
f frames up to now if that is f or more.
"""

import operator
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from tubelet.data.dataset import list_images
from tubelet.data.semantic import read_class_map, read_list
from tubelet.data.semantic_classes import CAMVID, CAMVID_VOID, CITYSCAPES, CITYSCAPES_TRAIN_IDS, VSPW, to_train_ids
from tubelet.metrics.processes import spread
from tubelet.types import VOID
from tubelet.viz.progress import progress

SPANS = (8, 16)
WORTH = 500  # frames from which more processes pay
OTHERS = 254  # VSPW's id 0: void as well, but VC takes it for another label than 255
Classes = UInt8[np.ndarray, "H W"]
AnyClasses = UInt8[np.ndarray, "_ _"]  # of any size, so that a wrong one is told in a sentence


# Numbers -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    """A mean that can be continued; None of nothing."""

    total: float = 0.0
    count: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass(frozen=True)
class SemanticScore:
    """The numbers of some videos, 0..1, None where there is nothing to score. Scores of different videos can be added.

    `counts`: pixels by true class (row) and predicted class (column; the last one is for pixels predicted as none).
    `consistency`: the windows of VC8 ..., the videos of VC8_paper ... . `names`: of the classes, for the table."""

    counts: Int64[np.ndarray, "K K+1"]
    consistency: Mapping[str, Tally]
    videos: int
    frames: int
    names: Sequence[str] = ()

    def __add__(self, other: "SemanticScore") -> "SemanticScore":
        assert self.consistency.keys() == other.consistency.keys()
        tallies = {key: tally + other.consistency[key] for key, tally in self.consistency.items()}
        frames, videos = self.frames + other.frames, self.videos + other.videos
        return SemanticScore(self.counts + other.counts, tallies, videos, frames, self.names)

    @property
    def true(self) -> Int64[np.ndarray, " K"]:
        """How many pixels each class has in the truth."""
        return self.counts.sum(1)

    @property
    def predicted(self) -> Int64[np.ndarray, " K"]:
        """How many pixels each class was predicted for, without those whose truth is void."""
        return self.counts[:, :-1].sum(0)

    @property
    def right(self) -> Int64[np.ndarray, " K"]:
        return np.diagonal(self.counts)

    @property
    def iou(self) -> Float64[np.ndarray, " K"]:
        """Of each class; NaN of one that is in neither truth nor prediction."""
        return _divide(self.right, self.true + self.predicted - self.right)

    @property
    def class_accuracy(self) -> Float64[np.ndarray, " K"]:
        """The share of each class' pixels that was found; NaN of a class that the truth does not show."""
        return _divide(self.right, self.true)

    @property
    def miou(self) -> float | None:
        """Over the classes that the truth shows (the official scripts)."""
        return _mean(self.iou[self.true > 0])

    @property
    def miou_with_predicted(self) -> float | None:
        """Also over the classes that were predicted only, which are 0 (the evaluator of MPVSS)."""
        return _mean(self.iou[self.true + self.predicted > 0])

    @property
    def weighted_iou(self) -> float | None:
        pixels, seen = self.true.sum(), self.true > 0
        return float((self.true[seen] / pixels * self.iou[seen]).sum()) if pixels else None

    @property
    def pixel_accuracy(self) -> float | None:
        return float(self.right.sum() / self.true.sum()) if self.true.any() else None

    def to_json(self) -> dict[str, Any]:
        """The numbers, and in `per_class` those of every class by its index; `share` is its part of the true pixels."""
        return {
            "classes": len(self.counts),
            "videos": self.videos,
            "frames": self.frames,
            **self._numbers(),
            "per_class": {str(i): row for i, row in enumerate(self._rows())},
        }

    def table(self) -> str:
        """The numbers in percent, and a line per class that is in the truth or was predicted."""
        numbers = self._numbers()
        width = max(map(len, numbers))
        lines = [f"{key:{width}}{_percent(value)}" for key, value in numbers.items()]
        rows = [row for row in self._rows() if row["IoU"] is not None]
        width = max([len("class"), *(len(row["name"]) for row in rows)])
        columns = ("IoU", "accuracy", "share")
        lines += ["", "class".ljust(width) + "".join(f"{key:>10}" for key in columns)]
        lines += [row["name"].ljust(width) + "".join(_percent(row[key]) for key in columns) for row in rows]
        return "\n".join(lines)

    def _numbers(self) -> dict[str, float | None]:
        return {
            "mIoU": self.miou,
            "mIoU_with_predicted": self.miou_with_predicted,
            "weighted_IoU": self.weighted_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": _mean(self.class_accuracy[self.true > 0]),
            **{key: tally.mean for key, tally in self.consistency.items()},
        }

    def _rows(self) -> Iterator[dict[str, Any]]:
        share, names = self.true / max(1, self.true.sum()), self.names or [str(i) for i in range(len(self.counts))]
        for name, *values in zip(names, self.iou, self.class_accuracy, share, strict=True):
            yield {"name": name, **{k: _known(v) for k, v in zip(("IoU", "accuracy", "share"), values, strict=True)}}


def _divide(a: Int64[np.ndarray, " K"], b: Int64[np.ndarray, " K"]) -> Float64[np.ndarray, " K"]:
    return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)


def _mean(values: Float64[np.ndarray, " _"]) -> float | None:
    return float(values.mean()) if len(values) else None


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _percent(value: float | None) -> str:
    return f"{'-':>10}" if value is None else f"{100 * value:10.2f}"


# One video -----------------------------------------------------------------------------------------------------------


def confusion(truth: Classes, prediction: Classes, classes: int) -> Int64[np.ndarray, "K K+1"]:
    """Pixels by true and predicted class; ids from `classes` on are void in the truth, and none in the prediction."""
    pairs = np.bincount((truth.astype(np.uint16) << 8 | prediction).ravel(), minlength=256 * 256).reshape(256, 256)
    nothing = pairs[:classes, classes:].sum(1, keepdims=True)
    return np.concatenate([pairs[:classes, :classes], nothing], 1)


class Run:
    """For how many frames in a row each pixel has had its label: `length` (H, W), 1..most."""

    def __init__(self, most: int) -> None:
        assert 1 <= most <= 255, "the counters have 8 bits"
        self.most = most
        self.length = self._last = np.zeros((0, 0), np.uint8)

    def add(self, labels: Classes) -> None:
        if not self.length.size:
            self.length = np.ones_like(labels)
        else:
            np.minimum(self.length, self.most - 1, out=self.length)
            self.length *= labels == self._last
            self.length += 1
        self._last = labels


class VideoScorer:
    """Scores one video, a frame at a time; memory does not grow with its length.

    `spans`: the lengths of VC's windows; none for single images."""

    def __init__(self, classes: int, *, spans: Sequence[int] = SPANS) -> None:
        _check_classes(classes)
        self.classes, self.spans, self.frames = classes, tuple(spans), 0
        self._size: tuple[int, ...] | None = None
        self._counts = np.zeros((classes, classes + 1), np.int64)
        self._true, self._predicted = (Run(max(self.spans, default=1)) for _ in range(2))
        # of every window so far: steady in the truth -> in the prediction too, and there also right
        self._same: dict[int, list[float | None]] = {f: [] for f in self.spans}
        self._right: dict[int, list[float | None]] = {f: [] for f in self.spans}

    def add(self, truth: Classes, prediction: AnyClasses) -> None:
        """The next frame, both (H, W) uint8. Ids 0..classes-1; larger ones are void in the truth, each a label of its
        own for VC, and no class at all in the prediction, that is, wrong.

        Raises `ValueError` if the two differ in size, or from the frames before."""
        if prediction.shape != truth.shape:
            raise ValueError(
                f"the prediction is {_size(prediction)} but the truth is {_size(truth)}; bring the prediction back to "
                "the size of the video (nearest neighbour, never smoothed)"
            )
        if self._size not in (None, truth.shape):
            raise ValueError(f"the truth is {_size(truth)}, but the frames before had another size")
        self._size = truth.shape
        self.frames += 1
        self._counts += confusion(truth, prediction, self.classes)
        if self.spans:
            self._add_windows(truth, prediction)

    def _add_windows(self, truth: Classes, prediction: Classes) -> None:
        """Measures the windows that end at this frame."""
        self._true.add(truth)
        self._predicted.add(prediction)
        # In a window where both are steady, right in the last frame is right in all.
        real, right = truth < self.classes, truth == prediction
        for f in self.spans:
            if self.frames < f:
                continue
            steady = self._true.length >= f
            same = steady & (self._predicted.length >= f)
            self._same[f].append(_share(same, steady))
            self._right[f].append(_share(same & right & real, steady & real))

    def score(self) -> SemanticScore:
        """Of the frames so far. The official VC has to leave out the window that ends at the last frame."""
        official = {f"VC{f}": _tally(values[:-1]) for f, values in self._same.items()}
        means = {f"VC{f}_paper": _tally(values).mean for f, values in self._right.items()}
        return SemanticScore(
            counts=self._counts.copy(),
            consistency=official | {key: _tally([mean]) for key, mean in means.items()},
            videos=1,
            frames=self.frames,
        )


def score_video(pairs: Iterable[tuple[Classes, AnyClasses]], classes: int) -> SemanticScore:
    """Scores the (truth, prediction) maps of one video as they come, see `VideoScorer.add`."""
    scorer = VideoScorer(classes)
    for truth, prediction in pairs:
        scorer.add(truth, prediction)
    return scorer.score()


def _share(part: Bool[np.ndarray, "H W"], whole: Bool[np.ndarray, "H W"]) -> float | None:
    size = np.count_nonzero(whole)
    return np.count_nonzero(part) / size if size else None


def _tally(values: Sequence[float | None]) -> Tally:
    known = [value for value in values if value is not None]
    return Tally(sum(known, 0.0), len(known))


def _size(labels: AnyClasses) -> str:
    return f"{labels.shape[1]}x{labels.shape[0]}"


def _check_classes(classes: int) -> None:
    if not 1 <= classes <= OTHERS:
        raise ValueError(f"{classes} classes cannot be told apart in 8 bits with void; expected 1 to {OTHERS}")


# Folders -------------------------------------------------------------------------------------------------------------


def score_vspw(
    root: Path | str,
    pred_dir: Path | str,
    *,
    classes: int = len(VSPW),
    labels: Literal["train", "raw"] = "raw",
    videos: Sequence[str] | None = None,
    workers: int | None = 1,
) -> SemanticScore:
    """Scores PRED_DIR/VIDEO/NAME.png against ROOT/data/VIDEO/mask/NAME.png by the VSPW protocol.

    `videos`: those to score; None means the names in ROOT/val.txt, or every folder of ROOT/data if there is no such
    file. `labels` is what the true masks hold: "raw" is VSPW's own numbering (1..K, and void 0 and 255, which are two
    labels for VC), "train" is 0..K-1 and void 255. Predictions hold 0..K-1 under either, as the official scripts want;
    they have to choose a class everywhere, so 255 is refused.

    `workers` above 1 starts that many processes (in a script, call it under `if __name__ == "__main__"`); None takes
    all cores from 500 frames on. Each has one pair of frames in memory.

    Raises, naming the file: `FileNotFoundError` if predictions are missing (before anything is scored), `ValueError`
    if one has another size or an id that is no class, `OSError` if one is damaged."""
    _check_classes(classes)
    root, pred_dir = Path(root), Path(pred_dir)
    # VSPW's script for VC compares the ids in the files, where 0 and 255 differ though both are void
    raw, train = FileIds(tuple(range(1, classes + 1)), others=0), FileIds(tuple(range(classes)), (VOID,))
    ids = raw if labels == "raw" else train
    names = _vspw_names(root) if videos is None else videos
    jobs = [_Job(classes, SPANS, _pairs(root / "data" / v / "mask", pred_dir / v), ids) for v in names]
    return replace(_run(jobs, workers), names=VSPW if classes == len(VSPW) else ())


def score_camvid(gt_dir: Path | str, pred_dir: Path | str, *, workers: int | None = 1) -> SemanticScore:
    """Scores PRED_DIR/NAME.png against GT_DIR/NAME.png: the 11 classes 0..10 of CamVid, in the truth 11 is void.

    What comes before the last "_" of a name is its video (0016E5_07959.png). VC is that of VSPW along the frames that
    are there; they are more or less far apart in time, so compare it only between models.

    `workers` and errors as in `score_vspw`."""
    sequences: dict[str, list[tuple[Path, Path]]] = {}
    for truth, prediction in _pairs(Path(gt_dir), Path(pred_dir)):
        sequences.setdefault(truth.stem.rpartition("_")[0], []).append((truth, prediction))
    ids = FileIds(tuple(range(len(CAMVID))), (CAMVID_VOID, VOID))
    jobs = [_Job(len(CAMVID), SPANS, tuple(pairs), ids) for pairs in sequences.values()]
    return replace(_run(jobs, workers), names=CAMVID)


def score_cityscapes(
    gt_dir: Path | str, pred_dir: Path | str, *, labels: Literal["train", "raw"] = "train", workers: int | None = 1
) -> SemanticScore:
    """Scores predictions of Cityscapes against a folder like gtFine/val, on its 19 classes.

    The truth is every CITY_SEQ_FRAME_gtFine_labelIds.png below GT_DIR, or ..._labelTrainIds.png if there are none of
    the former. Its prediction is the one .png below PRED_DIR whose name begins with the same CITY_SEQ_FRAME; others
    may lie about. `labels` is what predictions hold: "train" ids, 0..18, or the "raw" label ids of the data set,
    0..33, as its server wants. What is predicted as none of the 19 (255, or another label id) is wrong, as in the
    official script. True frames lie apart in time, so there is no VC; each counts as a video.

    `workers` and errors as in `score_vspw`."""
    truths, ids = _cityscapes_truths(Path(gt_dir))
    found = _by_frame(Path(pred_dir))
    if missing := [frame for frame in truths if frame not in found]:
        raise FileNotFoundError(
            f"{pred_dir} holds {len(truths) - len(missing)} of {len(truths)} frames; the first that is missing is "
            f"{missing[0]}*.png"
        )
    if double := [frame for frame in truths if len(found[frame]) > 1]:
        there = " and ".join(path.name for path in found[double[0]][:2])
        raise ValueError(f"{pred_dir} holds {there} for one frame; leave only the one with ids there")
    predicted = CITYSCAPES_LABELS if labels == "raw" else CITYSCAPES_CLASSES
    jobs = [_Job(len(CITYSCAPES), (), ((truths[f], found[f][0]),), ids, predicted) for f in truths]
    return replace(_run(jobs, workers), names=CITYSCAPES)


class FileIds(NamedTuple):
    """The id of each class in a file, and the void ids (None: all smaller ones that are left, and 255).

    `others`: a void id that VC tells from the rest of void."""

    ids: tuple[int, ...]
    void: tuple[int, ...] | None = None
    others: int | None = None

    def read(self, path: Path) -> Classes:
        labels = _read_ids(path)
        classes = to_train_ids(labels, self.ids, void=self.void, where=str(path))
        return classes if self.others is None else np.where(labels == self.others, np.uint8(OTHERS), classes)


CITYSCAPES_LABELS = FileIds(CITYSCAPES_TRAIN_IDS)
CITYSCAPES_CLASSES = FileIds(tuple(range(len(CITYSCAPES))), (VOID,))


class _Job(NamedTuple):
    """One video: (truth, prediction) files in order of time. `predicted` None: classes, and nothing else."""

    classes: int
    spans: tuple[int, ...]
    pairs: tuple[tuple[Path, Path], ...]
    truth: FileIds
    predicted: FileIds | None = None


def _vspw_names(root: Path) -> list[str]:
    if (root / "val.txt").is_file():
        return read_list(root / "val.txt")
    data = root / "data"
    names = sorted(p.name for p in data.iterdir() if p.is_dir()) if data.is_dir() else []
    if not names:
        raise FileNotFoundError(f"{root} holds no video; expected {root}/data/VIDEO/mask/00000000.png")
    return names


def _pairs(gt_dir: Path, pred_dir: Path) -> tuple[tuple[Path, Path], ...]:
    truths = list_images(gt_dir, {".png"})
    if not truths:
        raise FileNotFoundError(f"{gt_dir} holds no true mask (.png)")
    if not pred_dir.is_dir():
        raise FileNotFoundError(f"{pred_dir} does not exist; it should hold the predictions for {gt_dir}")
    there = {path.name for path in pred_dir.iterdir()}
    if missing := [path.name for path in truths if path.name not in there]:
        raise FileNotFoundError(
            f"{pred_dir} holds {len(truths) - len(missing)} of {len(truths)} frames; the first that is missing is "
            f"{missing[0]}. Predict the whole video"
        )
    return tuple((path, pred_dir / path.name) for path in truths)


def _cityscapes_truths(gt_dir: Path) -> tuple[dict[str, Path], FileIds]:
    """CITY_SEQ_FRAME -> file, and what these files hold."""
    for kind, ids in (("labelIds", CITYSCAPES_LABELS), ("labelTrainIds", CITYSCAPES_CLASSES)):
        end = f"_gtFine_{kind}.png"
        if paths := sorted(gt_dir.rglob(f"*{end}")):
            return {path.name.removesuffix(end): path for path in paths}, ids
    raise FileNotFoundError(f"{gt_dir} holds no CITY/CITY_SEQ_FRAME_gtFine_labelIds.png and no ..._labelTrainIds.png")


def _by_frame(folder: Path) -> dict[str, list[Path]]:
    """The .png files below a folder by the CITY_SEQ_FRAME that their names begin with."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.png")):
        found.setdefault("_".join(path.stem.split("_")[:3]), []).append(path)
    return found


def _run(jobs: Sequence[_Job], workers: int | None) -> SemanticScore:
    if not jobs:
        raise ValueError("there is no video to score; the list of names is empty")
    if workers is None:
        workers = _cores() if sum(len(job.pairs) for job in jobs) >= WORTH else 1
    scores = spread(_score_files, jobs, min(workers, len(jobs)))
    return reduce(operator.add, progress(scores, total=len(jobs), unit="videos", description="scoring"))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _score_files(job: _Job) -> SemanticScore:
    scorer = VideoScorer(job.classes, spans=job.spans)
    for gt, pred in job.pairs:
        truth, prediction = job.truth.read(gt), _read_prediction(pred, job)
        try:
            scorer.add(truth, prediction)
        except ValueError as error:
            raise ValueError(f"{pred}, against {gt}: {error}") from None
    return scorer.score()


def _read_prediction(path: Path, job: _Job) -> Classes:
    if job.predicted is not None:
        return job.predicted.read(path)
    labels = _read_ids(path)
    if (top := int(labels.max(initial=0))) >= job.classes:
        raise ValueError(
            f"{path} holds id {top}, but a prediction of {job.classes} classes holds ids 0 to {job.classes - 1} only: "
            "no void, and classes are counted from 0 even where the true masks count them from 1"
        )
    return labels


def _read_ids(path: Path) -> Classes:
    values = read_class_map(path)
    if (top := int(values.max(initial=0))) > VOID:
        raise ValueError(f"{path} holds id {top}; the ids of classes, void included, are 0 to {VOID}")
    return values.astype(np.uint8, copy=False)
