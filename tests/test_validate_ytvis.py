"""One fault at a time in a good file: exactly that fault is reported."""

import json

import numpy as np
import pytest
from PIL import Image

from test_ytvis import SQUARE, compressed, content
from tubelet.data.validate import Findings
from tubelet.data.validate_ytvis import examine_ytvis, validate_ytvis


def only(tmp_path, what, **options) -> str:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(what))
    problems = [str(p) for p in validate_ytvis(path, **options)]
    assert len(problems) == 1, problems
    return problems[0]


def test_a_good_file(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content()))
    assert validate_ytvis(path) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": 0}, "annotation 0 has the id 0"),
        ({"id": 6}, "annotation 6 has the id of an earlier"),
        ({"segmentations": [None] * 4, "areas": [], "occlusion": []}, "annotation 5 is visible in no frame"),
        ({"areas": [24, None, 50, 24]}, "annotation 5 says area 50 in frame 2, but its mask has 24 pixels"),
        ({"areas": [24, None, "x", 24]}, "annotation 5 says area 'x' in frame 2, which is no number"),
        ({"occlusion": ["no_occlusion"] * 4}, "annotation 5 has occlusion 'no_occlusion' in frame 1"),
    ],
)
def test_faults(tmp_path, change, said):
    what = content()
    what["annotations"][0].update(change)
    assert said in only(tmp_path, what)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (compressed(SQUARE & False), "has an empty mask in frame 0; write null"),
        ({"size": [3, 4], "counts": "0"}, "is wrong in frame 0: a mask is 4x3"),
        ({"size": [12, 16], "counts": "0PPP1"}, "is wrong in frame 0: its RLE describes more pixels"),
    ],
)
def test_faulty_masks(tmp_path, mask, said):
    what = content()
    what["annotations"][1]["segmentations"][0] = mask
    assert "annotation 6 " in only(tmp_path, what)
    assert said in only(tmp_path, what)


def test_ovis_must_say_how_occluded_each_is(tmp_path):
    assert "annotation 6 has no `occlusion`" in only(tmp_path, content(), occlusion=True)


def test_how_much_there_is(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content()))
    assert examine_ytvis(path) == Findings([], 2, 2)


def test_frames(tmp_path):
    what = content()
    what["videos"].pop()
    (tmp_path / "cat").mkdir()
    for t in range(4):
        Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(tmp_path / f"cat/{t:05d}.png")
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(what))
    assert validate_ytvis(path, frames=tmp_path) == []
    Image.fromarray(np.zeros((12, 8, 3), np.uint8)).save(tmp_path / "cat/00002.png")
    assert "00002.png is 8x12, but its video is 16x12" in only(tmp_path, what, frames=tmp_path)
    (tmp_path / "cat/00002.png").unlink()
    assert "00002.png does not exist" in only(tmp_path, what, frames=tmp_path)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        validate_ytvis(tmp_path / "no.json")
    (tmp_path / "list.json").write_text("[1]")
    assert "holds a list" in str(validate_ytvis(tmp_path / "list.json")[0])
