"""The metric against the official script's numbers, and its fast path against a plain one."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tubelet.metrics.jf import (
    boundary_measure,
    region_similarity,
    score_folders,
    score_frame,
    score_sequence,
    score_ytvos,
    statistics,
)

PARITY = Path(__file__).parent / "parity" / "davis_jf"
SHARED = Path(__file__).parents[2] / "shared" / "data"


def save(path: Path, labels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(labels, np.uint8))
    image.putpalette(list(range(256)) * 3)  # makes it mode P
    image.save(path)


def blobs(seed: int, size=(40, 60)) -> np.ndarray:
    """Labels 0..3 in blobs that also touch the image's edges."""
    coarse = np.random.default_rng(seed).integers(0, 4, (size[0] // 5 + 1, size[1] // 5 + 1), np.uint8)
    return np.kron(coarse, np.ones((5, 5), np.uint8))[: size[0], : size[1]]


def plain_f(gt, pred, radius):
    """The definition, pixel by pixel."""

    def outline(m):
        h, w = m.shape
        edge = {
            (y, x)
            for y, x in np.ndindex(h, w)
            for b, a in ((y, x + 1), (y + 1, x), (y + 1, x + 1))
            if b < h and a < w and m[b, a] != m[y, x]
        }
        return np.array(sorted(edge))

    a, b = outline(gt), outline(pred)
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    near = ((a[:, None] - b[None]) ** 2).sum(-1) <= radius**2
    precision, recall = near.any(0).mean(), near.any(1).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("case", sorted(p.name for p in PARITY.iterdir()))
def test_equals_the_official_script(case):
    expected = json.loads((PARITY / case / "expected.json").read_text())
    got = score_folders(PARITY / case / "Annotations/480p", PARITY / case / "predictions").to_json()
    assert set(got) - set(expected) <= {"sequences"}
    for key, value in expected.items():
        assert got[key] == pytest.approx(value, abs=1e-9), key


def test_equals_the_official_script_on_davis_2016():
    gt, osvos = SHARED / "davis/Annotations/480p", SHARED / "expected_metrics/osvos_davis"
    if not osvos.is_dir():
        pytest.skip(f"{osvos} is not here")
    expected = json.loads((osvos / "expected_J_F_vs_davis2016_binary.json").read_text())["per_sequence"]
    names = ["bmx-trees", "dog"]
    for s in score_folders(gt, osvos / "masks", sequences=names, binary=True).sequences:
        truth = expected[s.name]
        np.testing.assert_allclose(s.j[0], truth["J_per_frame"], atol=1e-6)
        np.testing.assert_allclose(s.f[0], truth["F_per_frame"], atol=1e-6)
        assert statistics(s.j[0]) == pytest.approx([truth[f"J_{k}"] for k in ("mean", "recall", "decay")], abs=1e-9)
        assert statistics(s.f[0]) == pytest.approx([truth[f"F_{k}"] for k in ("mean", "recall", "decay")], abs=1e-9)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (2, 2), (40, 60), (37, 23)])
@pytest.mark.parametrize("radius", [1, 3])
def test_cropped_path_equals_the_definition(size, radius):
    gt, pred = blobs(1, size), blobs(2, size)
    pred[size[0] // 2 :] = gt[size[0] // 2 :]
    j, f = score_frame(gt, pred, (1, 2, 3, 4), bound=float(radius))
    for i in range(4):
        a, b = gt == i + 1, pred == i + 1
        assert f[i] == pytest.approx(plain_f(a, b, radius), abs=1e-12)
        assert f[i] == pytest.approx(boundary_measure(a, b, bound=float(radius)), abs=1e-12)
        assert j[i] == region_similarity(a, b)


def test_empty_masks():
    none, some = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    some[4, 4] = True
    assert (region_similarity(none, none), boundary_measure(none, none)) == (1, 1)
    assert (region_similarity(none, some), boundary_measure(none, some)) == (0, 0)
    assert (region_similarity(some, none), boundary_measure(some, none)) == (0, 0)


def test_bound_is_a_share_of_the_diagonal():
    gt, pred = np.zeros((480, 854), bool), np.zeros((480, 854), bool)
    gt[:, 100:] = True
    pred[:, 108:] = True  # 0.008 of 979.7 pixels is 8, rounded up
    assert boundary_measure(gt, pred) == 1
    pred[:, 108] = False
    assert boundary_measure(gt, pred) == 0


def test_statistics():
    assert statistics(np.array([0.7])) == (0.7, 1, 0)
    assert statistics(np.array([0.5, 0.0]))[1:] == (0, 0.5)  # 0.5 is not above 0.5
    mean, _, decay = statistics(np.linspace(1, 0, 1001))
    assert mean == pytest.approx(0.5)
    assert decay == pytest.approx(0.75)  # 1,001 frames: no 8-bit wrap
    with pytest.raises(ValueError, match="at least 3"):
        statistics(np.zeros(0))


def test_sequence_streams():
    maps = [blobs(i) for i in range(5)]
    score = score_sequence(((m, m) for m in maps), objects=(1, 2), name="x")
    assert score.j.shape == score.f.shape == (2, 5)
    assert score.jf_mean == 1
    with pytest.raises(ValueError, match="no frame"):
        score_sequence([], objects=(1,))


@pytest.fixture
def folders(tmp_path):
    for t in range(5):
        for kind in ("gt", "pred"):
            save(tmp_path / kind / "cat" / f"{t:05d}.png", blobs(t))
    return tmp_path / "gt", tmp_path / "pred"


def test_first_and_last_are_not_scored(folders):
    gt, pred = folders
    for t in (0, 4):
        (pred / "cat" / f"{t:05d}.png").unlink()
    (pred / "cat" / "notes.png").write_text("extra files do not matter")
    assert score_folders(gt, pred).jf_mean == 1


def test_workers_do_not_change_results(folders):
    gt, pred = folders
    save(pred / "cat/00002.png", blobs(9))
    assert score_folders(gt, pred, workers=2).to_json() == score_folders(gt, pred).to_json()


def test_void_is_background(folders):
    gt, pred = folders
    for t in range(5):
        labels = blobs(t)
        save(gt / "cat" / f"{t:05d}.png", np.where(labels == 0, 255, labels))
    result = score_folders(gt, pred)
    assert (result.jf_mean, result.sequences[0].objects) == (1, (1, 2, 3))


def test_binary_merges_labels(folders):
    gt, pred = folders
    for t in range(5):
        path = gt / "cat" / f"{t:05d}.png"
        Image.fromarray(np.where(blobs(t) > 0, 255, 0).astype(np.uint8)).save(path)  # DAVIS 2016: grey 0/255
    result = score_folders(gt, pred, binary=True)
    assert list(result.to_json()["J-per-object"]) == ["cat_1"]
    assert result.jf_mean == 1


def test_errors_name_the_file(folders):
    gt, pred = folders
    save(pred / "cat/00002.png", np.full((40, 60), 4))
    with pytest.raises(ValueError, match=r"00002\.png holds label 4.*1 to 3"):
        score_folders(gt, pred)
    save(pred / "cat/00002.png", blobs(2, (20, 30)))
    with pytest.raises(ValueError, match=r"00002\.png.*30x20.*60x40"):
        score_folders(gt, pred)
    (pred / "cat/00002.png").write_bytes((pred / "cat/00001.png").read_bytes()[:60])
    with pytest.raises(OSError, match=r"00002\.png.*damaged"):
        score_folders(gt, pred)
    (pred / "cat/00002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"00002\.png"):
        score_folders(gt, pred)
    with pytest.raises(FileNotFoundError, match="gt/dog is not a folder"):
        score_folders(gt, pred, sequences=["dog"])
    with pytest.raises(FileNotFoundError, match="sequence cat has no prediction"):
        score_folders(gt, pred / "cat")
    (gt / "dog").mkdir()
    with pytest.raises(ValueError, match=r"dog has 0 masks"):
        score_folders(gt, pred, sequences=["dog"])
    with pytest.raises(FileNotFoundError, match="no sequence"):
        score_folders(pred / "cat", pred)


def test_first_mask_must_show_an_object(folders):
    gt, pred = folders
    save(gt / "cat/00000.png", np.zeros((40, 60)))
    with pytest.raises(ValueError, match="shows no object"):
        score_folders(gt, pred)


def test_table_is_in_percent(folders):
    lines = score_folders(*folders).table().splitlines()
    assert lines[1].split()[:3] == ["cat", "100.0", "100.0"]
    assert lines[-1].startswith("ALL")


@pytest.fixture
def ytvos(tmp_path):
    """Object 1 (seen) everywhere, object 2 (unseen) from frame 5 on. Object 2 is lost in frame 15."""
    frames = ["00000", "00005", "00010", "00015"]
    for t, name in enumerate(frames):
        labels = np.zeros((20, 30), np.uint8)
        labels[2:8, 2:12] = 1
        labels[12:18, 12:22] = 2 * (t > 0)
        save(tmp_path / "gt/vid" / f"{name}.png", labels)
        save(tmp_path / "pred/vid" / f"{name}.png", labels * (labels == 1) if t == 3 else labels)
    objects = {"1": {"category": "dog", "frames": frames}, "2": {"category": "yeti", "frames": frames[1:]}}
    (tmp_path / "meta.json").write_text(json.dumps({"videos": {"vid": {"objects": objects}}}))
    return tmp_path


def test_ytvos_averages_seen_and_unseen(ytvos):
    result = score_ytvos(ytvos / "gt", ytvos / "pred", ytvos / "meta.json", seen=["dog"])
    assert result.to_json() == {"G": 0.75, "J_seen": 1, "J_unseen": 0.5, "F_seen": 1, "F_unseen": 0.5}
    everything_seen = score_ytvos(ytvos / "gt", ytvos / "pred", ytvos / "meta.json", seen=ytvos / "meta.json")
    assert (everything_seen.overall, everything_seen.j_unseen, everything_seen.j_seen) == (None, None, 0.75)
    assert "-" in everything_seen.table()


def test_ytvos_scores_an_object_after_its_entry(ytvos):
    wrong = np.full((20, 30), 2)
    save(ytvos / "pred/vid/00000.png", wrong)  # nobody is scored there
    result = score_ytvos(ytvos / "gt", ytvos / "pred", ytvos / "meta.json", seen=["dog"])
    assert result.overall == 0.75
    (ytvos / "pred/vid/00010.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"00010\.png"):
        score_ytvos(ytvos / "gt", ytvos / "pred", ytvos / "meta.json", seen=["dog"])
