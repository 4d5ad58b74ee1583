"""One fault at a time in a good folder: exactly that fault is reported, in a sentence that names the file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tubelet.data.validate import is_smoothed, validate

DISK = np.hypot(*(np.mgrid[:48, :64] - np.array([24, 30])[:, None, None])) < 15


def save(path: Path, array, mode="P") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array))
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(path)


@pytest.fixture(params=["", "480p"])
def good(request, tmp_path):
    for t in range(3):
        save(
            tmp_path / "JPEGImages" / request.param / f"cat/{t:05d}.jpg",
            np.full((48, 64, 3), 90, np.uint8),
            "RGB",
        )
        save(tmp_path / "Annotations" / request.param / f"cat/{t:05d}.png", DISK * np.uint8(2))
    return tmp_path


def frames(root: Path) -> Path:
    return next(root.glob("JPEGImages/**/cat"))


def masks(root: Path) -> Path:
    return next(root.glob("Annotations/**/cat"))


def only(root: Path) -> str:
    problems = [str(p) for p in validate(root)]
    assert len(problems) == 1, problems
    return problems[0]


def test_a_good_folder(good):
    assert validate(good) == []
    (masks(good) / "00002.png").unlink()  # later masks are optional
    assert validate(good) == []


def test_rgb_mask(good):
    save(masks(good) / "00001.png", np.full((48, 64, 3), 128, np.uint8), "RGB")
    assert "00001.png is an RGB image; save it as" in only(good)


def test_smoothed_mask(good):
    soft = Image.fromarray(DISK.astype(np.uint8) * 255).resize((32, 24), Image.Resampling.BILINEAR)
    save(masks(good) / "00001.png", np.asarray(soft.resize((64, 48), Image.Resampling.BILINEAR)), "L")
    assert "00001.png has" in only(good)
    assert "smoothed" in only(good)


def test_many_solid_objects_are_not_smoothed():
    labels = np.kron(np.arange(48, dtype=np.uint8).reshape(6, 8), np.ones((5, 5), np.uint8))
    assert not is_smoothed(labels)
    assert not is_smoothed(np.array([[0, 1, 2, 3]], np.uint8))


def test_other_size(good):
    save(masks(good) / "00001.png", np.ones((48, 63), np.uint8))
    assert "00001.png is 63x48, but its frame is 64x48" in only(good)


def test_frames_of_two_sizes(good):
    save(frames(good) / "00001.jpg", np.full((48, 60, 3), 90, np.uint8), "RGB")
    (masks(good) / "00001.png").unlink()
    assert "00001.jpg is 60x48, but the first frame is 64x48" in only(good)


def test_first_mask_missing(good):
    (masks(good) / "00000.png").unlink()
    message = only(good)
    assert "00000.jpg is the first frame" in message
    assert "00000.png is missing" in message


def test_first_mask_empty(good):
    save(masks(good) / "00000.png", np.full((48, 64), 255, np.uint8))
    assert "00000.png is the first mask, but shows no object" in only(good)


def test_mask_without_frame(good):
    save(masks(good) / "00007.png", np.ones((48, 64), np.uint8))
    assert "00007.png is a mask without a frame" in only(good)


def test_too_many_ids(good):
    save(masks(good) / "00001.png", np.arange(48 * 64, dtype=np.uint16).reshape(48, 64), "L")
    assert "00001.png holds ids up to 3071; at most 254" in only(good)


def test_unreadable(good):
    path = masks(good) / "00001.png"
    path.write_bytes(path.read_bytes()[:50])
    assert "00001.png cannot be read" in only(good)
    path.unlink()
    (frames(good) / "00001.jpg").write_text("no image")
    assert "00001.jpg cannot be read" in only(good)


def test_half_a_sequence(good):
    save(masks(good).parent / "dog/00000.png", np.ones((48, 64), np.uint8))
    assert "dog has masks, but there are no frames" in only(good)
    (masks(good).parent / "dog/00000.png").unlink()
    save(frames(good).parent / "dog/00000.jpg", np.ones((48, 64, 3), np.uint8), "RGB")
    assert "dog has frames, but there is no mask" in only(good)


def test_not_such_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected JPEGImages and Annotations"):
        validate(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    assert "holds no sequence" in only(tmp_path)
