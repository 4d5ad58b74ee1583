"""What a COCO file says, image by image or joined to videos: every form of a mask, whose classes, what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from tubelet.data.classes import COCO
from tubelet.data.coco import read_coco
from tubelet.types import encode_rle

SIZE = (24, 32)
BOX = np.zeros(SIZE, bool)
BOX[4:12, 2:10] = True
POLYGON = [[2.0, 4.0, 10.0, 4.0, 10.0, 12.0, 2.0, 12.0]]
COUNTS = {"size": list(SIZE), "counts": [52, *[8, 16] * 7, 8, SIZE[0] * SIZE[1] - 52 - 7 * 24 - 8]}
FORMS = [POLYGON, encode_rle(BOX), COUNTS]


def image(i: int, **more) -> dict:
    return {"id": i, "height": SIZE[0], "width": SIZE[1], "file_name": f"{i}.png", **more}


def annotation(i: int, on: int, category: int = 1, form=POLYGON, **more) -> dict:
    return {"id": i, "image_id": on, "category_id": category, "iscrowd": 0, "segmentation": form, **more}


def content() -> dict:
    """Image 4 has a person, a bicycle, a toothbrush (as polygon, RLE, counts), a crowd and a bottle; 5 has a bottle."""
    kinds = zip((1, 2, 90), FORMS, strict=True)
    found = [annotation(i, 4, c, form) for i, (c, form) in enumerate(kinds, start=1)]
    found += [annotation(8, 4, 1, COUNTS, iscrowd=1), annotation(9, 4, 44), annotation(10, 5, 44)]
    return {
        "images": [image(4), image(5)],
        "annotations": [*found, annotation(11, 5, form=[])],
        "categories": [{"id": i, "name": name} for i, name in COCO.items()],
    }


@pytest.fixture
def read(tmp_path):
    def write_and_read(what=None, **options):
        path = tmp_path / "coco.json"
        path.write_text(json.dumps(content() if what is None else what))
        return read_coco(path, **options)

    return write_and_read


def test_images_are_videos_of_one_frame(read, tmp_path):
    data = read(images=tmp_path)
    assert list(data.videos) == [4, 5]
    assert (data.videos[4].size, data.videos[4].length, data.videos[4].file_names) == (SIZE, 1, ("4.png",))
    assert data.categories == COCO
    assert [i.id for i in data.instances[4]] == [1, 2, 3, 8, 9]
    assert [i.id for i in data.instances[5]] == [10]  # 11 has no segmentation
    assert [i.iscrowd for i in data.instances[4]] == [False, False, False, True, False]
    Image.fromarray(np.full((*SIZE, 3), 7, np.uint8)).save(tmp_path / "4.png")
    assert (data.videos[4].load_frame(0) == 7).all()


def test_every_form_of_a_mask_is_kept_as_the_same_rle(read):
    for instance in read().instances[4]:
        assert (instance.mask(0) == BOX).all()
        assert instance.segmentations == (encode_rle(BOX),)


def test_classes_of_another_data_set(read):
    data = read(dataset="ytvis_2019")
    assert len(data.categories) == 40
    assert [(i.id, data.categories[i.category_id]) for i in data.instances[4]] == [
        (1, "person"),
        (2, "motorbike"),
        (8, "person"),
    ]
    assert list(data.videos) == [4, 5]
    assert 5 not in data.instances


@pytest.mark.parametrize("order", [("annotations", "categories", "images"), ("categories", "annotations", "images")])
def test_the_order_of_the_lists_is_free(read, order):
    before, what = read(), content()
    assert read({key: what[key] for key in order}) == before


def test_unknown_lists_are_passed_over(read):
    assert read({"info": {"year": 1}, "licenses": [3], **content()}) == read()


def cocovid() -> dict:
    """Images 7, 8 and 6 are frames 0, 1, 2 of one video; 9 is by itself."""
    what = content()
    what["images"] = [image(i, video_id=3, frame_id=t) for i, t in ((6, 2), (7, 0), (8, 1))] + [image(9)]
    what["annotations"] = [
        annotation(1, 6, 2, instance_id=5),
        annotation(2, 7, 2, instance_id=5),
        annotation(3, 8, 1, track_id=6),
        annotation(4, 8, 1),
        annotation(5, 9, 1, instance_id=5),
    ]
    return what


def test_joined_as_cocovid_says(read):
    data = read(cocovid(), join=True)
    assert [v.file_names for v in data.videos.values()] == [("7.png", "8.png", "6.png"), ("9.png",)]
    assert [[i.visible(t) for t in range(3)] for i in data.instances[1]] == [
        [True, False, True],
        [False, True, False],
        [False, True, False],
    ]
    assert [i.category_id for i in data.instances[1]] == [2, 1, 1]
    assert len(data.instances[2]) == 1


def test_not_joined_unless_asked(read):
    assert [v.length for v in read(cocovid()).videos.values()] == [1, 1, 1, 1]


def test_what_cannot_be_joined(read):
    what = cocovid()
    what["annotations"][0]["category_id"] = 1
    with pytest.raises(ValueError, match="annotations 2 and 1 cannot be one instance"):
        read(what, join=True)
    what = cocovid()
    what["annotations"][0]["image_id"] = 7
    with pytest.raises(ValueError, match="annotations 1 and 2 cannot be one instance"):
        read(what, join=True)
    what = cocovid()
    what["images"][0]["height"] = 30
    with pytest.raises(ValueError, match=r"6\.png is 32x30, but the first of its video is 32x24"):
        read(what, join=True)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"images": [], "annotations": []}, {}, "needs lists of images"),
        ({"images": None}, {}, "needs lists of images"),
        ({"images": None, "annotations": None}, {}, "needs lists of images"),
        ({"categories": []}, {}, "needs lists of images"),
        ({}, {"dataset": "ytvis"}, "there are no classes of 'ytvis'"),
        ({"categories": [{"id": 1, "name": "cat"}]}, {"dataset": "ovis"}, "does not have COCO's categories"),
        ({"annotations": [annotation(1, 77)]}, {}, "id 1.*its image 77 is not in the file"),
        ({"annotations": [annotation(1, 4, form=[[1, 2, 3, 4]])]}, {}, "id 1.*at least 3 points"),
        ({"annotations": [annotation(1, 4, form={"size": [4, 4], "counts": "0"})]}, {}, "id 1.*its video is 32x24"),
        ({"annotations": [annotation(1, 4, 91)]}, {}, "category 91, which it does not list"),
        ({"annotations": [{"id": 1, "image_id": 4}]}, {}, "id 1.*it has no 'category_id'"),
        ({"annotations": [annotation(1, 4), annotation(1, 4)]}, {}, "annotations 1 and 1 cannot be one"),
        ({"annotations": ["cat"]}, {}, "entry in annotations"),
        ({"images": [{"id": 4}]}, {}, "entry in images"),
        ({"images": [4]}, {}, "entry in images"),
    ],
)
def test_damaged_files_are_refused(read, change, options, said):
    with pytest.raises(ValueError, match=said):
        read({**content(), **change}, **options)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.json"):
        read_coco(tmp_path / "no.json")
    (tmp_path / "half.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"half\.json is not JSON"):
        read_coco(tmp_path / "half.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"list\.json is no COCO file"):
        read_coco(tmp_path / "list.json")
