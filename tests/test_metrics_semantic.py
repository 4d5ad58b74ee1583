"""The semantic scores against the official scripts' numbers, and the counters against plain windows."""

import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from tubelet.cli import dispatch
from tubelet.data.semantic_classes import CITYSCAPES_TRAIN_IDS
from tubelet.metrics.semantic import (
    SemanticScore,
    VideoScorer,
    confusion,
    score_camvid,
    score_cityscapes,
    score_video,
    score_vspw,
)

PARITY = Path(os.environ.get("TUBELET_PARITY", Path(__file__).parent / "parity")) / "vss_metrics"
NUMBERS = ("mIoU", "weighted_IoU", "pixel_accuracy", "VC8", "VC16", "VC8_paper", "VC16_paper")


def maps(seed: int, frames: int, classes: int, *, size=(6, 9), change: float = 0.05, void: bool = True) -> np.ndarray:
    """Label maps (T, H, W) in which each pixel now and then takes another label."""
    rng = np.random.default_rng(seed)
    labels = [*range(classes), *([255] if void else [])]
    out = np.empty((frames, *size), np.uint8)
    for t in range(frames):
        fresh = rng.choice(labels, size).astype(np.uint8)
        out[t] = np.where(rng.random(size) < change, fresh, out[t - 1]) if t else fresh
    return out


def save(folder: Path, labels, names=None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for t, one in enumerate(labels):
        Image.fromarray(one).save(folder / (names[t] if names else f"{t:08d}.png"))


def vspw(root: Path, videos: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[Path, Path]:
    for name, (truth, prediction) in videos.items():
        save(root / "vspw/data" / name / "mask", truth)
        save(root / "pred" / name, prediction)
    (root / "vspw/val.txt").write_text("".join(f"{name}\n" for name in videos))
    return root / "vspw", root / "pred"


# The definitions, window by window and class by class


def plain_vc(videos, f: int) -> float | None:
    values = []
    for truth, prediction in videos:
        for i in range(len(truth) - f):
            steady = (truth[i : i + f] == truth[i]).all(0)
            same = (prediction[i : i + f] == prediction[i]).all(0)
            if steady.any():
                values.append((steady & same).sum() / steady.sum())
    return float(np.mean(values)) if values else None


def plain_paper_vc(videos, f: int) -> float | None:
    means = []
    for truth, prediction in videos:
        values = []
        for i in range(len(truth) - f + 1):
            steady = (truth[i : i + f] == truth[i]).all(0) & (truth[i] != 255)
            right = (prediction[i : i + f] == truth[i : i + f]).all(0)
            if steady.any():
                values.append((steady & right).sum() / steady.sum())
        if values:
            means.append(np.mean(values))
    return float(np.mean(means)) if means else None


def plain_ious(videos, classes: int) -> dict:
    truth = np.concatenate([t.ravel() for t, _ in videos])
    prediction = np.concatenate([p.ravel() for _, p in videos])[truth != 255]
    truth = truth[truth != 255]
    ious, shares = [], []
    for k in range(classes):
        a, b = truth == k, prediction == k
        if a.any():
            ious.append((a & b).sum() / (a | b).sum())
            shares.append(a.mean())
    return {
        "mIoU": np.mean(ious),
        "weighted_IoU": np.dot(ious, shares),
        "pixel_accuracy": (truth == prediction).mean(),
    }


def score(videos, classes: int) -> SemanticScore:
    first, *rest = (score_video(zip(truth, prediction), classes) for truth, prediction in videos)
    return sum(rest, first)


@pytest.mark.parametrize("case", sorted(p.name for p in PARITY.iterdir()) if PARITY.is_dir() else [])
def test_equals_the_official_scripts(case):
    folder = PARITY / case
    expected = json.loads((folder / "expected.json").read_text())
    got = score_vspw(folder, folder / "predictions", classes=expected["classes"], labels="train").to_json()
    for key, value in expected.items():
        assert got[key] == pytest.approx(value, abs=1e-9), key


def test_vc_by_hand():
    """Five frames of 2x2, windows of two: 1, 3/4 and 2/3. The prediction is steady but never right."""
    truth, prediction = np.zeros((5, 2, 2), np.uint8), np.full((5, 2, 2), 7, np.uint8)
    truth[3:, 0, 0] = 1
    prediction[2, 1, 1] = 0
    scorer = VideoScorer(8, spans=(2,))
    for pair in zip(truth, prediction):
        scorer.add(*pair)
    got = scorer.score().to_json()
    assert got["VC2"] == pytest.approx((1 + 3 / 4 + 2 / 3) / 3, abs=1e-12)
    assert got["VC2"] == pytest.approx(0.80556, abs=5e-6)
    assert got["VC2_paper"] == 0


def test_numbers_by_hand():
    """Class 0: 2 of 4 pixels found. Class 1: 2 of 2 found, and 1 of class 0 taken for it. Class 2: predicted only."""
    truth = np.array([[0, 0, 0, 0, 1, 1, 255, 255]], np.uint8)
    prediction = np.array([[0, 0, 1, 2, 1, 1, 0, 2]], np.uint8)
    one = score_video([(truth, prediction)], 4)
    got = one.to_json()
    expected = {
        "mIoU": (2 / 4 + 2 / 3) / 2,
        "mIoU_with_predicted": (2 / 4 + 2 / 3 + 0) / 3,
        "weighted_IoU": 4 / 6 * 2 / 4 + 2 / 6 * 2 / 3,
        "pixel_accuracy": 4 / 6,
        "mean_accuracy": (2 / 4 + 2 / 2) / 2,
    }
    assert {key: got[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert got["per_class"]["0"] == {"name": "0", "IoU": 0.5, "accuracy": 0.5, "share": 4 / 6}
    assert got["per_class"]["2"] == {"name": "2", "IoU": 0.0, "accuracy": None, "share": 0.0}
    assert got["per_class"]["3"] == {"name": "3", "IoU": None, "accuracy": None, "share": 0.0}
    assert (got["videos"], got["frames"], got["VC8"]) == (1, 1, None)
    rows = [line.split() for line in one.table().splitlines()]
    assert ["mIoU", "58.33"] in rows
    assert ["VC8", "-"] in rows
    assert rows[-1] == ["2", "0.00", "-", "0.00"]  # class 3 is nowhere
    json.dumps(got, allow_nan=False)


@pytest.mark.parametrize("lengths", [(1,), (7,), (8,), (9,), (15, 30), (16,), (17, 8, 3), (40, 20, 17)])
@pytest.mark.parametrize("change", [0.01, 0.2])
def test_equals_the_definitions(lengths, change):
    videos = [
        (maps(i, n, 4, change=change), maps(90 + i, n, 4, change=change, void=False)) for i, n in enumerate(lengths)
    ]
    for truth, prediction in videos:  # right in six columns of nine
        prediction[:] = np.where((truth < 4) & (np.arange(9) < 6), truth, prediction)
    got = score(videos, 4).to_json()
    expected = plain_ious(videos, 4)
    expected |= {f"VC{f}": plain_vc(videos, f) for f in (8, 16)}
    expected |= {f"VC{f}_paper": plain_paper_vc(videos, f) for f in (8, 16)}
    for key in NUMBERS:
        assert got[key] == (None if expected[key] is None else pytest.approx(expected[key], abs=1e-12)), key


def test_number_of_windows():
    """The official script leaves out a video of f frames and the last window of the others; the formula does not."""
    for frames, official, formula in ((7, 0, None), (8, 0, 1), (9, 1, 1), (30, 22, 1)):
        labels = np.zeros((frames, 2, 3), np.uint8)
        tallies = score([(labels, labels)], 1).consistency
        assert tallies["VC8"].count == official
        assert tallies["VC8_paper"].mean == formula


def test_windows_without_a_steady_pixel_are_left_out():
    truth = np.zeros((12, 2, 2), np.uint8)
    truth[1::2] = 1  # changes everywhere in every frame
    assert score([(truth, truth)], 2).to_json()["VC8"] is None
    steady = np.zeros((12, 2, 2), np.uint8)
    both = score([(truth, truth), (steady, steady)], 2)
    assert both.to_json()["VC8"] == both.to_json()["VC8_paper"] == 1
    assert both.consistency["VC8"].count == 4


def test_void_is_a_label_for_vc_only():
    truth, prediction = np.full((10, 1, 2), 255, np.uint8), np.zeros((10, 1, 2), np.uint8)
    prediction[::2, :, 1] = 1
    one = score([(truth, prediction)], 2)
    assert one.to_json()["VC8"] == 0.5
    assert {one.to_json()[k] for k in ("mIoU", "weighted_IoU", "pixel_accuracy", "mean_accuracy", "VC8_paper")} == {
        None
    }
    assert one.table()


def test_nothing_predicted_on_void_is_not_right():
    truth, prediction = np.full((8, 1, 2), 255, np.uint8), np.full((8, 1, 2), 255, np.uint8)
    truth[:, :, 0] = 0
    prediction[:, :, 0] = 1
    assert score([(truth, prediction)], 2).to_json()["VC8_paper"] == 0


def test_counters_do_not_wrap():
    labels = np.zeros((600, 1, 1), np.uint8)
    scorer = VideoScorer(1, spans=(255,))
    for one in labels:
        scorer.add(one, one)
    assert scorer.score().consistency["VC255"].count == 600 - 255  # a counter back at 0 would leave windows out


def test_confusion():
    truth, prediction = np.array([[0, 1, 255, 254, 1]], np.uint8), np.array([[0, 0, 0, 255, 255]], np.uint8)
    assert confusion(truth, prediction, 2).tolist() == [[1, 0, 0], [1, 0, 1]]
    every = np.arange(256, dtype=np.uint8)[None]
    assert np.array_equal(confusion(every, every, 254)[:, :254], np.eye(254))


def test_a_score_is_of_the_frames_so_far():
    truth, prediction = maps(0, 20, 3), maps(1, 20, 3, void=False)
    scorer = VideoScorer(3)
    for t in range(20):
        scorer.add(truth[t], prediction[t])
        if t in (0, 11, 19):
            assert scorer.score().to_json() == score([(truth[: t + 1], prediction[: t + 1])], 3).to_json()


def test_wrong_sizes():
    scorer = VideoScorer(2)
    with pytest.raises(ValueError, match=r"prediction is 3x2 but the truth is 4x2.*never smoothed"):
        scorer.add(np.zeros((2, 4), np.uint8), np.zeros((2, 3), np.uint8))
    scorer.add(np.zeros((2, 4), np.uint8), np.zeros((2, 4), np.uint8))
    with pytest.raises(ValueError, match="truth is 4x3, but the frames before"):
        scorer.add(np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8))
    for classes in (0, 255):
        with pytest.raises(ValueError, match="1 to 254"):
            VideoScorer(classes)


# Folders


def test_raw_and_train_ids_of_vspw(tmp_path):
    truth, prediction = maps(0, 12, 5), maps(1, 12, 5, void=False)
    train = score_vspw(*vspw(tmp_path / "a", {"v": (truth, prediction)}), classes=5, labels="train")
    raw = np.where(truth == 255, 255, truth + 1).astype(np.uint8)
    folders = vspw(tmp_path / "b", {"v": (raw, prediction)})
    assert score_vspw(*folders, classes=5).to_json() == train.to_json()
    # 0 and 255 are both void, yet a change from one to the other is a change for VC
    raw[6][raw[6] == 255] = 0
    changed = score_vspw(*vspw(tmp_path / "c", {"v": (raw, prediction)}), classes=5)
    assert np.array_equal(changed.counts, train.counts)
    assert changed.to_json()["VC8"] == pytest.approx(plain_vc([(raw, prediction)], 8), abs=1e-12)
    assert changed.to_json()["VC8"] != train.to_json()["VC8"]
    assert changed.to_json()["VC8_paper"] == train.to_json()["VC8_paper"]


def test_processes_change_nothing(tmp_path):
    videos = {f"v{i}": (maps(i, 9 + i, 3), maps(50 + i, 9 + i, 3, void=False)) for i in range(3)}
    folders = vspw(tmp_path, videos)
    one, two = (score_vspw(*folders, classes=3, labels="train", workers=n) for n in (1, 2))
    assert two.to_json() == one.to_json()
    assert one.to_json()["VC8"] == pytest.approx(plain_vc(list(videos.values()), 8), abs=1e-12)
    assert score_vspw(*folders, classes=3, labels="train", workers=None).to_json() == one.to_json()


def test_videos_to_score(tmp_path):
    videos = {f"v{i}": (maps(i, 9, 3), maps(50 + i, 9, 3, void=False)) for i in range(2)}
    root, pred = vspw(tmp_path, videos)
    some = score_vspw(root, pred, classes=3, labels="train", videos=["v1"])
    assert some.to_json() == score([videos["v1"]], 3).to_json()
    (root / "val.txt").write_text("v0\n")
    assert score_vspw(root, pred, classes=3, labels="train").to_json() == score([videos["v0"]], 3).to_json()
    (root / "val.txt").unlink()
    every = score(list(videos.values()), 3).to_json()
    assert score_vspw(root, pred, classes=3, labels="train").to_json() == every
    with pytest.raises(ValueError, match="no video to score"):
        score_vspw(root, pred, videos=[])


def test_errors_name_the_file(tmp_path):
    truth, prediction = maps(0, 4, 3), maps(1, 4, 3, void=False)
    root, pred = vspw(tmp_path, {"v": (truth, prediction)})

    def fails(error: type[Exception], match: str, labels: Literal["train", "raw"] = "train", folder=pred) -> None:
        with pytest.raises(error, match=match):
            score_vspw(root, folder, classes=3, labels=labels)

    last = pred / "v/00000003.png"
    Image.fromarray(prediction[3] + 1).save(last)
    fails(ValueError, r"00000003.png holds id 3, but a prediction of 3 classes holds ids 0 to 2.*counted from 0")
    Image.fromarray(np.full((6, 9), 255, np.uint8)).save(last)
    fails(ValueError, r"00000003.png holds id 255.*no void")
    Image.fromarray(np.full((6, 9), 300, np.uint16)).save(last)
    fails(ValueError, r"00000003.png holds id 300; the ids of classes")
    Image.fromarray(prediction[3]).convert("RGB").save(last)
    fails(ValueError, r"00000003.png is an RGB image")
    Image.fromarray(prediction[3][:, :5]).save(last)
    fails(ValueError, r"00000003.png, against .*mask.00000003.png: the prediction is 5x6 but the truth is 9x6")
    last.write_bytes(b"no image")
    fails(OSError, r"00000003.png cannot be read")
    last.unlink()
    fails(FileNotFoundError, r"holds 3 of 4 frames; the first that is missing is 00000003.png")
    fails(FileNotFoundError, r"nowhere.v does not exist", folder=tmp_path / "nowhere")
    Image.fromarray(prediction[3]).save(last)
    Image.fromarray(np.full((6, 9), 4, np.uint8)).save(root / "data/v/mask/00000002.png")
    fails(ValueError, r"mask.00000002.png holds id 4, which is no class")
    fails(ValueError, r"mask.00000002.png holds id 4, which is no class", labels="raw")
    (root / "data/v/mask").rename(root / "data/v/elsewhere")
    fails(FileNotFoundError, r"mask is not a folder")
    with pytest.raises(FileNotFoundError, match="holds no video; expected"):
        score_vspw(tmp_path / "none", pred)


def test_camvid_sequences(tmp_path):
    """Two sequences in one folder, their frames in the order of their numbers."""
    videos = [(maps(i, n, 11), maps(9 + i, n, 11, void=False)) for i, n in enumerate((12, 10))]
    for (truth, prediction), name in zip(videos, ("0016E5_", "0006R0_f")):
        names = [f"{name}{n}.png" for n in range(7, 7 + len(truth))]  # 7 comes before 10
        save(tmp_path / "gt", np.where(truth == 255, 11, truth).astype(np.uint8), names)
        save(tmp_path / "pred", prediction, names)
    got = score_camvid(tmp_path / "gt", tmp_path / "pred")
    assert got.videos == 2
    expected = plain_ious(videos, 11) | {"VC8": plain_vc(videos, 8), "VC8_paper": plain_paper_vc(videos, 8)}
    assert {key: got.to_json()[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert got.to_json()["per_class"]["8"]["name"] == "Car"
    Image.fromarray(np.full((6, 9), 11, np.uint8)).save(tmp_path / "pred/0016E5_7.png")
    with pytest.raises(ValueError, match=r"0016E5_7.png holds id 11"):
        score_camvid(tmp_path / "gt", tmp_path / "pred")


STEMS = ("aachen_000000_000019", "bad-honnef_000001_000019")


def save_predictions(folder: Path, prediction: np.ndarray) -> None:
    for t, stem in enumerate(STEMS):
        save(folder / stem.split("_")[0], prediction[t : t + 1], [f"{stem}_leftImg8bit.png"])


def cityscapes(tmp: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Two true frames of two cities as `kind`, and predictions; returns the train ids of both."""
    truth, prediction = maps(3, 2, 19), maps(4, 2, 19, void=False)
    held = truth if kind == "labelTrainIds" else np.array([*CITYSCAPES_TRAIN_IDS, *[4] * 237], np.uint8)[truth]
    for t, stem in enumerate(STEMS):
        save(tmp / "gt" / stem.split("_")[0], held[t : t + 1], [f"{stem}_gtFine_{kind}.png"])
    save_predictions(tmp / "pred", prediction)
    save(tmp / "pred/aachen", prediction[:1], ["aachen_000000_000018_leftImg8bit.png"])  # has no truth
    return truth, prediction


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path, kind):
    truth, prediction = cityscapes(tmp_path, kind)
    got = score_cityscapes(tmp_path / "gt", tmp_path / "pred")
    assert (got.videos, got.consistency) == (2, {})
    expected = plain_ious([(truth, prediction)], 19)
    assert {key: got.to_json()[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    save_predictions(tmp_path / "raw", np.array(CITYSCAPES_TRAIN_IDS, np.uint8)[prediction])
    raw = score_cityscapes(tmp_path / "gt", tmp_path / "raw", labels="raw")
    assert raw.to_json() == got.to_json()


def test_cityscapes_predicted_as_nothing_is_wrong(tmp_path):
    truth, prediction = cityscapes(tmp_path, "labelIds")
    nothing = np.where(prediction == 5, 255, prediction).astype(np.uint8)
    save_predictions(tmp_path / "pred", nothing)
    got = score_cityscapes(tmp_path / "gt", tmp_path / "pred").to_json()
    expected = plain_ious([(truth, nothing)], 19)
    assert {key: got[key] for key in expected} == pytest.approx(expected, abs=1e-12)


def test_cityscapes_errors(tmp_path):
    cityscapes(tmp_path, "labelIds")
    pred = tmp_path / f"pred/aachen/{STEMS[0]}_leftImg8bit.png"
    twin = pred.with_name(f"{STEMS[0]}_colour.png")
    twin.write_bytes(pred.read_bytes())
    with pytest.raises(ValueError, match=r"000019_colour.png and .*leftImg8bit.png for one frame"):
        score_cityscapes(tmp_path / "gt", tmp_path / "pred")
    twin.unlink()
    Image.fromarray(np.full((6, 9), 33, np.uint8)).save(pred)
    with pytest.raises(ValueError, match=r"aachen_000000_000019_leftImg8bit.png holds id 33"):
        score_cityscapes(tmp_path / "gt", tmp_path / "pred")
    pred.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds 1 of 2 frames; .* aachen_000000_000019\*.png"):
        score_cityscapes(tmp_path / "gt", tmp_path / "pred")
    with pytest.raises(FileNotFoundError, match="holds no CITY"):
        score_cityscapes(tmp_path / "pred", tmp_path / "pred")


# The command


def test_command(tmp_path, capsys):
    videos = {name: (maps(i, 10, 3), maps(9 + i, 10, 3, void=False)) for i, name in enumerate(("v", "w"))}
    root, pred = vspw(tmp_path, videos)
    (tmp_path / "some.txt").write_text("w\n")
    base = ["score", "vspw", "--gt", str(root), "--pred", str(pred), "--classes", "3", "--labels", "train"]
    dispatch([*base, "--json", str(tmp_path / "out/score.json")])
    expected = score(list(videos.values()), 3).to_json()
    assert json.loads((tmp_path / "out/score.json").read_text()) == expected
    assert ["VC8", f"{100 * expected['VC8']:.2f}"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    dispatch([*base, "--sequences", str(tmp_path / "some.txt"), "--json", str(tmp_path / "one.json")])
    assert json.loads((tmp_path / "one.json").read_text()) == score([videos["w"]], 3).to_json()


def test_command_reads_vspw_as_it_comes(tmp_path):
    """124 classes, counted from 1 in the truth."""
    truth, prediction = maps(0, 3, 124), maps(1, 3, 124, void=False)
    root, pred = vspw(tmp_path, {"v": (np.where(truth == 255, 0, truth + 1).astype(np.uint8), prediction)})
    dispatch(["score", "vspw", "--gt", str(root), "--pred", str(pred), "--json", str(tmp_path / "score.json")])
    got = json.loads((tmp_path / "score.json").read_text())
    assert got["mIoU"] == pytest.approx(plain_ious([(truth, prediction)], 124)["mIoU"], abs=1e-12)
    assert got["per_class"]["0"]["name"] == "wall"


def test_command_for_other_sets(tmp_path, capsys):
    cityscapes(tmp_path, "labelIds")
    dispatch(["score", "cityscapes", "--gt", str(tmp_path / "gt"), "--pred", str(tmp_path / "pred")])
    said = capsys.readouterr().out
    assert "mIoU" in said
    assert "VC" not in said
    save(tmp_path / "c", maps(0, 2, 11, void=False), ["a_1.png", "a_2.png"])
    dispatch(["score", "camvid", "--gt", str(tmp_path / "c"), "--pred", str(tmp_path / "c")])
    assert "Bicyclist" in capsys.readouterr().out
    for options, match in ((["--classes", "3"], "are for vspw"), (["--labels", "raw"], "leave --labels out")):
        with pytest.raises(ValueError, match=match):
            dispatch(["score", "camvid", "--gt", str(tmp_path / "c"), "--pred", str(tmp_path / "c"), *options])
