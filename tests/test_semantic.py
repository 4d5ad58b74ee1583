"""Semantic videos: sparse labels, files of every kind, ids that nobody knows."""

import numpy as np
import pytest
from PIL import Image

from tubelet.data.semantic import SemanticVideo, images_of, match_labels, read_class_map, read_list
from tubelet.data.semantic_classes import VSPW_TRAIN_IDS

MAP = np.array([[0, 1, 124], [255, 61, 61]], np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)
    return path


@pytest.fixture
def video(tmp_path):
    frames = [save(tmp_path / f"{t}.jpg", np.full((2, 3, 3), 60 * t, np.uint8)) for t in range(3)]
    return SemanticVideo("cat", tuple(frames), {1: save(tmp_path / "1.png", MAP)}, VSPW_TRAIN_IDS)


def test_sparse_labels(video):
    assert len(video) == 3
    assert video.numbers == (0, 1, 2)
    assert video.frame_names == ["0", "1", "2"]
    assert video.classes(1).tolist() == [[255, 0, 123], [255, 60, 60]]
    assert video.rgb(2).shape == (2, 3, 3)
    assert (video.rgb(2) == 120).all()
    frame = video.load_frame(2)
    assert (frame.index, frame.name) == (2, "2")
    with pytest.raises(FileNotFoundError, match=r"frame 0 of cat has no class map; .* \(1 of 3\)"):
        video.classes(0)


def test_files_of_every_kind(tmp_path):
    grey = Image.fromarray(MAP)
    indices = grey.copy()
    indices.putpalette(list(range(256)) * 3)
    indices.save(tmp_path / "palette.png")
    grey.save(tmp_path / "grey.png")
    Image.fromarray(MAP.astype(np.uint16) * 100).save(tmp_path / "deep.png")
    grey.convert("1", dither=Image.Dither.NONE).save(tmp_path / "bits.png")
    assert (read_class_map(tmp_path / "palette.png") == MAP).all()
    assert (read_class_map(tmp_path / "grey.png") == MAP).all()
    assert (read_class_map(tmp_path / "deep.png") == MAP.astype(int) * 100).all()
    assert read_class_map(tmp_path / "bits.png").tolist() == [[0, 0, 0], [1, 0, 0]]
    # a map of object ids of this kind would be read as one white object
    save(tmp_path / "two.png", np.array([[0, 255]], np.uint8))
    assert read_class_map(tmp_path / "two.png").tolist() == [[0, 255]]


def test_files_that_are_refused(tmp_path, video):
    grey = Image.fromarray(MAP)
    grey.convert("RGB").save(video.labels[1])
    with pytest.raises(ValueError, match=r"1.png is an RGB image; a class map holds one id per pixel"):
        video.classes(1)
    Image.fromarray(MAP.astype(np.uint16) + 200).save(video.labels[1])
    with pytest.raises(ValueError, match=r"1.png holds ids up to 455; the ids of classes are 0..255"):
        video.classes(1)
    Image.fromarray(MAP + np.uint8(1)).save(video.labels[1])
    with pytest.raises(ValueError, match=r"1.png holds id 125, which is no class"):
        video.classes(1)
    video.labels[1].write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"1.png cannot be read as an image"):
        video.classes(1)


def test_panoptic_numbers(tmp_path):
    values = np.array([[0, 1, 124, 300], [6100, 6112, 12499, 29]], np.uint16)
    path = save(tmp_path / "pan.png", values)
    video = SemanticVideo("v", (tmp_path / "0.jpg",), {0: path}, VSPW_TRAIN_IDS, void=(0,), panoptic=True)
    assert video.classes(0).tolist() == [[255, 0, 123, 2], [60, 60, 123, 28]]
    save(path, values + np.uint16(100))
    with pytest.raises(ValueError, match=r"pan.png holds id 125"):
        video.classes(0)
    save(path, np.array([[255 * 100 + 99]], np.uint16))
    with pytest.raises(ValueError, match=r"pan.png holds id 255"):
        video.classes(0)


def test_lists(tmp_path):
    path = tmp_path / "val.txt"
    with pytest.raises(FileNotFoundError, match=r"val.txt does not exist; lists there: none"):
        read_list(path)
    path.write_text("\n b \na\n")
    assert read_list(path) == ["b", "a"]
    with pytest.raises(FileNotFoundError, match=r"lists there: val.txt"):
        read_list(tmp_path / "train.txt")
    path.write_text(" \n")
    with pytest.raises(ValueError, match="lists nothing"):
        read_list(path)
    path.write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=r"lists a twice \(1 such lines\)"):
        read_list(path)


def test_labels_find_their_frames(tmp_path):
    frames = [tmp_path / f"{t}.jpg" for t in range(3)]
    maps = [tmp_path / "m" / f"{t}.png" for t in (2, 0)]
    assert match_labels(frames, maps, "some", tmp_path) == {2: maps[0], 0: maps[1]}
    with pytest.raises(ValueError, match=r"m has no class map 1.png \(1 of 3 frames have none\)"):
        match_labels(frames, maps, "all", tmp_path / "m")
    with pytest.raises(ValueError, match=r"2.png is a class map without a frame"):
        match_labels(frames[:2], maps, "some", tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no frame"):
        images_of(tmp_path, "frame")
