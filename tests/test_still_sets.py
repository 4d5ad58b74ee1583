"""Each set in a tiny folder laid out as it was published; what is missing or damaged is named."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tubelet.data.still_sets import (
    CocoImage,
    MaskedImage,
    read_coco_images,
    read_grey,
    read_indexed,
    read_stills,
    read_voc,
)
from tubelet.types import VOID, encode_rle

SAMPLES = Path(__file__).parents[2] / "shared/data/images_with_masks/labelme_voc"
SIZE = (12, 16)


def picture(path: Path, size=SIZE, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).convert(mode).save(path)


def mask(path: Path, values, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(path)


def box(top, left, bottom, right, value=1, size=SIZE):
    out = np.zeros(size, np.uint8)
    out[top:bottom, left:right] = value
    return out


def indexed(root: Path, name: str = "7", values=None, kind: str = "ANY") -> None:
    picture(root / "JPEGImages" / kind / f"{name}.jpg")
    mask(root / "Annotations" / kind / f"{name}.png", box(2, 2, 6, 6) if values is None else values, "P")


def voc(root: Path) -> None:
    picture(root / "JPEGImages/2007_000001.jpg")
    picture(root / "JPEGImages/2007_000002.jpg")  # of detection only
    ids = box(2, 2, 8, 8, VOID)
    ids[3:7, 3:7] = 2
    mask(root / "SegmentationObject/2007_000001.png", ids, "P")
    picture(root / "Annotations/2007_000001.jpg")  # VOC has a folder of this name too, of XML
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n")
    (root / "ImageSets/Segmentation/broken.txt").write_text("2007_000001\n2007_000002\n")


def grey(images: Path, masks: Path, name: str = "0001", values=None) -> None:
    picture(images / f"{name}.jpg")
    mask(masks / f"{name}.png", box(2, 2, 6, 6, 255) if values is None else values)


def annotation(i: int, on: int, where, **more) -> dict:
    return {"id": i, "image_id": on, "category_id": 1, "iscrowd": 0, "segmentation": where, **more}


def coco(root: Path, name: str = "instances_train2017", folder: str = "train2017") -> Path:
    """Image 1: a square, upon it a smaller one, a crowd below both. Image 2: a crowd. Image 3: nothing."""
    small, large, crowd = box(4, 4, 6, 7), box(2, 2, 8, 9), box(0, 0, 12, 5)
    polygon = [[4.0, 4.0, 7.0, 4.0, 7.0, 6.0, 4.0, 6.0]]
    assert small.sum() == 6
    path = root / "annotations" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "height": SIZE[0], "width": SIZE[1], "file_name": f"{i:012d}.jpg"} for i in (1, 2, 3)]
    found = [
        annotation(11, 1, polygon),
        annotation(12, 1, encode_rle(large > 0)),
        annotation(13, 1, encode_rle(crowd > 0), iscrowd=1),
        annotation(14, 2, encode_rle(crowd > 0), iscrowd=1),
    ]
    path.write_text(json.dumps({"images": images, "annotations": found, "categories": [{"id": 1, "name": "person"}]}))
    for image in images:
        picture(root / folder / image["file_name"])
    return path


def ids_of(still) -> np.ndarray:
    rgb, ids = pickle.loads(pickle.dumps(still)).load()
    assert rgb.shape == (*ids.shape, 3)
    assert (rgb.dtype, ids.dtype) == (np.uint8, np.uint8)
    assert np.abs(rgb.astype(int) - 90).max() < 3
    return ids


# ---- the layouts


def test_index_pngs_of_several_sets(tmp_path):
    indexed(tmp_path, "1", kind="ECSSD")
    indexed(tmp_path, "2", box(0, 0, 3, 3, 4), kind="COCO")
    picture(tmp_path / "JPEGImages/COCO/unlabelled.jpg")
    stills: Any = read_stills(tmp_path)
    assert [still.image.parent.name for still in stills] == ["COCO", "ECSSD"]
    assert np.array_equal(ids_of(stills[0]), box(0, 0, 3, 3, 4))
    with pytest.raises(FileNotFoundError, match=r"no image with a mask below .*JPEGImages/NAME/x\.jpg"):
        read_indexed(tmp_path / "JPEGImages")


@pytest.mark.parametrize("above", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc(tmp_path, above):
    voc(tmp_path / above)
    (still,) = read_stills(tmp_path)
    ids = ids_of(still)
    assert set(np.unique(ids)) == {0, 2, VOID}
    assert read_voc(tmp_path / above, "train") == [still]


def test_voc_lists_are_complete(tmp_path):
    voc(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"2007_000002\.png does not exist"):
        read_voc(tmp_path, "broken")
    with pytest.raises(FileNotFoundError, match=r"val\.txt does not exist"):
        read_voc(tmp_path, "val")


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "ground_truth_mask"),
        ("Imgs", "Imgs"),
        ("MSRA10K_Imgs_GT/Imgs", "MSRA10K_Imgs_GT/Imgs"),
        ("datasets/imgs/pascal", "datasets/masks/pascal"),
    ],
)
def test_grey_sets_have_one_object(tmp_path, images, masks):
    """127 of 255 is less than half, 128 more: what PASCAL-S was made for, and JPEG-like rims elsewhere."""
    values = box(2, 2, 9, 9, 127)
    values[4:8, 4:8] = 128
    grey(tmp_path / images, tmp_path / masks, "1", values)
    grey(tmp_path / images, tmp_path / masks, "10")
    grey(tmp_path / images, tmp_path / masks, "2")
    stills: Any = read_stills(tmp_path)
    assert [still.image.stem for still in stills] == ["1", "2", "10"]
    assert np.array_equal(ids_of(stills[0]), box(4, 4, 8, 8))
    assert np.array_equal(ids_of(stills[2]), box(2, 2, 6, 6))


@pytest.mark.parametrize("mode", ["1", "P"])
def test_black_and_white_masks_of_other_modes(tmp_path, mode):
    grey(tmp_path / "images", tmp_path / "ground_truth_mask")
    path = tmp_path / "ground_truth_mask/0001.png"
    Image.open(path).convert(mode).save(path)
    assert np.array_equal(ids_of(read_stills(tmp_path)[0]), box(2, 2, 6, 6))


@pytest.mark.parametrize("folder", ["train2017", "images/train2017"])
def test_coco(tmp_path, folder):
    """Smaller objects cover larger ones, objects cover crowds, which are void; images of no object are left out."""
    coco(tmp_path, folder=folder)
    (still,) = read_stills(tmp_path)
    wanted = box(0, 0, 12, 5, VOID)
    wanted[2:8, 2:9] = 1
    wanted[4:6, 4:7] = 2
    assert np.array_equal(ids_of(still), wanted)
    assert len(pickle.dumps(still)) < 500


def test_of_cocos_files_the_training_ones(tmp_path):
    for name in ("train2014", "train2017", "val2017"):
        coco(tmp_path, f"instances_{name}", name)
    stills: Any = read_stills(tmp_path)
    assert {still.folder.name for still in stills} == {"train2017"}
    assert read_coco_images(tmp_path / "annotations/instances_val2017.json")[0].folder.name == "val2017"
    elsewhere = read_coco_images(tmp_path / "annotations/instances_val2017.json", tmp_path / "train2014")
    assert elsewhere[0].folder.name == "train2014"


def test_more_objects_than_ids(tmp_path):
    """The 254 largest are told apart, the others are void."""
    size = (300, 300)
    picture(tmp_path / "x.png", size)
    rows = [box(i, 0, i + 1, 300 - i, size=size) for i in range(260)]
    rles = b" ".join(encode_rle(row > 0)["counts"].encode() for row in rows)
    ids = ids_of(CocoImage(tmp_path, "x.png", size, rles))
    assert ids[:, 0].tolist() == [*range(1, 255)] + [VOID] * 6 + [0] * 40


# ---- edges


@pytest.mark.parametrize("size", [(1, 1), (9, 1)])
@pytest.mark.parametrize("value", [0, 1, VOID])
def test_small_masks_of_one_value(tmp_path, size, value):
    picture(tmp_path / "x.png", size)
    mask(tmp_path / "y.png", np.full(size, value), "P")
    assert (ids_of(MaskedImage(tmp_path / "x.png", tmp_path / "y.png")) == value).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_pictures_of_other_modes_become_rgb(tmp_path, mode):
    picture(tmp_path / ("x.jpg" if mode == "CMYK" else "x.png"), mode=mode)
    mask(tmp_path / "y.png", box(0, 0, 2, 2), "P")
    ids_of(MaskedImage(next(tmp_path.glob("x.*")), tmp_path / "y.png"))


# ---- errors


def test_a_folder_of_nothing_that_is_known(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no set .*SegmentationObject .*Imgs .*JPEGImages/NAME/x\.jpg"):
        read_stills(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        read_stills(tmp_path / "nowhere")


def test_a_missing_mask_or_image(tmp_path):
    grey(tmp_path / "images", tmp_path / "ground_truth_mask")
    picture(tmp_path / "images/0002.jpg")
    with pytest.raises(FileNotFoundError, match=r"ground_truth_mask/0002\.png does not exist \(1 such"):
        read_stills(tmp_path)
    mask(tmp_path / "ground_truth_mask/0002.png", box(0, 0, 1, 1))
    mask(tmp_path / "ground_truth_mask/0003.png", box(0, 0, 1, 1))
    with pytest.raises(FileNotFoundError, match=r"images/0003\.jpg does not exist"):
        read_stills(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no \.jpg"):
        read_grey(tmp_path / "empty", tmp_path / "empty")


def test_what_coco_misses(tmp_path):
    path = coco(tmp_path)
    (tmp_path / "train2017/000000000003.jpg").unlink()  # has no object
    assert len(read_stills(tmp_path)) == 1
    (tmp_path / "train2017/000000000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"000000000001\.jpg does not exist"):
        read_stills(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"in .*/val2017 and .*/images/val2017"):
        read_coco_images(path.rename(path.with_name("instances_val2017.json")))
    path.write_text('{"images": []')
    with pytest.raises(ValueError, match="is it complete"):
        read_stills(tmp_path)


def test_damaged_files_are_named(tmp_path):
    indexed(tmp_path)
    still: Any = read_stills(tmp_path)[0]
    for path in (still.image, still.mask):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(OSError, match=rf"{path.name} cannot be read as an image"):
            still.load()
        path.write_bytes(whole)
    still.load()


def test_another_size_is_refused(tmp_path):
    indexed(tmp_path, values=box(0, 0, 2, 2, size=(8, 9)))
    with pytest.raises(ValueError, match=r"7\.jpg is 16x12, but .*7\.png is 9x8"):
        read_stills(tmp_path)[0].load()
    coco(tmp_path / "coco")
    picture(tmp_path / "coco/train2017/000000000001.jpg", (5, 4))
    with pytest.raises(ValueError, match=r"000000000001\.jpg is 4x5, but what its annotation file says is 16x12"):
        read_stills(tmp_path / "coco")[0].load()


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no samples beside the repository")
def test_samples_of_voc():
    stills = read_stills(SAMPLES)
    assert len(stills) == 3
    for still in stills:
        rgb, ids = still.load()
        assert rgb.shape == (*ids.shape, 3)
        assert 1 in ids
