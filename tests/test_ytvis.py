"""Reading YouTube-VIS and OVIS files: every form of a mask, absent frames, crowds, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from tubelet.data.validate_ytvis import validate_ytvis
from tubelet.data.ytvis import read_predictions, read_ytvis, to_rle
from tubelet.types import decode_rle, encode_rle

SIZE = (12, 16)
SQUARE = np.zeros(SIZE, bool)
SQUARE[2:6, 3:9] = True
POLYGON = [[3, 2, 9, 2, 9, 6, 3, 6]]


def compressed(mask) -> dict:
    return encode_rle(mask)


def uncompressed(mask) -> dict:
    flat = np.concatenate([[False], mask.T.ravel(), [not mask[-1, -1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(SIZE), "counts": np.diff(edges, prepend=0).tolist()}


def content() -> dict:
    return {
        "info": {"version": "1"},
        "annotations": [
            {
                "id": 5,
                "video_id": 2,
                "category_id": 3,
                "iscrowd": 0,
                "segmentations": [compressed(SQUARE), None, uncompressed(SQUARE), POLYGON],
                "areas": [24, None, 24, 24],
                "bboxes": [[3, 2, 6, 4], None, [3, 2, 6, 4], [3, 2, 6, 4]],
                "occlusion": ["no_occlusion", None, "severe_occlusion", "slight_occlusion"],
            },
            {
                "id": 6,
                "video_id": 2,
                "category_id": 3,
                "iscrowd": 1,
                "segmentations": [None, None, None, compressed(~SQUARE)],
            },
        ],
        "videos": [
            {"id": 2, "height": 12, "width": 16, "length": 4, "file_names": [f"cat/{t:05d}.png" for t in range(4)]},
            {"id": 4, "height": 8, "width": 8, "length": 2, "file_names": []},
        ],
        "categories": [{"id": 3, "name": "cat", "supercategory": "object"}],
    }


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "instances.json", content())


def write(path, what):
    path.write_text(json.dumps(what))
    return path


def test_reading(path):
    data = read_ytvis(path)
    assert len(data) == 2
    assert data.categories == {3: "cat"}
    assert (data.videos[2].name, data.videos[4].name) == ("cat", "4")
    first, crowd = data.instances[2]
    assert (first.id, first.iscrowd, crowd.iscrowd) == (5, False, True)
    for t in (0, 2, 3):
        assert (first.mask(t) == SQUARE).all()
    assert not first.visible(1)
    assert first.rle(1) is None
    assert not first.mask(1).any()
    assert first.occlusion[2] == "severe_occlusion"
    labels = data.labels(2, 3)
    assert (labels[SQUARE] == 1).all()
    assert (labels[~SQUARE] == 255).all()
    assert not data.labels(4, 0).any()


def test_frames(path, tmp_path):
    with pytest.raises(ValueError, match="give `frames`"):
        read_ytvis(path).videos[2].load_frame(0)
    video = read_ytvis(path, frames=tmp_path / "JPEGImages").videos[2]
    assert video.frame_paths[3] == tmp_path / "JPEGImages/cat/00003.png"
    video.frame_paths[0].parent.mkdir(parents=True)
    rgb = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
    Image.fromarray(rgb).save(video.frame_paths[0])
    assert (video.load_frame(0) == rgb).all()
    Image.fromarray(rgb[:6]).save(video.frame_paths[1])
    with pytest.raises(ValueError, match="16x6, but its video is said to be 16x12"):
        video.load_frame(1)


def test_without_annotations(tmp_path):
    for nothing in (None, []):
        data = read_ytvis(write(tmp_path / "valid.json", {**content(), "annotations": nothing}))
        assert data.instances == {}


def test_predictions(path, tmp_path):
    entry = {"video_id": 2, "category_id": 3, "score": 1, "segmentations": [None] * 4}
    result = write(tmp_path / "results.json", [entry, {**entry, "score": 0.5}])
    assert [(p.id, p.score) for p in read_predictions(read_ytvis(path), result)] == [(1, 1.0), (2, 0.5)]


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([[1, 2, 3, 4]], "3 points"),
        ("text", "a segmentation is null"),
        ({"counts": "0"}, "a segmentation is null"),
        ({"size": [16, 12], "counts": "0"}, "12x16, but its video is 16x12"),
        ({"size": [12, 16], "counts": [3, 4]}, "do not add up to the 192 pixels"),
        ({"size": [12, 16], "counts": [200, -8]}, "do not add up"),
        ({"size": [12, 16], "counts": "0P"}, "no compressed COCO RLE"),
        ({"size": [12, 16], "counts": ""}, "no compressed COCO RLE"),
        ({"size": [12, 16], "counts": b"0P"}, "no compressed COCO RLE"),
        ({"size": [12, 16], "counts": b"0\xff1"}, "no compressed COCO RLE"),
        ({"size": [12, 16], "counts": None}, "no compressed COCO RLE"),
        ({"size": 12, "counts": "0"}, "has the size 12; expected"),
        ([[1, 2, 3, 4, 5, float("nan")]], "no number or far outside"),
        ([[1, 2, 3, 4, 5, 1e9]], "no number or far outside"),
        ([[1, 2, 3, 4, 5, "6"]], "no number or far outside"),
    ],
)
def test_masks_that_are_refused(segmentation, said):
    with pytest.raises(ValueError, match=said):
        to_rle(segmentation, SIZE)


def test_every_form_of_a_mask_becomes_one_with_text():
    expected = compressed(SQUARE)
    as_bytes = {"size": SIZE, "counts": expected["counts"].encode()}
    for form in (encode_rle(SQUARE), as_bytes, uncompressed(SQUARE), POLYGON):
        rle = to_rle(form, SIZE)
        assert rle is not None
        assert rle == expected
        assert json.loads(json.dumps(rle)) == rle
        assert to_rle(rle, SIZE) is rle  # nothing to do
        assert (decode_rle(rle) == SQUARE).all()


def spoilt(what: str) -> dict:
    out = content()
    first, video = out["annotations"][0], out["videos"][0]
    {
        "video": lambda: first.update(video_id=3),
        "category": lambda: first.update(category_id=0),
        "frames": lambda: first["segmentations"].pop(),
        "areas": lambda: first["areas"].pop(),
        "occlusion": lambda: first["occlusion"].__setitem__(0, "much"),
        "no id": lambda: first.pop("id"),
        "id twice": lambda: first.update(id=6),
        "id text": lambda: first.update(id="x"),
        "names": lambda: video["file_names"].pop(),
        "video twice": lambda: out["videos"].append(video),
        "no height": lambda: video.pop("height"),
        "no categories": lambda: out.pop("categories"),
        "no videos": lambda: out.pop("videos"),
    }[what]()
    return out


BAD = [
    ("video", "annotation 5 is of video 3, which the truth does not have; it has 2, 4"),
    ("category", "annotation 5 is of category 0"),
    ("frames", "annotation 5 has 3 segmentations, but video cat has 4 frames"),
    ("areas", "annotation 5 has 3 areas but 4 segmentations"),
    ("occlusion", "annotation 5 has the occlusion 'much'"),
    ("no id", "has no id"),
    ("id twice", "id"),
    ("id text", "id is 'x'; expected a whole number"),
    ("names", "video 2 has 3 file_names, but its length is 4"),
    ("video twice", "the id 2 twice in videos"),
    ("no height", "no 'height'"),
    ("no categories", "has no categories"),
    ("no videos", "has no videos"),
]


@pytest.mark.parametrize(("what", "said"), BAD)
def test_files_that_are_refused(tmp_path, what, said):
    path = write(tmp_path / "bad.json", spoilt(what))
    with pytest.raises(ValueError, match=said):
        read_ytvis(path)
    assert any(said in str(problem) or "id" in said for problem in validate_ytvis(path))
