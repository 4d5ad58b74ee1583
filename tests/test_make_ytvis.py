"""What is converted is read back the same, and is valid; scored against itself it is perfect."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tubelet.data.make_ytvis import from_coco, from_folders, from_labelme, write_ytvis
from tubelet.data.validate_ytvis import validate_ytvis
from tubelet.data.ytvis import read_ytvis
from tubelet.metrics.vis_ap import score_vis

SIZE = (24, 32)


def read(tmp_path, made):
    path = tmp_path / "made.json"
    write_ytvis(path, made)
    assert validate_ytvis(path) == []
    assert not list(tmp_path.glob("*.part"))
    return read_ytvis(path)


# Folders of frames and masks -----------------------------------------------------------------------------------------


def box(*, x: int, i: int = 1) -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    labels[4:12, x : x + 8] = i
    return labels


def save(path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if array.ndim == 2:
        image.putpalette(list(range(256)) * 3)
    image.save(path)


@pytest.fixture
def folders(tmp_path):
    for video in ("cat", "dog"):
        for t in range(4):
            save(tmp_path / f"frames/{video}/{t:05d}.png", np.zeros((*SIZE, 3), np.uint8))
            if t != 1:  # frame 1 is not annotated
                labels = box(x=t) | (box(x=20, i=3) if t == 3 else 0)
                labels[-1] = 255
                save(tmp_path / f"masks/{video}/{t:05d}.png", labels)
    return tmp_path / "frames", tmp_path / "masks"


def test_folders(folders, tmp_path):
    data = read(tmp_path, from_folders(*folders, names={"cat": "cat", "dog": {1: "dog", 3: "ball"}}))
    assert data.categories == {1: "cat", 2: "dog", 3: "ball"}
    assert data.videos[2].file_names == tuple(f"dog/{t:05d}.png" for t in (0, 2, 3))
    one, three = data.instances[2]
    assert (one.category_id, three.category_id) == (2, 3)
    assert [three.visible(t) for t in range(3)] == [False, False, True]
    assert (one.mask(1) == (box(x=2) > 0)).all()
    assert one.areas[1] == 64


def test_one_video(folders, tmp_path):
    frames, masks = folders
    data = read(tmp_path, from_folders(frames / "cat", masks / "cat"))
    assert (data.videos[1].name, data.categories) == ("cat", {1: "object"})


def test_folders_that_do_not_fit(folders):
    frames, masks = folders
    with pytest.raises(ValueError, match="object 3 of video dog has no category"):
        from_folders(frames, masks, names={"cat": "cat", "dog": {1: "dog"}})
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        from_folders(frames, masks / "none")
    save(masks / "dog/00002.png", np.ones((24, 30), np.uint8))
    with pytest.raises(ValueError, match="is 30x24 but its frame"):
        from_folders(frames, masks)
    save(masks / "dog/00009.png", np.ones(SIZE, np.uint8))
    with pytest.raises(ValueError, match="has no frame 00009"):
        from_folders(frames, masks)


def test_the_folder_that_one_is_in(folders, tmp_path, monkeypatch):
    frames, masks = folders
    monkeypatch.chdir(frames / "cat")
    assert from_folders(".", masks / "cat")["videos"][0]["file_names"][0] == "cat/00000.png"


def test_scored_against_itself(folders, tmp_path):
    data = from_folders(*folders, names={"cat": "cat", "dog": "dog"})
    write_ytvis(tmp_path / "gt.json", data)
    keys = ("video_id", "category_id", "segmentations")
    results = [{**{k: a[k] for k in keys}, "score": 1 - 0.1 * a["id"]} for a in data["annotations"]]
    (tmp_path / "results.json").write_text(json.dumps(results))
    numbers = score_vis(tmp_path / "gt.json", tmp_path / "results.json").numbers
    assert (numbers["AP"], numbers["AR100"]) == (pytest.approx(1), 1)


# labelme -------------------------------------------------------------------------------------------------------------


def shape(label: str, x: float, kind: str = "polygon", group: int | None = None) -> dict:
    points = [[x, 4], [x + 8, 4], [x + 8, 12], [x, 12]]
    if kind == "rectangle":
        points = [points[2], points[0]]
    elif kind == "circle":
        points = [[x + 4, 8], [x + 8, 8]]
    out = {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}}
    if kind == "mask":
        file = io.BytesIO()
        Image.fromarray(np.ones((8, 8), bool)).save(file, "PNG")
        out |= {"points": [[x, 4], [x + 7, 11]], "mask": base64.b64encode(file.getvalue()).decode()}
    return out


def labelme(folder, t: int, *shapes: dict, size=SIZE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    page = {
        "version": "5",
        "shapes": shapes,
        "imagePath": f"{t:05d}.jpg",
        "imageHeight": size[0],
        "imageWidth": size[1],
    }
    (folder / f"{t:05d}.json").write_text(json.dumps(page))


def test_labelme_links_what_overlaps(tmp_path):
    folder = tmp_path / "clip"
    labelme(folder, 0, shape("cat", 2), shape("cat", 16), shape("dog", 2))
    labelme(folder, 1, shape("cat", 18), shape("cat", 4))  # in another order
    labelme(folder, 2)
    labelme(folder, 10, shape("cat", 5), shape("cat", 0))  # the second one overlaps less, so it is new
    data = read(tmp_path, from_labelme(folder))
    assert data.videos[1].file_names == tuple(f"clip/{t:05d}.jpg" for t in (0, 1, 2, 10))
    assert data.categories == {1: "cat", 2: "dog"}
    left = next(i for i in data.instances[1] if i.visible(3) and i.mask(3)[5, 12])
    assert [left.visible(t) for t in range(4)] == [True, True, False, True]
    assert left.mask(1)[5].nonzero()[0].tolist() == list(range(4, 12))
    assert sorted(sum(map(i.visible, range(4))) for i in data.instances[1]) == [1, 1, 2, 3]


def test_labelme_groups_and_shapes(tmp_path):
    labelme(tmp_path / "v/a", 0, shape("cat", 0, group=1), shape("cat", 20, "rectangle", group=1))
    labelme(tmp_path / "v/a", 1, shape("cat", 14, "mask", group=1))
    labelme(tmp_path / "v/b", 0, shape("cat", 8, "circle"))
    data = read(tmp_path, from_labelme(tmp_path / "v"))
    (cat,) = data.instances[1]
    assert cat.areas == [128, 64]
    assert cat.mask(1)[4:12, 14:22].all()
    assert data.instances[2][0].areas[0] == pytest.approx(16 * np.pi, abs=3)


def test_labelme_files_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match="no labelme file"):
        from_labelme(tmp_path)
    labelme(tmp_path, 0, shape("cat", 2, "line"))
    with pytest.raises(ValueError, match="'cat' is a line, which has no area"):
        from_labelme(tmp_path)
    labelme(tmp_path, 0)
    labelme(tmp_path, 1, size=(10, 10))
    with pytest.raises(ValueError, match="is 10x10, but the first is 32x24"):
        from_labelme(tmp_path)
    for damaged in ({"mask": "AAAA"}, {"points": []}, {"mask": "bad"}):
        labelme(tmp_path, 1, shape("cat", 2, "mask") | damaged)
        with pytest.raises(ValueError, match=r"00001\.json"):
            from_labelme(tmp_path)
    (tmp_path / "00001.json").write_text("{}")
    with pytest.raises(ValueError, match=r"00001\.json is no labelme file"):
        from_labelme(tmp_path)


# COCO ----------------------------------------------------------------------------------------------------------------


def coco_file(tmp_path, **changes):
    polygon = [[2.0, 4.0, 10.0, 4.0, 10.0, 12.0, 2.0, 12.0]]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 24, "width": 32} for i in (7, 8)]
    boxes = [{"id": 1, "image_id": 8, "category_id": 2}, {"id": 2, "image_id": 8, "category_id": 77, "iscrowd": 1}]
    annotations = [{**a, "segmentation": polygon, "bbox": [2, 4, 8, 8], "area": 64} for a in boxes]
    kinds = [{"id": 2, "name": "bicycle"}, {"id": 77, "name": "cell phone"}]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": kinds} | changes))
    return path


def test_coco(tmp_path):
    data = read(tmp_path, from_coco(coco_file(tmp_path)))
    assert [v.length for v in data.videos.values()] == [1, 1]
    assert data.categories == {2: "bicycle", 77: "cell phone"}
    assert [(i.category_id, i.iscrowd) for i in data.instances[2]] == [(2, False), (77, True)]
    assert data.instances[2][0].mask(0)[4:12, 2:10].all()


@pytest.mark.parametrize(
    ("dataset", "target"), [("ytvis_2019", "motorbike"), ("ytvis_2021", "motorbike"), ("ovis", "Bicycle")]
)
def test_coco_renamed(tmp_path, dataset, target):
    data = read(tmp_path, from_coco(coco_file(tmp_path), dataset=dataset))
    (instance,) = data.instances[2]
    assert data.categories[instance.category_id] == target


def test_coco_video(tmp_path):
    images = [
        {"id": i, "file_name": f"v/{t}.jpg", "height": 24, "width": 32, "video_id": 1, "frame_id": t}
        for i, t in ((7, 1), (8, 0))
    ]
    polygon = [[2.0, 4.0, 10.0, 4.0, 10.0, 12.0]]
    annotations = [
        {"id": i, "image_id": i, "category_id": 2, "instance_id": 4, "segmentation": polygon} for i in (7, 8)
    ]
    data = read(tmp_path, from_coco(coco_file(tmp_path, images=images, annotations=annotations)))
    assert data.videos[1].file_names == ("v/0.jpg", "v/1.jpg")
    (instance,) = data.instances[1]
    assert instance.visible(0)
    assert instance.visible(1)


def test_coco_files_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="known are ytvis_2019"):
        from_coco(coco_file(tmp_path), dataset="ytvis")
    with pytest.raises(ValueError, match="does not have COCO's categories"):
        from_coco(coco_file(tmp_path, categories=[{"id": 2, "name": "cat"}]), dataset="ovis")
    with pytest.raises(ValueError, match=r"coco\.json has annotations of category 2"):
        from_coco(coco_file(tmp_path, categories=[{"id": 3, "name": "cat"}]))
    with pytest.raises(ValueError, match="no COCO file"):
        from_coco(coco_file(tmp_path, images=None))
    with pytest.raises(FileNotFoundError):
        from_coco(tmp_path / "none.json")
