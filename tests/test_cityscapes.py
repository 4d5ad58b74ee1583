"""Cityscapes clips end on their labelled frame."""

import numpy as np
import pytest
from PIL import Image

from tubelet.data.cityscapes import read_cityscapes

PLACE = "frankfurt_000001"


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)
    return path


def frame(root, number, folder="leftImg8bit_sequence"):
    return root / folder / "val/frankfurt" / f"{PLACE}_{number:06d}_leftImg8bit.png"


def labels(root, number, kind="labelIds"):
    return root / "gtFine/val/frankfurt" / f"{PLACE}_{number:06d}_gtFine_{kind}.png"


@pytest.fixture
def root(tmp_path):
    for number in range(275, 305):
        save(frame(tmp_path, number), np.full((4, 8, 3), number % 256, np.uint8))
    save(labels(tmp_path, 294), np.array([[7, 33], [0, 34 - 5]], np.uint8))
    (tmp_path / "gtFine/val/frankfurt" / f"{PLACE}_000294_gtFine_color.png").touch()
    return tmp_path


@pytest.mark.parametrize("length", [None, 20, 5, 1])
def test_the_last_frame_is_the_labelled_one(root, length):
    (video,) = read_cityscapes(root, length=length)
    assert video.name == f"{PLACE}_000294"
    assert len(video) == (length or 20)
    assert list(video.labels) == [len(video) - 1]
    assert video.numbers == tuple(range(295 - len(video), 295))
    assert list(video.frames) == [frame(root, n) for n in video.numbers]
    assert video.classes(len(video) - 1).tolist() == [[0, 18], [255, 255]]
    assert (video.rgb(0) == video.numbers[0] % 256).all()


def test_stills(tmp_path):
    for number in (294, 576):
        save(frame(tmp_path, number, "leftImg8bit"), np.zeros((4, 8, 3), np.uint8))
        save(labels(tmp_path, number), np.zeros((4, 8), np.uint8))
    videos = read_cityscapes(tmp_path)
    assert [video.name[-6:] for video in videos] == ["000294", "000576"]
    assert [len(video) for video in videos] == [1, 1]
    with pytest.raises(FileNotFoundError, match=r"000292_leftImg8bit.png does not exist \(2 of the 3 frames"):
        read_cityscapes(tmp_path, length=3)


def test_train_ids(root):
    with pytest.raises(FileNotFoundError, match=r"val holds no CITY/..._gtFine_labelTrainIds.png"):
        read_cityscapes(root, train_ids=True)
    save(labels(root, 294, "labelTrainIds"), np.array([[0, 18, 255]], np.uint8))
    assert read_cityscapes(root, train_ids=True)[0].classes(19).tolist() == [[0, 18, 255]]
    save(labels(root, 294, "labelTrainIds"), np.array([[19]], np.uint8))
    with pytest.raises(ValueError, match="id 19, which is no class"):
        read_cityscapes(root, train_ids=True)[0].classes(19)


def test_what_is_refused(root):
    for length in (0, 21):
        with pytest.raises(ValueError, match=f"length is 1 to 20, .* got {length}"):
            read_cityscapes(root, length=length)
    with pytest.raises(FileNotFoundError, match="gtFine/train is not a folder"):
        read_cityscapes(root, "train")
    save(labels(root, 294), np.array([[34]], np.uint8))
    with pytest.raises(ValueError, match="holds id 34"):
        read_cityscapes(root)[0].classes(19)
    frame(root, 290).unlink()
    with pytest.raises(FileNotFoundError, match=r"000290_leftImg8bit.png does not exist"):
        read_cityscapes(root)
    assert len(read_cityscapes(root, length=4)[0]) == 4
    labels(root, 294).rename(root / "gtFine/val/frankfurt/last_gtFine_labelIds.png")
    with pytest.raises(ValueError, match="is not named CITY_SEQUENCE_FRAME"):
        read_cityscapes(root)
