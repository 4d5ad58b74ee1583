"""CamVid's lists, made and real."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tubelet.data.camvid import read_camvid, read_classes
from tubelet.data.semantic_classes import CAMVID

REAL = Path(__file__).parents[2] / "shared/data/vss_camvid"


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)


@pytest.fixture
def root(tmp_path):
    lines = []
    for name in ("B_f00090", "A_2", "B_f00030", "A_1"):
        save(tmp_path / f"p/{name}.jpg", np.zeros((1, 3, 3), np.uint8))
        save(tmp_path / f"l/{name}.png", np.array([[0, 10, 11]], np.uint8))
        lines.append(f"p/{name}.jpg l/{name}.png")
    (tmp_path / "train.txt").write_text("\n".join(lines))
    return tmp_path


def test_sequences_and_numbers(root):
    videos = read_camvid(root)
    assert [(video.name, video.numbers) for video in videos] == [("B", (30, 90)), ("A", (1, 2))]
    assert videos[0].frame_names == ["B_f00030", "B_f00090"]
    assert videos[0].classes(1).tolist() == [[0, 10, 255]]


def test_frames_without_labels(root):
    path = root / "train.txt"
    path.write_text(path.read_text().replace(" l/B_f00030.png", ""))
    assert list(read_camvid(root)[0].labels) == [1]


def test_classes(root):
    assert read_classes(root) == (CAMVID, 11)
    path = root / "classes.json"
    path.write_text(json.dumps({"classes": ["cat", "dog"], "ignore_index": 11}))
    with pytest.raises(ValueError, match="holds id 10, which is no class"):
        read_camvid(root)[0].classes(0)
    path.write_text(json.dumps({"classes": ["cat", "dog"], "ignore_index": 1}))
    with pytest.raises(ValueError, match="2 classes and ignore_index 1"):
        read_camvid(root)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"classes.json is of another kind \(TypeError"):
        read_camvid(root)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("p/A_1.jpg l/A_1.png", "twice"),
        ("p/A_01.jpg l/A_1.png", "lists frame 1 of A twice"),
        ("p/A.jpg l/A.png", "has the line 'p/A.jpg l/A.png'"),
        ("p/A_3.jpg l/A_3.png x", "has the line"),
    ],
)
def test_lines_that_are_refused(root, line, said):
    with (root / "train.txt").open("a") as file:
        file.write(f"\n{line}")
    with pytest.raises(ValueError, match=said):
        read_camvid(root)


def test_files_that_are_missing(root):
    (root / "l/A_1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"l/A_1.png does not exist, but train.txt lists it \(1 such files\)"):
        read_camvid(root)
    with pytest.raises(FileNotFoundError, match=r"val.txt does not exist; lists there: train.txt"):
        read_camvid(root, "val")


@pytest.mark.skipif(not REAL.is_dir(), reason="CamVid is not here")
def test_real():
    train, (val,) = read_camvid(REAL), read_camvid(REAL, "val")
    assert [(v.name, len(v), len(v.labels)) for v in train] == [
        ("0001TP", 62, 62), ("0006R0", 101, 101), ("0016E5", 204, 204),
    ]  # fmt: skip
    assert (val.name, len(val), val.numbers[:2]) == ("0016E5", 101, (7959, 7961))
    assert np.diff(train[0].numbers).min() == 30
    classes = val.classes(50)
    assert classes.shape == val.rgb(50).shape[:2] == (360, 480)
    assert {CAMVID[i] for i in np.unique(classes)[:-1]} >= {"Sky", "Building", "Road", "Tree", "Car"}
    assert (classes == 255).any()
