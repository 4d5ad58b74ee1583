"""AP and AR of video instance segmentation (Yang et al., ICCV 2019), as the YouTube-VIS and OVIS servers compute them.

The protocol is COCO's with tubes in place of masks. What is unusual in it, and kept:

- the IoU of two tubes is taken over all their frames at once (`tubes.overlap`);
- sizes are the mean area over the frames where an instance is visible, as the file says it, and small, medium and
  large part at 128² and 256² pixels (COCO: 32² and 96²);
- per video and category the 100 best predictions count, equal scores in the order of the file;
- crowds are ignored: they may be matched any number of times, which neither helps nor hurts;
- an instance whose id is 0 can be taken but never counts as found, since the official script stores matches as ids.

Predictions are read piece by piece, reduced to their score, size and overlaps, and forgotten.
"""

import gc
import json
import os
import sys
import threading
import warnings
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from tubelet.data.json_stream import list_pieces
from tubelet.data.ytvis import VISData, VISInstance, read_prediction, read_predictions, read_ytvis, write_submission
from tubelet.metrics.tubes import Tube, make_tube, overlap
from tubelet.viz.progress import progress

THRESHOLDS = np.linspace(0.5, 0.95, 10)
LEVELS = THRESHOLDS.tolist()
RECALLS = np.linspace(0, 1, 101)
MOST = 100  # predictions per video and category
NOTHING = -1.0  # the score where there is nothing to score
WORTH = 8 << 20  # bytes of predictions from which a second process pays

Group = tuple[int, int]  # the ids of a video and a category


@dataclass(frozen=True)
class Subset:
    """Which instances count: limits of the mean area in pixels, and of the occlusion (0..1, OVIS), all inclusive."""

    area: tuple[float, float] = (0.0, 1e10)
    occlusion: tuple[float, float] | None = None


ALL = Subset()
SIZES = {"s": Subset((0.0, 128.0**2)), "m": Subset((128.0**2, 256.0**2)), "l": Subset((256.0**2, 1e10))}
# slightly, moderately and heavily occluded; a score at a limit is in both, as in the official script
OCCLUSIONS = {
    "so": Subset(occlusion=(0.0, 0.25)),
    "mo": Subset(occlusion=(0.25, 0.5)),
    "ho": Subset(occlusion=(0.5, 1.0)),
}
OCCLUSION_SCORE = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}


# What is known of each tube ------------------------------------------------------------------------------------------


class Truth(NamedTuple):
    """One true instance, without its masks."""

    id: int
    area: float
    crowd: bool
    occlusion: float


class Found(NamedTuple):
    """One prediction, without its masks. `overlaps`: IoU with each true instance of its video and category,
    or 0 where that gives the same score (`_measure_group`)."""

    group: Group
    score: float
    area: float
    overlaps: tuple[float, ...]


class Scene:
    """The truth of all videos. Its tubes are measured when first needed; RLE stays compressed."""

    def __init__(self, data: VISData, path: Path | str) -> None:
        self.data, self.path = data, path
        self.instances: dict[Group, list[VISInstance]] = {}
        for instance in (i for group in data.instances.values() for i in group):
            self.instances.setdefault((instance.video_id, instance.category_id), []).append(instance)
        self._tubes: dict[Group, list[Tube]] = {}

    def tubes(self, group: Group) -> list[Tube]:
        if group not in self._tubes:
            self._tubes[group] = [self._tube(instance) for instance in self.instances.get(group, ())]
        return self._tubes[group]

    def _tube(self, instance: VISInstance) -> Tube:
        try:
            return make_tube(instance)
        except ValueError as error:
            raise ValueError(f"{self.path}: annotation {instance.id}, {error}") from None

    def truths(self) -> dict[Group, list[Truth]]:
        return {group: [self._truth(i, group, k) for k, i in enumerate(v)] for group, v in self.instances.items()}

    def _truth(self, instance: VISInstance, group: Group, k: int) -> Truth:
        stated = np.array([area for area in instance.areas if area], float)
        area = float(stated.mean()) if len(stated) else 0.0
        if not instance.areas:
            area = self.tubes(group)[k].mean_area
        return Truth(instance.id, area, instance.iscrowd, occlusion_score(instance.occlusion))


def occlusion_score(labels: Sequence[str | None]) -> float:
    """The mean over the more occluded half of an instance's frames, 0..1 (Qi et al., IJCV 2022); 0 without labels."""
    scores = sorted(OCCLUSION_SCORE[label] for label in labels if label is not None)
    worse = scores[len(scores) // 2 :]
    return sum(worse) / len(worse) if worse else 0.0


def measure(scene: Scene, predictions: Iterable[VISInstance], path: Path | str) -> list[Found]:
    """Raises `ValueError` naming the prediction whose masks are damaged or of another size."""
    groups: dict[Group, list[tuple[int, float, Tube]]] = {}
    for number, prediction in enumerate(predictions):
        try:
            entry = number, prediction.score or 0.0, make_tube(prediction)
        except ValueError as error:
            raise ValueError(f"{path}: prediction {prediction.id}, {error}") from None
        groups.setdefault((prediction.video_id, prediction.category_id), []).append(entry)
    found = [
        (number, one) for group, entries in groups.items() for number, one in _measure_group(scene, group, entries)
    ]
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def _measure_group(scene: Scene, group: Group, entries: list[tuple[int, float, Tube]]) -> Iterator[tuple[int, Found]]:
    """Best score first, so that overlaps can be left out (be 0) where they cannot matter.

    They cannot at a threshold where the instance is surely taken: by a better prediction that, at this threshold,
    overlaps nothing else. The thresholds from `open_at` on are those where it may be free. Such an answer stays right
    if more predictions of the group, better or worse, are met elsewhere in the file."""
    truths, crowd = scene.tubes(group), [instance.iscrowd for instance in scene.instances.get(group, ())]
    open_at = [0] * len(truths)
    for number, score, tube in sorted(entries, key=lambda entry: -entry[1]):
        overlaps = [
            overlap(tube, true, LEVELS[k]) if k < len(LEVELS) else 0.0 for true, k in zip(truths, open_at, strict=True)
        ]
        yield number, Found(group, score, tube.mean_area, tuple(overlaps))
        if truths:
            best = max(range(len(truths)), key=overlaps.__getitem__)
            second = max((v for g, v in enumerate(overlaps) if g != best), default=0.0)
            while not crowd[best] and open_at[best] < len(LEVELS) and second < LEVELS[open_at[best]] <= overlaps[best]:
                open_at[best] += 1


# Matching: one video, one category -----------------------------------------------------------------------------------


class Matches(NamedTuple):
    """Of D predictions at each threshold: found something, or to be ignored. `count`: instances to be found."""

    hit: Bool[np.ndarray, "10 D"]
    ignored: Bool[np.ndarray, "10 D"]
    count: int


@dataclass(frozen=True)
class Contest:
    """The instances of one video and category, and its predictions, best score first."""

    truths: Sequence[Truth]
    found: Sequence[Found]

    def match(self, subset: Subset) -> Matches:
        """An instance outside of the subset is taken only where none inside is left. Such a prediction is ignored, and
        so is one that takes nothing and is itself outside of the subset's sizes."""
        low, high = subset.area
        out = [t.crowd or not low <= t.area <= high or not _inside(t.occlusion, subset.occlusion) for t in self.truths]
        took = _take(self.truths, self.found, out) if any(out) and not all(out) else self._took
        outside = np.array([not low <= prediction.area <= high for prediction in self.found], bool)
        hit = np.array([*(t.id != 0 for t in self.truths), False], bool)[took]  # -1, nothing, is the last
        ignored = np.array([*out, False], bool)[took] | (outside & ~hit)
        return Matches(hit, ignored, out.count(False))

    @cached_property
    def _took(self) -> Int64[np.ndarray, "10 D"]:
        """Where all instances are alike."""
        return _take(self.truths, self.found, [False] * len(self.truths))


def _take(truths: Sequence[Truth], found: Sequence[Found], out: Sequence[bool]) -> Int64[np.ndarray, "10 D"]:
    """Which instance each prediction takes at each threshold, -1 for none: best score first, the free one that it
    overlaps most."""
    took = np.full((len(LEVELS), len(found)), -1)
    taken: list[set[int]] = [set() for _ in LEVELS]
    for d, prediction in enumerate(found):
        overlaps = prediction.overlaps
        near = [g for g, overlap in enumerate(overlaps) if overlap >= LEVELS[0]]
        if not near:
            continue
        for t in range(bisect_right(LEVELS, max(overlaps))):
            free = [g for g in near if overlaps[g] >= LEVELS[t] and g not in taken[t]]
            if free:
                # those inside of the subset first; of equal ones the last
                best = max(reversed([g for g in free if not out[g]] or free), key=overlaps.__getitem__)
                took[t, d] = best
                if not truths[best].crowd:
                    taken[t].add(best)
    return took


def _inside(value: float, limits: tuple[float, float] | None) -> bool:
    return limits is None or limits[0] <= value <= limits[1]


# Curves: one category, all videos ------------------------------------------------------------------------------------


class Curve(NamedTuple):
    """Precision at 101 recalls, and the recall reached, at each threshold."""

    precision: Float64[np.ndarray, "10 101"]
    recall: Float64[np.ndarray, " 10"]


def curve(
    scores: Float64[np.ndarray, " D"], hit: Bool[np.ndarray, "10 D"], ignored: Bool[np.ndarray, "10 D"], count: int
) -> Curve:
    """From the matches of all videos; `count` instances are to be found, at least one."""
    order = np.argsort(-scores, kind="stable")
    true = np.cumsum((hit & ~ignored)[:, order], 1, dtype=float)
    false = np.cumsum((~hit & ~ignored)[:, order], 1, dtype=float)
    recall, exact = true / count, true / (true + false + np.spacing(1))
    best = np.maximum.accumulate(exact[:, ::-1], 1)[:, ::-1]  # the best precision at this recall or beyond
    precision = np.zeros((len(THRESHOLDS), len(RECALLS)))
    for t in range(len(THRESHOLDS)):
        at = np.searchsorted(recall[t], RECALLS, side="left")
        precision[t, at < len(scores)] = best[t, at[at < len(scores)]]
    return Curve(precision, recall[:, -1] if len(scores) else np.zeros(len(THRESHOLDS)))


def _curves(contests: Sequence[Contest], subset: Subset, limits: Sequence[int]) -> list[Curve | None]:
    """The curves of one category with the best `limits` predictions of each video; the contests are its videos."""
    matches = [contest.match(subset) for contest in contests]
    count = sum(m.count for m in matches)
    if not count:
        return [None] * len(limits)
    return [
        curve(
            np.array([f.score for contest in contests for f in contest.found[:most]], float),
            np.concatenate([m.hit[:, :most] for m in matches], 1),
            np.concatenate([m.ignored[:, :most] for m in matches], 1),
            count,
        )
        for most in limits
    ]


# Results -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CategoryScore:
    """One line of the table; -1 where the category has no instance."""

    id: int
    name: str
    instances: int
    numbers: dict[str, float]


@dataclass(frozen=True)
class VISResult:
    """`numbers`: the official ones under their official names, 0..1, -1 where there is nothing to score.

    `short`, `long`: the same on the shorter and the longer videos, where these were asked for."""

    numbers: dict[str, float]
    categories: tuple[CategoryScore, ...]
    short: "VISResult | None" = None
    long: "VISResult | None" = None

    @property
    def ap(self) -> float:
        return self.numbers["AP"]

    def to_json(self) -> dict[str, Any]:
        """The numbers, then `categories` (by id), and `short`, `long` and their `mean` if there are any.

        The mean of AP over short and long is what YouTube-VIS 2022 ranks by."""
        out: dict[str, Any] = dict(self.numbers)
        out["categories"] = {
            str(c.id): {"name": c.name, "instances": c.instances, **c.numbers} for c in self.categories
        }
        if self.short and self.long:
            out |= {"short": self.short.numbers, "long": self.long.numbers}
            out["mean"] = {k: (v + self.long.numbers[k]) / 2 for k, v in self.short.numbers.items() if v >= 0}
        return out

    def table(self) -> str:
        """The numbers in percent, a line per category that has instances, and the split by length."""
        named = [("ALL", self)] + [(n, r) for n, r in (("SHORT", self.short), ("LONG", self.long)) if r]
        head = list(self.numbers)
        lines = ["".ljust(6) + "".join(f"{key:>7}" for key in head)]
        lines += [f"{name:6}" + "".join(_percent(r.numbers[key], 7) for key in head) for name, r in named]
        rows = [c for c in self.categories if c.instances]
        width = max([len("category"), *(len(c.name) for c in rows)])
        lines += ["", "category".ljust(width) + "".join(f"{k:>7}" for k in (*CATEGORY_NUMBERS, "number"))]
        lines += [
            c.name.ljust(width) + "".join(_percent(c.numbers[k], 7) for k in CATEGORY_NUMBERS) + f"{c.instances:7}"
            for c in rows
        ]
        return "\n".join(lines)


CATEGORY_NUMBERS = ("AP", "AP50", "AP75", "AR1", "AR10", "AR100")


def _percent(value: float, width: int) -> str:
    return f"{100 * value:{width}.1f}" if value >= 0 else "-".rjust(width)


def summarise(
    data: VISData, truths: dict[Group, list[Truth]], found: Sequence[Found], videos: Iterable[int], *, occlusion: bool
) -> VISResult:
    """The numbers on some of the videos."""
    videos, ranked = sorted(videos), _rank(found)
    subsets = {**SIZES, **(OCCLUSIONS if occlusion else {})}
    wanted: list[tuple[str, Subset, tuple[int, ...]]] = [("", ALL, (1, 10, MOST))]
    wanted += [(name, subset, (MOST,)) for name, subset in subsets.items()]
    curves: dict[tuple[str, int], list[Curve | None]] = {(n, most): [] for n, _, limits in wanted for most in limits}
    for category in sorted(data.categories):
        groups = [g for video in videos if (g := (video, category)) in truths or g in ranked]
        contests = [Contest(truths.get(g, []), ranked.get(g, [])) for g in groups]
        for name, subset, limits in wanted:
            for most, one in zip(limits, _curves(contests, subset, limits), strict=True):
                curves[name, most].append(one)
    count = {c: sum(not t.crowd for v in videos for t in truths.get((v, c), ())) for c in data.categories}
    table = tuple(
        CategoryScore(c, data.categories[c], count[c], _main_numbers({k: [v[i]] for k, v in curves.items()}))
        for i, c in enumerate(sorted(data.categories))
    )
    return VISResult(_numbers(curves, list(subsets)), table)


def _rank(found: Sequence[Found]) -> dict[Group, list[Found]]:
    ranked: dict[Group, list[Found]] = {}
    for one in found:
        ranked.setdefault(one.group, []).append(one)
    return {group: sorted(some, key=lambda f: -f.score)[:MOST] for group, some in ranked.items()}


def _main_numbers(curves: dict[tuple[str, int], list[Curve | None]]) -> dict[str, float]:
    best = [c for c in curves["", MOST] if c]
    return {
        "AP": _mean([c.precision for c in best]),
        "AP50": _mean([c.precision[0] for c in best]),
        "AP75": _mean([c.precision[5] for c in best]),
        **{f"AR{most}": _mean([c.recall for c in curves["", most] if c]) for most in (1, 10, MOST)},
    }


def _numbers(curves: dict[tuple[str, int], list[Curve | None]], subsets: Sequence[str]) -> dict[str, float]:
    main = _main_numbers(curves)
    precision = {f"AP{name}": _mean([c.precision for c in curves[name, MOST] if c]) for name in subsets}
    recall = {f"AR{name}": _mean([c.recall for c in curves[name, MOST] if c]) for name in subsets}
    return {k: main[k] for k in ("AP", "AP50", "AP75")} | precision | {k: main[k] for k in main if "R" in k} | recall


def _mean(values: Sequence[np.ndarray]) -> float:
    return float(np.mean(values)) if len(values) else NOTHING


# Files ---------------------------------------------------------------------------------------------------------------


def score_vis(
    gt: Path | str,
    pred: Path | str,
    *,
    occlusion: bool = False,
    long: Callable[[int, str, int], bool] | None = None,
    workers: int | None = None,
) -> VISResult:
    """Scores a result file against a YouTube-VIS or OVIS file (each plain, .gz or .zip).

    `occlusion` adds OVIS' slightly, moderately and heavily occluded instances. `long` says of a video (id, name,
    frames) whether it is a long one: then short and long videos are also scored apart. `workers` is the number of
    processes; None takes all cores where the file is large enough and they start quickly (on Linux, before torch is
    imported). With a number above 1 elsewhere, call it under `if __name__ == "__main__"`.

    The truth stays in memory compressed, the predictions piece by piece (some megabytes per process).
    Raises `FileNotFoundError`, or `ValueError` in a sentence: not JSON, an id that is unknown or given twice, masks
    that are too many, too few, damaged, or of another size."""
    data = read_ytvis(gt)
    if not data.instances:
        raise ValueError(
            f"{gt} has no annotations, so there is nothing to score against (the official valid and test "
            "files are like that); split off a part of train, or submit to the server"
        )
    _check_truth(data, gt, occlusion)
    if not Path(pred).is_file():
        raise FileNotFoundError(f"{pred} does not exist; expected the predictions, a JSON list")
    scene = Scene(data, gt)
    found = _measure_file(scene, Path(pred), _processes(pred) if workers is None else workers)
    truths = scene.truths()
    result = summarise(data, truths, found, data.videos, occlusion=occlusion)
    if long is None:
        return result
    lengthy = {v.id for v in data.videos.values() if long(v.id, v.name, v.length)}
    parts = [summarise(data, truths, found, ids, occlusion=occlusion) for ids in (set(data.videos) - lengthy, lengthy)]
    return VISResult(result.numbers, result.categories, *parts)


def _check_truth(data: VISData, path: Path | str, occlusion: bool) -> None:
    instances = [instance for group in data.instances.values() for instance in group]
    if any(instance.id == 0 for instance in instances):
        warnings.warn(
            f"{path} has an annotation with the id 0, which the official script never counts as found; "
            "number annotations from 1",
            stacklevel=3,
        )
    without = [i.id for i in instances if not i.occlusion]
    if occlusion and len(without) == len(instances):
        warnings.warn(f"{path} says nothing about occlusion, so all instances count as not occluded", stacklevel=3)
    elif occlusion and without:
        raise ValueError(f"{path}: annotation {without[0]} has no `occlusion`, but others do ({len(without)} without)")


def _processes(pred: Path | str) -> int:
    """As many as pay: without a fork each takes longer to start than most files take to score."""
    with Path(pred).open("rb") as file:
        packed = file.read(2) in (b"\x1f\x8b", b"PK")
    size = Path(pred).stat().st_size * (3 if packed else 1)
    return len(os.sched_getaffinity(0)) if size >= WORTH and _can_fork() else 1


def long_videos(text: str) -> Callable[[int, str, int], bool]:
    """What `score_vis` takes as `long`, from a number of frames or the name of a text file of ids or names.

    YouTube-VIS 2022 says only in its competition which of its videos are the long ones, so there is no default.
    Raises `FileNotFoundError` if it is neither."""
    if text.isdigit():
        return lambda number, name, frames: frames >= int(text)
    if not Path(text).is_file():
        raise FileNotFoundError(f"{text} is neither a number of frames nor a file with the ids or names of long videos")
    listed = set(Path(text).read_text().split())
    return lambda number, name, frames: name in listed or str(number) in listed


def pack(zip_path: Path | str, gt: Path | str, pred: Path | str) -> bool:
    """Writes the submission (`data.ytvis.write_submission`), says so, and returns whether `gt` has a truth to score."""
    data = read_ytvis(gt)
    count = write_submission(zip_path, pred, data)
    print(f"{zip_path}: {count} predictions for {len(data)} videos")
    return bool(data.instances)


# Reading and measuring -----------------------------------------------------------------------------------------------


def _measure_file(scene: Scene, pred: Path, workers: int) -> list[Found]:
    """Everything that the numbers need of the predictions, in the order of the file."""
    found: list[Found] = []
    try:
        met = _until_met(_map_pieces(scene, pred, workers), found)
        for _ in progress(met, total=len(scene.data), unit="videos", description="scoring"):
            pass
        return found
    except ValueError:
        # Something is wrong, or the file is laid out so that it cannot be cut. Element by element tells which.
        return measure(scene, read_predictions(scene.data, pred), pred)


def _until_met(pieces: Iterable[list[Found]], found: list[Found]) -> Iterator[int]:
    """Puts everything into `found`, and yields each video when the first of its predictions is there."""
    met: set[int] = set()
    for piece in pieces:
        found += piece
        videos = dict.fromkeys(one.group[0] for one in piece)
        yield from (video for video in videos if video not in met)
        met.update(videos)


def _map_pieces(scene: Scene, pred: Path, workers: int) -> Iterator[list[Found]]:
    pieces = list_pieces(pred)
    if workers <= 1:
        yield from (_measure_piece(piece, scene, pred) for piece in pieces)
        return
    waiting: deque[Future[list[Found]]] = deque()
    context = get_context("fork" if _can_fork() else "spawn")
    with ProcessPoolExecutor(workers, context, _set_scene, (scene, pred)) as pool:
        for piece in pieces:
            waiting.append(pool.submit(_measure_piece, piece))
            if len(waiting) > 2 * workers:  # the file is read no faster than it is scored
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _can_fork() -> bool:
    """A fork starts at once and shares the truth. With other threads about, or torch's, it is not safe."""
    return sys.platform == "linux" and threading.active_count() == 1 and "torch" not in sys.modules


_scene: tuple[Scene, Path] | None = None  # of a worker process


def _set_scene(scene: Scene, pred: Path) -> None:
    global _scene
    _scene = scene, pred
    gc.freeze()  # what came with a fork need not be looked through for garbage


def _measure_piece(piece: bytes, scene: Scene | None = None, pred: Path | None = None) -> list[Found]:
    if scene is None or pred is None:
        assert _scene is not None
        scene, pred = _scene
    entries = json.loads(piece)
    if not isinstance(entries, list):
        raise ValueError("a result file is a list")
    predictions = (read_prediction(scene.data, entry, i + 1, pred) for i, entry in enumerate(entries))
    return measure(scene, predictions, pred)
