"""AP: recorded numbers of the official script, the rules that are easy to get wrong, and bad files."""

import gzip
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tubelet.data.json_stream import list_pieces
from tubelet.data.ytvis import read_ytvis
from tubelet.metrics import vis_ap
from tubelet.metrics.tubes import make_tube, overlap
from tubelet.metrics.vis_ap import Scene, long_videos, measure, occlusion_score, pack, score_vis, summarise
from tubelet.types import encode_rle

HERE = Path(__file__).parent
ROOT = Path(os.environ.get("TUBELET_PARITY", HERE / "parity"))
SIZE = (40, 60)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "ytvis_ap").glob("*.expected.json")), ids=lambda p: p.name.split(".")[0]
)
def test_parity(path, tmp_path):
    name = path.name.removesuffix(".expected.json")
    gt, pred = (path.with_name(f"{name}.{kind}.json.gz") for kind in ("gt", "pred"))
    expected = json.loads(path.read_text())
    numbers = score_vis(gt, pred).numbers
    assert list(numbers) == list(expected)
    assert max(abs(numbers[key] - value) for key, value in expected.items()) <= 1e-9
    plain = tmp_path / "pred.json"
    plain.write_bytes(gzip.decompress(pred.read_bytes()))
    assert score_vis(gt, plain, workers=2).numbers == numbers


# Small cases ---------------------------------------------------------------------------------------------------------


def box(x: int, y: int = 0, width: int = 10, height: int = 10) -> dict:
    mask = np.zeros(SIZE, bool)
    mask[y : y + height, x : x + width] = True
    return encode_rle(mask)


class Case:
    """Files with videos of two frames, or more."""

    def __init__(self, folder: Path, videos: int = 1, categories: int = 1, frames: int = 2):
        self.folder, self.results = folder, []
        names = [f"{t:05d}.jpg" for t in range(frames)]
        self.truth = {
            "annotations": [],
            "videos": [
                {"id": v, "height": 40, "width": 60, "length": frames, "file_names": [f"v{v}/{n}" for n in names]}
                for v in range(1, videos + 1)
            ],
            "categories": [{"id": c, "name": f"class {c}"} for c in range(1, categories + 1)],
        }

    def true(self, *masks, video=1, category=1, **more):
        entry = {"id": len(self.truth["annotations"]) + 1, "video_id": video, "category_id": category, "iscrowd": 0}
        self.truth["annotations"].append({**entry, "segmentations": list(masks), **more})
        return self

    def found(self, score, *masks, video=1, category=1):
        entry = {"video_id": video, "category_id": category, "score": score, "segmentations": list(masks)}
        self.results.append(entry)
        return self

    def write(self) -> tuple[Path, Path]:
        gt, pred = self.folder / "gt.json", self.folder / "pred.json"
        gt.write_text(json.dumps(self.truth))
        pred.write_text(json.dumps(self.results))
        return gt, pred

    def score(self, **options):
        return score_vis(*self.write(), **options)


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


def test_perfect(case):
    numbers = case.true(box(0), box(2)).found(0.3, box(0), box(2)).score().numbers
    assert all(numbers[key] == pytest.approx(1) for key in ("AP", "AP50", "AP75", "APs", "AR1", "AR100", "ARs"))
    assert (numbers["APm"], numbers["APl"]) == (-1, -1)


def test_no_prediction(case):
    numbers = case.true(box(0), box(2)).score().numbers
    assert (numbers["AP"], numbers["AR100"], numbers["APl"]) == (0, 0, -1)


def test_an_absent_frame_counts_in_the_union_only(case):
    case.true(box(0), None, areas=[100, None]).found(0.9, box(0), box(0))
    assert case.score().numbers["AP"] == pytest.approx(0.1)  # IoU 0.5 exactly: found at the first threshold only
    case.results[0]["segmentations"] = [box(0), box(0, width=11)]
    assert case.score().numbers["AP"] == 0


def test_an_empty_mask_is_an_absent_one(case):
    case.true(box(0), None).found(0.9, box(0), box(0, width=0))
    assert case.score().numbers["AP"] == pytest.approx(1)


def test_the_later_duplicate_is_wrong(case):
    case.true(box(0), box(0)).true(box(30), box(30))
    case.found(0.9, box(0), box(0)).found(0.8, box(0), box(0)).found(0.7, box(30), box(30))
    assert case.score().ap == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert case.score().numbers["AR1"] == pytest.approx(0.5)


def test_equal_scores_go_by_the_order_of_the_file(case):
    case.true(box(0), box(0)).found(0.5, box(30), box(30)).found(0.5, box(0), box(0))
    assert case.score().ap == pytest.approx(0.5)
    case.results.reverse()
    assert case.score().ap == pytest.approx(1)


def test_only_the_best_hundred_count(case):
    case.true(box(0), box(0))
    for _ in range(100):
        case.found(0.9, box(30), box(30))
    assert case.found(0.8, box(0), box(0)).score().numbers["AR100"] == 0
    case.results.pop(0)
    assert case.score().numbers["AR100"] == 1


def test_crowds_neither_help_nor_hurt(case):
    case.true(box(0), box(0)).true(box(30), box(30), iscrowd=1)
    case.found(0.9, box(30), box(30)).found(0.8, box(30), box(30)).found(0.7, box(0), box(0))
    assert case.score().ap == pytest.approx(1)


def test_only_crowds_is_nothing_to_score(case):
    assert case.true(box(0), box(0), iscrowd=1).found(0.9, box(0), box(0)).score().ap == -1


def test_sizes_are_those_the_file_states(case):
    case.true(box(0), None, areas=[20000, None]).true(box(30), box(30), areas=[100, 100])
    case.found(0.9, box(0), None).found(0.8, box(30), box(30))
    numbers = case.score().numbers
    assert numbers["APm"] == pytest.approx(1)
    assert numbers["APs"] == pytest.approx(1)  # the first prediction took an instance that is ignored there
    assert numbers["APl"] == -1


def test_an_instance_of_the_asked_size_comes_first(case):
    case.true(box(0), box(0), areas=[20000, 20000]).true(box(1), box(1), areas=[100, 100])
    case.found(0.9, box(0), box(0))
    assert case.score().numbers["APs"] == pytest.approx(0.7)  # its IoU with the small one is 0.82
    # Then the large one is still free for the next, which is ignored, too, where both could have been taken.
    case.true(box(30), box(30), areas=[100, 100])
    case.found(0.8, box(0), box(0)).found(0.7, box(30), box(30))
    assert case.score().numbers["APs"] == pytest.approx(0.7 + 0.3 * 0.5 * 51 / 101)


def test_id_zero_is_never_found(case):
    case.true(box(0), box(0)).found(0.9, box(0), box(0))
    case.truth["annotations"][0]["id"] = 0
    with pytest.warns(UserWarning, match="id 0"):
        assert case.score().ap == 0


def test_categories_and_videos_are_apart(tmp_path):
    case = Case(tmp_path, videos=2, categories=3)
    case.true(box(0), box(0)).true(box(0), box(0), video=2, category=2)
    case.found(0.9, box(0), box(0)).found(0.9, box(0), box(0), video=1, category=2)
    result = case.score()
    assert [c.numbers["AP"] for c in result.categories] == [pytest.approx(1), 0, -1]
    assert [c.instances for c in result.categories] == [1, 1, 0]
    assert result.ap == pytest.approx(0.5)
    assert "class 2" in result.table()
    assert "class 3" not in result.table()
    assert result.to_json()["categories"]["1"]["AP"] == pytest.approx(1)


def test_short_and_long(tmp_path):
    case = Case(tmp_path, videos=2)
    case.true(box(0), box(0)).true(box(0), box(0), video=2).found(0.9, box(0), box(0), video=2)
    (tmp_path / "long.txt").write_text("v2\n")
    for text in (str(tmp_path / "long.txt"), "3"):
        numbers = case.score(long=long_videos(text)).to_json()
        expected = (0, 1, 0.5) if text != "3" else (pytest.approx(51 / 101), -1, None)
        assert numbers["short"]["AP"] == expected[0]
        assert numbers["long"]["AP"] == pytest.approx(expected[1])
        assert expected[2] is None or numbers["mean"]["AP"] == pytest.approx(0.5)
    with pytest.raises(FileNotFoundError, match="neither a number"):
        long_videos("nowhere.txt")


# Occlusion -----------------------------------------------------------------------------------------------------------


def test_occlusion_score():
    none, slight, severe = vis_ap.OCCLUSION_SCORE
    assert occlusion_score([none, slight, severe, None]) == pytest.approx(0.5)  # the worse two of three
    assert occlusion_score([None, severe]) == 0.75
    assert occlusion_score([None]) == 0


def test_occlusion_groups(case):
    for i, label in enumerate(vis_ap.OCCLUSION_SCORE):
        case.true(box(20 * i), None, occlusion=[label, None])
    case.found(0.9, box(0), None).found(0.8, box(40), None)
    numbers = case.score(occlusion=True).numbers
    assert list(numbers)[3:9] == ["APs", "APm", "APl", "APso", "APmo", "APho"]
    assert len(numbers) == 18
    assert numbers["APso"] == pytest.approx(51 / 101)  # 0.25 is a limit: both sides have it
    assert (numbers["APmo"], numbers["APho"]) == (0, pytest.approx(1))
    assert "APso" not in case.score().numbers


def plain_ap(truths: list[list[tuple]], found: list[list[tuple]], low: float, high: float) -> float:
    """AP of one category from its definition, for instances whose occlusion is in low..high. Of each video the truths
    (pixels, labels) and the predictions (pixels, score), where pixels are a set."""
    worth = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}
    inside = []
    for video in truths:
        inside.append([])
        for _, labels in video:
            scores = sorted((worth[label] for label in labels if label is not None), reverse=True)
            half = scores[: -(-len(scores) // 2)]
            inside[-1].append(low <= sum(half) / len(half) <= high)
    wanted = sum(map(sum, inside))
    if not wanted:
        return -1
    ranked = sorted(
        ((score, v, pixels) for v, video in enumerate(found) for pixels, score in video), key=lambda x: -x[0]
    )
    precisions = []
    for threshold in np.linspace(0.5, 0.95, 10):
        taken, right, wrong, points = set(), 0, 0, []
        for _, v, pixels in ranked:
            fits = []
            for g, (true, _) in enumerate(truths[v]):
                iou = len(pixels & true) / len(pixels | true)
                if (v, g) not in taken and iou >= threshold:
                    fits.append((inside[v][g], iou, g))
            if fits:
                counts, _, g = max(fits)
                taken.add((v, g))
                right += counts  # outside of the group it is neither right nor wrong
            else:
                wrong += 1
            points.append((right / wanted, right / max(1, right + wrong)))
        precisions += [max((p for r, p in points if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]
    return float(np.mean(precisions))


def occluded(folder: Path, seed: int) -> tuple[Case, list[list[tuple]], list[list[tuple]]]:
    """Three videos of three frames with instances of all groups, predictions near and far, and their pixels."""
    rng, case = np.random.default_rng(seed), Case(folder, videos=3, frames=3)
    names, scores = list(vis_ap.OCCLUSION_SCORE), iter(rng.permutation(100) / 100)
    truths, found = [[], [], []], [[], [], []]

    def pixels(x: int, y: int) -> set:
        return {(t, i, j) for t in range(3) for i in range(y, min(y + 10, 40)) for j in range(x, x + 10)}

    for v in range(3):
        for _ in range(rng.integers(1, 5)):
            x, y = rng.integers(0, 30, 2).tolist()
            labels = [names[i] for i in rng.integers(0, 3, 3)]
            case.true(*[box(x, y)] * 3, video=v + 1, occlusion=labels)
            truths[v].append((pixels(x, y), labels))
            for _ in range(rng.integers(0, 4)):
                dx, dy = rng.integers(0, 4, 2).tolist()
                score = float(next(scores))
                case.found(score, *[box(x + dx, y + dy)] * 3, video=v + 1)
                found[v].append((pixels(x + dx, y + dy), score))
    return case, truths, found


@pytest.mark.parametrize("seed", range(12))
def test_occlusion_groups_equal_their_definition(tmp_path, seed):
    case, truths, found = occluded(tmp_path, seed)
    numbers = case.score(occlusion=True).numbers
    limits = {"": (0, 1), "so": (0, 0.25), "mo": (0.25, 0.5), "ho": (0.5, 1)}
    expected = {f"AP{name}": plain_ap(truths, found, *both) for name, both in limits.items()}
    assert {key: numbers[key] for key in expected} == pytest.approx(expected, abs=1e-12)


def test_occlusion_not_given(case):
    case.true(box(0), box(0)).found(0.9, box(0), box(0))
    with pytest.warns(UserWarning, match="nothing about occlusion"):
        assert case.score(occlusion=True).numbers["APso"] == pytest.approx(1)
    case.true(box(0), box(0), occlusion=["no_occlusion"] * 2)
    with pytest.raises(ValueError, match="annotation 1 has no `occlusion`"):
        case.score(occlusion=True)


# What is left out must not matter ------------------------------------------------------------------------------------


def crowded(folder: Path, seed: int) -> Case:
    """Many overlapping instances and predictions of one category, some equal, in no order."""
    rng, case = np.random.default_rng(seed), Case(folder)
    places = rng.integers(0, 12, (4, 2))
    for x, y in places:
        crowd = int(rng.random() < 0.2)
        case.true(box(x, y, 12, 12), box(x, y, 14, 12), iscrowd=crowd, areas=[int(rng.choice([100, 20000]))] * 2)
    for _ in range(30):
        (x, y), (dx, dy) = places[rng.integers(4)], rng.integers(0, 4, 2)
        case.found(float(rng.integers(1, 6)), box(x + dx, y + dy, 12, 12), box(x + dx, y, 14, 12))
    return case


@pytest.mark.parametrize("seed", range(8))
def test_overlaps_left_out_do_not_change_the_score(tmp_path, seed, monkeypatch):
    case = crowded(tmp_path, seed)
    gt, pred = case.write()
    fast = score_vis(gt, pred).numbers
    monkeypatch.setattr(vis_ap, "overlap", lambda one, other, least: overlap(one, other, 0.0))
    exact = score_vis(gt, pred).numbers
    data = read_ytvis(gt)
    found = measure(Scene(data, gt), vis_ap.read_predictions(data, pred), pred)
    monkeypatch.undo()
    assert fast == exact
    kept = measure(Scene(data, gt), vis_ap.read_predictions(data, pred), pred)
    assert sum(map(sum, (f.overlaps for f in kept))) < sum(map(sum, (f.overlaps for f in found)))
    one_by_one = [f for p in vis_ap.read_predictions(data, pred) for f in measure(Scene(data, gt), [p], pred)]
    assert summarise(data, Scene(data, gt).truths(), one_by_one, [1], occlusion=False).numbers == fast


def test_overlap_equals_pixels(case):
    rng = np.random.default_rng(0)
    masks = rng.random((2, 2, *SIZE)) < [[[[0.9]], [[0.6]]], [[[0.8]], [[0.7]]]]
    for tube in masks:
        case.true(*(encode_rle(m) for m in tube))
    gt, _ = case.write()
    one, other = (make_tube(i) for i in read_ytvis(gt).instances[1])
    expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    assert overlap(one, other) == expected
    assert overlap(one, other, expected) == expected
    assert overlap(one, other, expected + 1e-9) == 0
    assert one.areas.tolist() == masks[0].sum((1, 2)).tolist()


# Files ---------------------------------------------------------------------------------------------------------------


def test_polygons_and_uncompressed_counts(case):
    square = [[0, 0, 10, 0, 10, 10, 0, 10]]
    counts = {"size": list(SIZE), "counts": [0, *[10, 30] * 9, 10, 2030]}
    case.true(square, counts).found(0.9, counts, square)
    assert case.score().ap == pytest.approx(1)


def test_progress_counts_the_videos(tmp_path, monkeypatch):
    case, seen = Case(tmp_path, videos=3), {}

    def count(items, **options):
        seen.update(options, items=list(items))
        return seen["items"]

    monkeypatch.setattr(vis_ap, "progress", count)
    for v in (1, 2, 2, 1):
        case.true(box(0), box(0), video=v).found(0.5, box(0), box(0), video=v)
    case.score()
    assert (seen["items"], seen["total"], seen["unit"]) == ([1, 2], 3, "videos")


@pytest.mark.parametrize("kind", ["gz", "zip", "indent", "nested"])
def test_forms_of_the_result_file(case, kind):
    case.true(box(0), box(2)).true(box(30), box(30)).found(0.5, box(0), box(2)).found(0.4, box(30), box(30))
    gt, pred = case.write()
    expected, text = score_vis(gt, pred).numbers, pred.read_bytes()
    if kind == "gz":
        pred.write_bytes(gzip.compress(text))
    elif kind == "zip":
        with zipfile.ZipFile(pred, "w") as archive:
            archive.writestr("results.json", text)
    elif kind == "indent":
        pred.write_text(json.dumps(case.results, indent=2))
    else:  # objects inside that begin with the same key as the predictions, so that the file cannot be cut
        nested = [{"video_id": 1, "notes": [{"video_id": 1}, {"video_id": 2}], **entry} for entry in case.results]
        pred.write_text(json.dumps(nested))
    assert score_vis(gt, pred).numbers == expected
    assert score_vis(gt, pred, workers=2).numbers == expected


def test_pieces_join_to_the_whole(tmp_path):
    case = crowded(tmp_path, 0)
    case.results[3]["note"] = 'a trap: }, {"video_id": and \\'
    _, pred = case.write()
    pieces = list(list_pieces(pred, 1000))
    assert len(pieces) > 5
    assert [entry for piece in pieces for entry in json.loads(piece)] == case.results


def test_processes(case, monkeypatch):
    _, pred = case.true(box(0), box(2)).found(0.5, box(0), box(2)).write()
    assert vis_ap._processes(pred) == 1  # too small
    monkeypatch.setattr(vis_ap, "WORTH", 0)
    assert "torch" in sys.modules
    assert vis_ap._processes(pred) == 1
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(vis_ap.threading, "active_count", lambda: 1)
    assert vis_ap._processes(pred) == len(os.sched_getaffinity(0))


def test_submission(case, tmp_path, capsys):
    gt, pred = case.true(box(0), box(2)).found(0.5, box(0), box(2)).write()
    assert pack(tmp_path / "out/s.zip", gt, pred)
    assert "1 predictions for 1 videos" in capsys.readouterr().out
    assert score_vis(gt, tmp_path / "out/s.zip").ap == pytest.approx(1)
    case.truth["annotations"] = None
    gt, _ = case.write()
    assert not pack(tmp_path / "s.zip", gt, pred)
    case.found(0.5, box(0))
    gt, pred = case.write()
    with pytest.raises(ValueError, match="prediction 2"):
        pack(tmp_path / "bad.zip", gt, pred)
    assert not list(tmp_path.glob("bad*"))


def spoil(case: Case, what: str) -> None:
    first = case.results[0]
    changes = {
        "frames": lambda: first.update(segmentations=[box(0)]),
        "size": lambda: first.update(segmentations=[box(0), {**box(0), "size": [60, 40]}]),
        "video": lambda: first.update(video_id=7),
        "category": lambda: first.update(category_id=0),
        "score": lambda: first.update(score=float("nan")),
        "no score": lambda: first.pop("score"),
        "counts": lambda: first.update(segmentations=[None, {"size": list(SIZE), "counts": "0Q"}]),
        "pixels": lambda: first.update(segmentations=[None, {"size": list(SIZE), "counts": "0PPP1"}]),
        "entry": lambda: case.results.insert(0, 3),
        "id twice": lambda: case.true(box(0), box(0), id=1),
        "truth": lambda: case.truth["annotations"].clear(),
        "true frames": lambda: case.truth["annotations"][0]["segmentations"].pop(),
    }
    changes[what]()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("frames", "prediction 1 has 1 segmentations, but video v1 has 2 frames"),
        ("size", "prediction 1, frame 1: a mask is 40x60, but its video is 60x40"),
        ("video", "prediction 1 is of video 7"),
        ("category", "prediction 1 is of category 0"),
        ("score", "prediction 1 has the score nan"),
        ("no score", "prediction 1 has no score"),
        ("counts", "prediction 1, frame 1: an RLE's counts are no compressed"),
        ("pixels", "prediction 1, frame 1: an RLE describes more pixels"),
        ("entry", "prediction 1 is int"),
        ("id twice", "two annotations with the id 1"),
        ("truth", "has no annotations"),
        ("true frames", "annotation 1 has 1 segmentations, but video v1 has 2 frames"),
    ],
)
def test_bad_files(case, what, said):
    case.true(box(0), box(2)).found(0.5, box(0), box(2))
    spoil(case, what)
    with pytest.raises(ValueError, match=said):
        case.score()


def test_not_even_json(case, tmp_path):
    gt, pred = case.true(box(0), box(2)).found(0.5, box(0), box(2)).write()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        score_vis(gt, tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match="looks like a result file"):
        score_vis(pred, pred)
    with pytest.raises(ValueError, match="a result file is a list"):
        score_vis(gt, gt)
    pred.write_bytes(pred.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"pred\.json is not JSON"):
        score_vis(gt, pred)
    pred.write_bytes(gzip.compress(b"[]")[:-6])
    with pytest.raises(ValueError, match=r"pred\.json is damaged"):
        score_vis(gt, pred)
    pred.write_bytes(b"\xff\xfe[]")
    with pytest.raises(ValueError, match=r"pred\.json is not a JSON file"):
        score_vis(gt, pred)
