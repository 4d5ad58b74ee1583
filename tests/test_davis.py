"""Masks of every kind, and DAVIS folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tubelet.data.davis import read_davis, read_mask, read_split

SAMPLES = Path(__file__).parents[2] / "shared" / "data" / "davis2017_palette_samples"
LABELS = np.array([[0, 1, 2], [3, 0, 1]], np.uint8)


def palette(labels) -> Image.Image:
    image = Image.fromarray(np.asarray(labels, np.uint8))
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [9] * 252 * 3)
    return image


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


GREY = np.array([[0, 255], [255, 0]], np.uint8)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (palette(LABELS), LABELS),
        (palette(LABELS * 85), LABELS * 85),  # 255 is void
        (palette(GREY), GREY),
        (Image.fromarray(LABELS), LABELS),
        (Image.fromarray(GREY), GREY // 255),
        (Image.fromarray(np.zeros((2, 2), np.uint8)), np.zeros((2, 2))),
        (Image.fromarray(np.array([[0, 1, 255]], np.uint8)), [[0, 1, 255]]),
        (Image.fromarray(GREY > 0), GREY // 255),
        (Image.fromarray(LABELS.astype(np.uint16)), LABELS),
        (palette(LABELS).convert("RGB"), LABELS),
        (palette(LABELS).convert("RGBA"), LABELS),
        (Image.fromarray(GREY).convert("RGB"), GREY // 255),
    ],
)
def test_read_mask(image, expected, tmp_path):
    labels = read_mask(save(image, tmp_path / "m.png"))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (palette(LABELS), LABELS > 0),
        (palette([[0, 1, 255]]), [[0, 1, 0]]),
        (Image.fromarray(np.array([[0, 90, 255]], np.uint8)), [[0, 1, 1]]),  # smoothed: the 255 is no void
    ],
)
def test_binary(image, expected, tmp_path):
    np.testing.assert_array_equal(read_mask(save(image, tmp_path / "m.png"), binary=True), expected)


def test_what_is_no_mask(tmp_path):
    rgb = Image.fromarray(np.array([[[0, 0, 0], [200, 30, 40]]], np.uint8))
    with pytest.raises(ValueError, match=r"m\.png is an RGB image.*#c81e28.*palette or grey PNG"):
        read_mask(save(rgb, tmp_path / "m.png"))
    many = Image.fromarray(np.arange(301, dtype=np.uint16).reshape(7, 43))
    with pytest.raises(ValueError, match="ids up to 300; at most 254 objects"):
        read_mask(save(many, tmp_path / "many.png"))
    with pytest.raises(ValueError, match="mode LA"):
        read_mask(save(Image.fromarray(LABELS).convert("LA"), tmp_path / "la.png"))
    with pytest.raises(FileNotFoundError, match=r"nothing\.png does not exist"):
        read_mask(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(OSError, match=r"text\.png cannot be read"):
        read_mask(tmp_path / "text.png")


@pytest.fixture
def davis(tmp_path):
    """`cat` (4 frames, object 2 enters in frame 2) and `ant` (2 frames); val lists cat first."""
    masks = {"cat": [[[1, 0]], [[1, 0]], [[1, 2]], [[0, 2]]], "ant": [[[0, 3]], [[0, 3]]]}
    for name, labels in masks.items():
        for t, label in enumerate(labels):
            save(Image.new("RGB", (2, 1), (t, 20, 30)), tmp_path / f"JPEGImages/480p/{name}/{t:05d}.png")
            save(palette(label), tmp_path / f"Annotations/480p/{name}/{t:05d}.png")
    for year in (2016, 2017):
        (tmp_path / f"ImageSets/{year}").mkdir(parents=True)
        (tmp_path / f"ImageSets/{year}/val.txt").write_text("cat\nant\n\n")
    return tmp_path


def test_sequences_come_in_split_order(davis):
    videos = read_davis(davis)
    assert videos.names == ["cat", "ant"]
    assert [len(v) for v in videos] == [4, 2]
    assert read_davis(davis, split=None).names == ["ant", "cat"]
    with pytest.raises(KeyError, match="no video 'dog'"):
        videos["dog"]


def test_frames_and_masks_by_index(davis):
    cat = read_davis(davis)["cat"]
    frame = cat.load_frame(2)
    assert (frame.rgb[0, 0].tolist(), frame.index, frame.name) == ([2, 20, 30], 2, "00002")
    np.testing.assert_array_equal(cat.load_mask(3), [[0, 2]])


def test_prompts(davis):
    cat = read_davis(davis)["cat"]
    assert {t: p.objects() for t, p in cat.prompts().items()} == {0: (1,)}
    later = read_davis(davis, enter_later=True)["cat"].prompts()
    assert {t: p.objects() for t, p in later.items()} == {0: (1,), 2: (2,)}  # what is known is not said again
    assert {t: p.objects() for t, p in read_davis(davis)["ant"].prompts().items()} == {0: (3,)}
    assert read_davis(davis, year=2016)["ant"].prompts()[0].objects() == (1,)


def test_first_mask_without_object(davis):
    save(palette([[0, 255]]), davis / "Annotations/480p/cat/00000.png")
    with pytest.raises(ValueError, match=r"cat: no object in .*00000\.png"):
        read_davis(davis)["cat"].prompts()


def test_only_the_first_mask_is_there(davis):
    for t in (1, 2, 3):
        (davis / f"Annotations/480p/cat/{t:05d}.png").unlink()
    cat = read_davis(davis)["cat"]
    assert list(cat.prompts()) == [0]
    with pytest.raises(FileNotFoundError, match="frame 00001 of cat has no mask"):
        cat.load_mask(1)


def test_natural_order(tmp_path):
    for t in (10, 9, 1):
        save(Image.new("RGB", (2, 1)), tmp_path / f"JPEGImages/cat/{t}.png")
        save(palette(LABELS[:1, 1:]), tmp_path / f"Annotations/cat/{t}.png")
    cat = read_davis(tmp_path, split=None, resolution=None)["cat"]
    assert cat.frame_names == ["1", "9", "10"]


def test_errors_name_what_is_missing(davis):
    with pytest.raises(FileNotFoundError, match="splits there: val"):
        read_davis(davis, split="test")
    with pytest.raises(FileNotFoundError, match="`resolution` among 480p"):
        read_davis(davis, resolution="1080p")
    save(palette([[1, 0]]), davis / "Annotations/480p/cat/00009.png")
    with pytest.raises(ValueError, match=r"00009\.png has no frame"):
        read_davis(davis)
    (davis / "ImageSets/2017/val.txt").write_text("dog")
    with pytest.raises(FileNotFoundError, match="dog"):
        read_davis(davis)


def test_split_of_2016_with_image_pairs(tmp_path):
    lines = [f"/JPEGImages/480p/{n}/{t}.jpg /Annotations/480p/{n}/{t}.png" for n in ("cow", "bear") for t in "012"]
    (tmp_path / "val.txt").write_text("\n".join(lines))
    assert read_split(tmp_path / "val.txt") == ["cow", "bear"]


def test_real_masks():
    if not SAMPLES.is_dir():
        pytest.skip(f"{SAMPLES} is not here")
    videos = read_davis(SAMPLES, split=None, resolution=None, enter_later=True)
    assert videos["tennis"].prompts()[0].objects() == (1, 2)  # 255 there is void
    assert sorted(videos["judo"].mask_paths) == [0, 5, 8, 13]
    with pytest.raises(ValueError, match=r"853x480 but its frame 00005\.jpg is 854x480"):
        videos["judo"].prompts()
