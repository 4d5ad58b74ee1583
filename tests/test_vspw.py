"""VSPW and VIPSeg on small folders like theirs, and on masks of VSPW's layout alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tubelet.data.vspw import read_vipseg, read_vspw

MADE = Path(__file__).parents[2] / "shared/parity/vss_metrics/small"


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)


@pytest.fixture
def vspw(tmp_path):
    (tmp_path / "val.txt").write_text("b_1\na\n")
    for name, frames in (("a", (2, 10)), ("b_1", (7,))):
        for t in frames:
            save(tmp_path / f"data/{name}/origin/{t:08d}.jpg", np.full((5, 7, 3), t, np.uint8))
            save(tmp_path / f"data/{name}/mask/{t:08d}.png", np.full((5, 7), t, np.uint8))
    return tmp_path


def test_videos_in_the_order_of_the_list(vspw):
    first, second = read_vspw(vspw)
    assert (first.name, second.name) == ("b_1", "a")
    assert second.frame_names == ["00000002", "00000010"]
    assert [np.unique(second.classes(t)).tolist() for t in range(2)] == [[1], [9]]
    assert second.rgb(1).shape == (5, 7, 3)


def test_void_and_train_ids(vspw):
    mask = vspw / "data/b_1/mask/00000007.png"
    save(mask, np.array([[0, 1, 124, 255]], np.uint8))
    assert read_vspw(vspw)[0].classes(0).tolist() == [[255, 0, 123, 255]]
    with pytest.raises(ValueError, match="id 124, which is no class"):
        read_vspw(vspw, train_ids=True)[0].classes(0)
    save(mask, np.array([[0, 1, 123, 255]], np.uint8))
    assert read_vspw(vspw, train_ids=True)[0].classes(0).tolist() == [[0, 1, 123, 255]]


def test_masks_that_are_missing(vspw):
    (vspw / "data/a/mask/00000010.png").unlink()
    with pytest.raises(ValueError, match=r"a/mask has no class map 00000010.png \(1 of 2 frames"):
        read_vspw(vspw)
    assert list(read_vspw(vspw, labelled="some")[1].labels) == [0]
    (vspw / "data/a/mask/00000002.png").unlink()
    (vspw / "data/a/mask").rmdir()
    with pytest.raises(FileNotFoundError, match="mask is not a folder"):
        read_vspw(vspw)
    for labelled in ("some", "none"):
        assert not read_vspw(vspw, labelled=labelled)[1].labels
    assert len(read_vspw(vspw, labelled="none")[1]) == 2


def test_frames_that_are_missing(vspw):
    (vspw / "data/a/origin/00000010.jpg").unlink()
    with pytest.raises(ValueError, match=r"00000010.png is a class map without a frame"):
        read_vspw(vspw)
    assert len(read_vspw(vspw, pictures=False)[1]) == 2
    (vspw / "data/a/origin/00000002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="origin holds no frame"):
        read_vspw(vspw)
    with pytest.raises(FileNotFoundError, match=r"train.txt does not exist; lists there: val.txt"):
        read_vspw(vspw, "train")


@pytest.mark.parametrize("folder", ["images", "imgs"])
def test_vipseg(tmp_path, folder):
    (tmp_path / "train.txt").write_text("a\n")
    save(tmp_path / folder / "a/00000003.jpg", np.zeros((1, 3, 3), np.uint8))
    save(tmp_path / "panomasks/a/00000003.png", np.array([[0, 29, 6101]], np.uint16))
    (video,) = read_vipseg(tmp_path, "train")
    assert video.classes(0).tolist() == [[255, 28, 60]]
    (tmp_path / "panomasks/a/00000003.png").unlink()
    with pytest.raises(ValueError, match=r"panomasks/a has no class map 00000003.png"):
        read_vipseg(tmp_path, "train")
    assert not read_vipseg(tmp_path, "train", labelled="some")[0].labels


@pytest.mark.skipif(not MADE.is_dir(), reason="the made masks are not here")
def test_masks_alone():
    videos = read_vspw(MADE, pictures=False, train_ids=False)
    assert [video.name for video in videos] == ["vid00", "vid01", "vid02", "vid03"]
    assert all(len(video.labels) == len(video) for video in videos)
    raw = np.asarray(Image.open(videos[0].labels[0]))
    assert (videos[0].classes(0)[raw == 3] == 2).all()
    with pytest.raises(FileNotFoundError):
        videos[0].rgb(0)
