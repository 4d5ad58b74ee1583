"""One fault at a time in good folders: exactly that fault is said, in a sentence that names the file."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tubelet.cli.data import check
from tubelet.data.validate_semantic import examine_semantic, splits_of, validate_semantic

SIZE = (12, 16)
KINDS = ("vspw", "vipseg", "cityscapes", "camvid")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)
    return path


def names(kind):
    """Of frames 1 and 2 the picture and the class map."""
    return {
        "vspw": [(f"data/cat/origin/{t}.jpg", f"data/cat/mask/{t}.png") for t in (1, 2)],
        "vipseg": [(f"imgs/cat/{t}.jpg", f"panomasks/cat/{t}.png") for t in (1, 2)],
        "cityscapes": [
            (f"leftImg8bit/val/cat/cat_0_{t}_leftImg8bit.png", f"gtFine/val/cat/cat_0_{t}_gtFine_labelIds.png")
            for t in (1, 2)
        ],
        "camvid": [(f"p/cat_{t}.jpg", f"l/cat_{t}.png") for t in (1, 2)],
    }[kind]


@pytest.fixture(params=KINDS)
def good(request, tmp_path):
    kind = request.param
    for picture, labels in names(kind):
        save(tmp_path / picture, np.zeros((*SIZE, 3), np.uint8))
        save(tmp_path / labels, np.full(SIZE, 8, np.uint8))
    if kind != "cityscapes":
        lines = [" ".join(pair) for pair in names(kind)] if kind == "camvid" else ["cat"]
        (tmp_path / "val.txt").write_text("\n".join(lines))
    return kind, tmp_path


def only(kind, root, **options) -> str:
    problems = [str(p) for p in validate_semantic(kind, root, **options)]
    assert len(problems) == 1, problems
    return problems[0]


def test_good_folders(good, capsys):
    kind, root = good
    found = examine_semantic(kind, root)
    assert found.problems == []
    videos = 2 if kind == "cityscapes" else 1
    assert (found.videos, found.labelled) == (videos, 2)
    assert found.classes == {{"vspw": 7, "vipseg": 7, "cityscapes": 1, "camvid": 8}[kind]}
    check(root, kind)
    assert capsys.readouterr().out == f"nothing wrong: {videos} videos, 2 labelled frames, 1 classes\n"


def test_unknown_ids(good, capsys):
    kind, root = good
    path = save(root / names(kind)[1][1], np.full(SIZE, 200, np.uint8))
    if kind == "vipseg":  # 200 is an instance of class 2
        assert validate_semantic(kind, root) == []
        save(path, np.full(SIZE, 12500, np.uint16))
    said = only(kind, root)
    assert said.startswith(f"{path} holds id {125 if kind == 'vipseg' else 200}, which is no class")
    with pytest.raises(SystemExit):
        check(root, kind)
    assert capsys.readouterr().out == f"{said}\n"


def test_a_fault_of_many_files_is_said_once(good):
    kind, root = good
    for _, labels in names(kind):
        Image.new("RGB", (16, 12)).save(root / labels)
    problems = [str(p) for p in validate_semantic(kind, root)]
    assert all("is an RGB image" in said for said in problems)
    assert len(problems) == 2 if kind == "cityscapes" else problems[0].endswith("(and 1 more of this video)")


def test_missing_labels(good):
    kind, root = good
    path = root / names(kind)[1][1]
    path.unlink()
    if kind == "cityscapes":  # the labels say which frames there are
        assert examine_semantic(kind, root).labelled == 1
    else:
        said = only(kind, root)
        assert path.name in said
        assert "does not exist" in said if kind == "camvid" else "1 of 2 frames have none" in said


def test_missing_frames(good):
    kind, root = good
    picture = root / names(kind)[1][0]
    picture.unlink()
    said = only(kind, root)
    assert ("is a class map without a frame" if kind in ("vspw", "vipseg") else f"{picture} does not exist") in said


def test_damage(good):
    kind, root = good
    for which, path in enumerate(names(kind)[0]):
        kept = (root / path).read_bytes()
        (root / path).write_bytes(kept[:20])
        assert only(kind, root).startswith(f"{root / path} cannot be read as an image"), which
        (root / path).write_bytes(kept)


def test_sizes(good):
    kind, root = good
    path = save(root / names(kind)[1][1], np.full((12, 17), 8, np.uint8))
    assert only(kind, root) == f"{path} is 17x12, but its frame is 16x12"
    picture = save(root / names(kind)[1][0], np.zeros((12, 17, 3), np.uint8))
    if kind != "cityscapes":  # there each frame is a video
        assert only(kind, root) == f"{picture} is 17x12, but the first frame of its video is 16x12"


def test_missing_lists(good, tmp_path):
    kind, root = good
    assert splits_of(kind, root) == ["val"]
    assert "train" in only(kind, root, split="train")
    with pytest.raises(FileNotFoundError, match="has no split"):
        validate_semantic(kind, Path(__file__).parent)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        validate_semantic(kind, tmp_path / "nowhere")


def test_empty_videos(good):
    kind, root = good
    if kind in ("vspw", "vipseg"):
        (root / "val.txt").write_text("cat\ndog\n")
        assert "dog" in only(kind, root)
        (root / "data/dog/origin").mkdir(parents=True)
        (root / "imgs/dog").mkdir(parents=True)
        assert only(kind, root).endswith("holds no frame")
    elif kind == "camvid":
        (root / "val.txt").write_text("")
        assert "val.txt lists nothing" in only(kind, root)


def test_the_test_split_has_no_masks(good):
    kind, root = good
    if kind in ("vspw", "vipseg"):
        (root / "val.txt").rename(root / "test.txt")
        for _, labels in names(kind):
            (root / labels).unlink()
        found = examine_semantic(kind, root)
        assert (found.problems, found.videos, found.labelled) == ([], 1, 0)


def test_train_ids(good):
    kind, root = good
    if kind == "vspw":
        save(root / names(kind)[0][1], np.zeros(SIZE, np.uint8))
        assert examine_semantic(kind, root, train_ids=True).classes == {0, 8}
        save(root / names(kind)[0][1], np.full(SIZE, 124, np.uint8))
        assert "holds id 124" in only(kind, root, train_ids=True)
    elif kind == "cityscapes":
        assert "labelTrainIds" in only(kind, root, train_ids=True)
    else:
        with pytest.raises(ValueError, match="--train-ids is for vspw and cityscapes"):
            check(root, kind, train_ids=True)


def test_classes_of_camvids_kind(tmp_path):
    save(tmp_path / "a_1.png", np.zeros(SIZE, np.uint8))
    save(tmp_path / "m_1.png", np.full(SIZE, 3, np.uint8))
    (tmp_path / "train.txt").write_text("a_1.png m_1.png")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["cat"], "ignore_index": 255}))
    assert "m_1.png holds id 3" in only("camvid", tmp_path)
    (tmp_path / "classes.json").write_text("{}")
    assert "classes.json is of another kind (KeyError" in only("camvid", tmp_path)
    with pytest.raises(ValueError, match=r"train.txt is a file; camvid needs a folder with the data set"):
        check(tmp_path / "train.txt", "camvid")
    with pytest.raises(ValueError, match="--frames is for ytvis"):
        check(tmp_path, "camvid", frames=tmp_path)
