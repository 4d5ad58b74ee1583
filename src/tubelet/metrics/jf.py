"""J and F, the scores of video object segmentation (Perazzi et al., CVPR 2016; Pont-Tuset et al., 2017).

J is the intersection over union of an object's mask and the truth; F compares their outlines, with a
tolerance of 0.8 % of the image diagonal. `score_folders` follows the official davis2017-evaluation (semi-supervised):

- the objects are 1..n, n being the largest id in the first frame's truth; void (255) counts as background;
- the first and the last frame are not scored (their predictions need not exist);
- mean, recall (share of frames above 0.5) and decay (first quarter minus last) of each object over its frames,
  then the average over all objects.

`score_ytvos` is the same measure on the frames and objects of YouTube-VOS.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from tubelet.data.dataset import list_images, read_mask
from tubelet.data.ytvos import ObjectMeta, read_meta
from tubelet.metrics.processes import spread
from tubelet.types import VOID
from tubelet.viz.progress import progress

BOUND = 0.008
Ids = UInt8[np.ndarray, "H W"]
AnyIds = UInt8[np.ndarray, "_ _"]  # of any size, so that a wrong one is told in a sentence


# One frame ---------------------------------------------------------------------------------------------------------


def region_similarity(gt: Bool[np.ndarray, "H W"], pred: Bool[np.ndarray, "H W"]) -> float:
    """J: intersection over union, 0..1; 1 if both masks are empty."""
    union = np.count_nonzero(gt | pred)
    return np.count_nonzero(gt & pred) / union if union else 1.0


def boundary_measure(gt: Bool[np.ndarray, "H W"], pred: Bool[np.ndarray, "H W"], *, bound: float = BOUND) -> float:
    """F: harmonic mean of the precision and recall of the outline's pixels, 0..1; 1 if both outlines are empty.

    `bound` is the tolerance: a fraction of the image diagonal if below 1, else pixels."""
    radius = int(bound) if bound >= 1 else math.ceil(bound * np.linalg.norm(gt.shape))
    gt_outline, pred_outline = _outline(gt), _outline(pred)
    n_gt, n_pred = np.count_nonzero(gt_outline), np.count_nonzero(pred_outline)
    if not n_gt or not n_pred:
        return float(n_gt == n_pred)
    precision = np.count_nonzero(pred_outline & _dilate(gt_outline, radius)) / n_pred
    recall = np.count_nonzero(gt_outline & _dilate(pred_outline, radius)) / n_gt
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _outline(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The pixels that differ from their right, lower or lower right neighbour; at the image's edge there is none."""
    out = np.zeros_like(mask)
    out[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    out[:-1] |= mask[:-1] ^ mask[1:]
    out[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return out


def _dilate(mask: Bool[np.ndarray, "H W"], radius: int) -> Bool[np.ndarray, "H W"]:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    return cv2.dilate(mask.view(np.uint8), disk).view(bool)


def score_frame(
    gt: Ids, pred: AnyIds, objects: Sequence[int], *, bound: float = BOUND
) -> tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, " N"]]:
    """J and F of the given object ids in one frame. Raises `ValueError` if the two maps differ in size."""
    if gt.shape != pred.shape:
        raise ValueError(
            f"the prediction is {pred.shape[1]}x{pred.shape[0]} but the truth is {gt.shape[1]}x{gt.shape[0]}; "
            "bring the prediction back to the size of the video (nearest neighbour, never smoothed)"
        )
    radius = bound if bound >= 1 else float(math.ceil(bound * np.linalg.norm(gt.shape)))
    scores = [_score_object(gt == i, pred == i, radius) for i in objects]
    j, f = np.array(scores, np.float64).reshape(-1, 2).T
    return j, f


def _score_object(gt: Bool[np.ndarray, "H W"], pred: Bool[np.ndarray, "H W"], radius: float) -> tuple[float, float]:
    # Nothing happens further than one pixel from the two masks, so the rest of the image is cut away first.
    x, y, width, height = cv2.boundingRect((gt | pred).view(np.uint8))
    if not width:
        return 1.0, 1.0
    box = (slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1))
    return region_similarity(gt[box], pred[box]), boundary_measure(gt[box], pred[box], bound=radius)


# One sequence ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """`mean` over frames, `recall`: share of frames above 0.5, `decay`: first quarter minus last quarter."""

    mean: float
    recall: float
    decay: float


@dataclass(frozen=True)
class SequenceScore:
    """J and F of every object in every scored frame, (N, T); `objects` are the N ids."""

    name: str
    objects: tuple[int, ...]
    j: Float64[np.ndarray, "N T"]
    f: Float64[np.ndarray, "N T"]

    @property
    def jf_mean(self) -> float:
        return float(self.j.mean() + self.f.mean()) / 2


def statistics(values: Float64[np.ndarray, " T"]) -> tuple[float, float, float]:
    """Mean, recall and decay of one object's scores. Raises `ValueError` if there are none.

    The official decay keeps its bins' ends in 8 bits, which wrap around beyond 256 scored frames; here they do not."""
    if not len(values):
        raise ValueError("no scored frame; DAVIS leaves out the first and the last, so a video needs at least 3")
    ends = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[: ends[1] + 1], values[ends[3] :]
    return float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean())


def score_sequence(
    pairs: Iterable[tuple[Ids, Ids]], *, objects: Sequence[int], name: str = "", bound: float = BOUND
) -> SequenceScore:
    """Scores (truth, prediction) maps as they come; every pair counts, so leave out what the protocol leaves out.

    Raises `ValueError` if a pair differs in size or there is no pair."""
    frames = [score_frame(gt, pred, objects, bound=bound) for gt, pred in pairs]
    return _sequence(name, objects, frames)


def _sequence(name: str, objects: Sequence[int], frames: Sequence[tuple]) -> SequenceScore:
    if not frames:
        raise ValueError(f"{name or 'the sequence'} has no frame to score; DAVIS needs at least 3 (it skips two)")
    j, f = np.array(frames, np.float64).reshape(len(frames), 2, len(objects)).transpose(1, 2, 0)
    return SequenceScore(name, tuple(objects), j, f)


# Folders, DAVIS ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JFResult:
    """The scores of a set of sequences. All averages are over objects, so a sequence of three counts three times."""

    sequences: tuple[SequenceScore, ...]

    @property
    def j(self) -> Score:
        return _average(row for s in self.sequences for row in s.j)

    @property
    def f(self) -> Score:
        return _average(row for s in self.sequences for row in s.f)

    @property
    def jf_mean(self) -> float:
        return (self.j.mean + self.f.mean) / 2

    def to_json(self) -> dict:
        """The numbers under the official names; objects are called SEQUENCE_ID. `sequences` holds the same
        per sequence."""
        return {
            **self._summary(),
            "J-per-object": self._per_object("j"),
            "F-per-object": self._per_object("f"),
            "sequences": {s.name: JFResult((s,))._summary() for s in self.sequences},
        }

    def table(self) -> str:
        """One line per sequence and one for all, in percent."""
        rows = [(s.name, JFResult((s,))._summary()) for s in self.sequences] + [("ALL", self._summary())]
        width = max(len("sequence"), *(len(name) for name, _ in rows))
        lines = [f"{name:{width}}" + "".join(f"{100 * v:11.1f}" for v in row.values()) for name, row in rows]
        return "\n".join(["sequence".ljust(width) + "".join(f"{key:>11}" for key in rows[0][1]), *lines])

    def _summary(self) -> dict[str, float]:
        named = {"J": asdict(self.j), "F": asdict(self.f)}
        numbers = {f"{k}-{field.capitalize()}": v for k, score in named.items() for field, v in score.items()}
        return {"J&F-Mean": self.jf_mean, **numbers}

    def _per_object(self, measure: str) -> dict[str, float]:
        named = ((s, i, row) for s in self.sequences for i, row in zip(s.objects, getattr(s, measure), strict=True))
        return {f"{s.name}_{i}": float(row.mean()) for s, i, row in named}


def _average(rows: Iterable[np.ndarray]) -> Score:
    return Score(*(float(v) for v in np.mean([statistics(row) for row in rows], axis=0)))


def score_folders(
    gt_dir: Path | str,
    pred_dir: Path | str,
    *,
    sequences: Sequence[str] | None = None,
    binary: bool = False,
    workers: int = 1,
    bound: float = BOUND,
) -> JFResult:
    """Scores PRED_DIR/SEQUENCE/00000.png against GT_DIR/SEQUENCE/00000.png by the DAVIS protocol.

    `sequences`: those to score; None means every folder of GT_DIR. `binary` merges all objects (DAVIS 2016).
    `workers` above 1 starts that many processes (about a second each to start: worth it from about 1,000
    frames on; in a script, call it under `if __name__ == "__main__"`). One pair of frames per worker is in memory.

    Raises, naming the file: `FileNotFoundError` if a prediction is missing (before anything is scored),
    `ValueError` if one has another size or an id above the number of objects, `OSError` if one is damaged."""
    gt_dir, pred_dir = Path(gt_dir), Path(pred_dir)
    names = _sequence_names(gt_dir) if sequences is None else list(sequences)
    jobs = {name: _davis_jobs(gt_dir / name, pred_dir / name, binary, bound) for name in names}
    scores = iter(list(_run([job for part in jobs.values() for job in part], workers)))
    return JFResult(
        tuple(_sequence(name, part[0].objects, [next(scores) for _ in part]) for name, part in jobs.items())
    )


class _Job(NamedTuple):
    gt: Path
    pred: Path
    objects: tuple[int, ...]
    max_id: int
    binary: bool
    bound: float


def _sequence_names(gt_dir: Path) -> list[str]:
    names = sorted(p.name for p in gt_dir.iterdir() if p.is_dir()) if gt_dir.is_dir() else []
    if not names:
        raise FileNotFoundError(f"{gt_dir} holds no sequence folder; expected {gt_dir}/SEQUENCE/00000.png")
    return names


def _davis_jobs(gt_dir: Path, pred_dir: Path, binary: bool, bound: float) -> list[_Job]:
    paths = list_images(gt_dir, {".png"})
    if len(paths) < 3:
        raise ValueError(f"{gt_dir} has {len(paths)} masks; DAVIS skips the first and the last, so it takes 3 or more")
    first = read_mask(paths[0], binary=binary)
    count = _top_id(first)
    if not count:
        raise ValueError(f"{paths[0]} shows no object; the first mask says which objects are scored")
    objects = tuple(range(1, count + 1))
    return [_Job(gt, _predicted(pred_dir, gt.name), objects, count, binary, bound) for gt in paths[1:-1]]


def _predicted(pred_dir: Path, name: str) -> Path:
    if not pred_dir.is_dir():
        raise FileNotFoundError(
            f"{pred_dir} does not exist, so sequence {pred_dir.name} has no prediction; "
            "predict it, or name the sequences to score"
        )
    if not (pred_dir / name).is_file():
        raise FileNotFoundError(f"{pred_dir / name} does not exist, but that frame is scored; predict the whole video")
    return pred_dir / name


def _top_id(labels: Ids) -> int:
    top = int(labels.max(initial=0))
    return top if top < VOID else int(labels[labels < VOID].max(initial=0))


def _score_files(job: _Job) -> tuple[np.ndarray, np.ndarray]:
    gt, pred = read_mask(job.gt, binary=job.binary), read_mask(job.pred, binary=job.binary)
    top = _top_id(pred)
    if top > job.max_id:
        raise ValueError(
            f"{job.pred} holds label {top}, but the truth has objects 1 to {job.max_id} only; "
            "write the ids of the first frame's mask, unsmoothed"
        )
    try:
        return score_frame(gt, pred, job.objects, bound=job.bound)
    except ValueError as error:
        raise ValueError(f"{job.pred}: {error}") from None


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The scores of the jobs, in order, as they are done."""
    scores = spread(_score_files, jobs, workers, chunk=16)
    return progress(scores, total=len(jobs), unit="frames", description="scoring")


# Folders, YouTube-VOS ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class YTVOSResult:
    """Averages over the objects of the categories seen in training, and of the others; None where there is no
    object."""

    j_seen: float | None
    j_unseen: float | None
    f_seen: float | None
    f_unseen: float | None

    @property
    def overall(self) -> float | None:
        """G: the mean of the four, None unless all exist."""
        four = [self.j_seen, self.j_unseen, self.f_seen, self.f_unseen]
        numbers = [value for value in four if value is not None]
        return sum(numbers) / 4 if len(numbers) == 4 else None

    def to_json(self) -> dict[str, float | None]:
        return {
            "G": self.overall,
            "J_seen": self.j_seen,
            "J_unseen": self.j_unseen,
            "F_seen": self.f_seen,
            "F_unseen": self.f_unseen,
        }

    def table(self) -> str:
        """The five numbers in percent."""
        numbers = self.to_json().items()
        return "\n".join(f"{key:9}" + ("    -" if v is None else f"{100 * v:5.1f}") for key, v in numbers)


def score_ytvos(
    gt_dir: Path | str,
    pred_dir: Path | str,
    meta: Path | str,
    *,
    seen: Path | str | Iterable[str],
    workers: int = 1,
    bound: float = BOUND,
) -> YTVOSResult:
    """J and F of YouTube-VOS: folders as for `score_folders`, `meta` is the split's meta.json.

    `seen` are the training categories: a list, or the meta.json of the train split. An object is scored in
    the frames that meta.json lists for it, but for the first, where its mask is given. Its frames are
    averaged, then the objects of the seen and of the unseen categories.

    The official server's truth for `valid` is hidden, and so is its code: this follows the published
    description and was never compared with the server. It needs a truth of your own, for instance videos held
    out of `train`.

    Raises like `score_folders`."""
    videos = read_meta(meta)
    known = _seen_categories(seen)
    jobs = [job for name, objects in videos.items() for job in _ytvos_jobs(gt_dir, pred_dir, name, objects, bound)]
    values = {(name, i): [] for name, objects in videos.items() for i in objects}
    for job, (j, f) in zip(jobs, _run(jobs, workers), strict=True):
        for i, *pair in zip(job.objects, j, f, strict=True):
            values[job.gt.parent.name, i].append(pair)
    # an object that is annotated in one frame only has nothing to score
    means = {key: np.mean(pairs, axis=0) for key, pairs in values.items() if pairs}
    seen_means = [v for (name, i), v in means.items() if videos[name][i].category in known]
    unseen_means = [v for (name, i), v in means.items() if videos[name][i].category not in known]
    (j_seen, f_seen), (j_unseen, f_unseen) = _mean_pair(seen_means), _mean_pair(unseen_means)
    return YTVOSResult(j_seen, j_unseen, f_seen, f_unseen)


def _mean_pair(pairs: Sequence[np.ndarray]) -> tuple[float | None, float | None]:
    return tuple(np.mean(pairs, axis=0).tolist()) if pairs else (None, None)


def _seen_categories(seen: Path | str | Iterable[str]) -> set[str]:
    if not isinstance(seen, Path | str):
        return set(seen)
    return {entry.category for objects in read_meta(seen).values() for entry in objects.values()}


def _ytvos_jobs(
    gt_dir: Path | str, pred_dir: Path | str, name: str, objects: dict[int, ObjectMeta], bound: float
) -> list[_Job]:
    scored = {i: set(entry.frames) - {min(entry.frames, default="")} for i, entry in objects.items()}
    jobs = []
    for frame in sorted(set().union(*scored.values())):
        gt = Path(gt_dir) / name / f"{frame}.png"
        if not gt.is_file():
            raise FileNotFoundError(f"{gt} does not exist, but meta.json lists that frame for scoring")
        present = tuple(i for i, frames in scored.items() if frame in frames)
        jobs.append(_Job(gt, _predicted(Path(pred_dir) / name, gt.name), present, max(objects), False, bound))
    return jobs
