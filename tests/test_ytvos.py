"""YouTube-VOS folders: late objects, evaluated frames, the submission."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tubelet.data.ytvos import evaluated_frames, read_meta, read_ytvos, write_submission


def save(path: Path, labels, mode="L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(labels, np.uint8)).convert(mode).save(path)


@pytest.fixture
def root(tmp_path):
    """One video: frames 0, 5, 10 (all frames: 0..12); object 1 enters in frame 0, object 3 in frame 5."""
    valid = tmp_path / "valid"
    for t in range(13):
        save(tmp_path / f"valid_all_frames/JPEGImages/vid/{t:05d}.jpg", np.zeros((4, 6)), "RGB")
        if t % 5 == 0:
            save(valid / f"JPEGImages/vid/{t:05d}.jpg", np.zeros((4, 6)), "RGB")
    first, second = np.zeros((2, 4, 6))
    first[0], second[0], second[1] = 1, 1, 3
    save(valid / "Annotations/vid/00000.png", first)
    save(valid / "Annotations/vid/00005.png", second)
    frames = ["00000", "00005", "00010"]
    objects = {"3": {"category": "cat", "frames": frames[1:]}, "1": {"category": "dog", "frames": frames}}
    (valid / "meta.json").write_text(json.dumps({"videos": {"vid": {"objects": objects}}}))
    return tmp_path


def test_meta(root):
    objects = read_meta(root / "valid/meta.json")["vid"]
    assert objects[3].category == "cat"
    assert evaluated_frames(objects) == ["00000", "00005", "00010"]


def test_objects_enter_later(root):
    video = read_ytvos(root)["vid"]
    assert {t: p.objects() for t, p in video.prompts().items()} == {0: (1,), 1: (3,)}
    assert video.evaluated == [0, 1, 2]


def test_all_frames(root):
    video = read_ytvos(root, all_frames=True)["vid"]
    assert len(video) == 13
    assert {t: p.objects() for t, p in video.prompts().items()} == {0: (1,), 5: (3,)}
    assert video.evaluated == [0, 5, 10]


def test_missing_parts(root):
    (root / "valid/Annotations/vid/00005.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no mask 00005\.png, where an object enters"):
        read_ytvos(root)
    (root / "valid/JPEGImages/vid/00010.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="no frame 00010"):
        read_ytvos(root)
    (root / "valid/meta.json").write_text("[]")
    with pytest.raises(ValueError, match="not a YouTube-VOS meta"):
        read_ytvos(root)
    with pytest.raises(FileNotFoundError, match="comes with a meta"):
        read_ytvos(root, split="test")


def test_submission_holds_the_evaluated_frames_only(root):
    videos = read_ytvos(root, all_frames=True)
    for t in range(13):
        save(root / f"out/vid/{t:05d}.png", np.full((4, 6), t))
    write_submission(root / "s.zip", root / "out", videos)
    with zipfile.ZipFile(root / "s.zip") as archive:
        assert archive.namelist() == [f"Annotations/vid/{t:05d}.png" for t in (0, 5, 10)]
        assert archive.read("Annotations/vid/00005.png") == (root / "out/vid/00005.png").read_bytes()
    assert not (root / "s.zip.part").exists()


@pytest.mark.parametrize(
    ("mode", "error", "text"),
    [(None, FileNotFoundError, "does not exist"), ("RGB", ValueError, "has mode RGB")],
)
def test_submission_is_whole_or_absent(root, mode, error, text):
    for t in (0, 5):
        save(root / f"out/vid/{t:05d}.png", np.zeros((4, 6)))
    if mode:
        save(root / "out/vid/00010.png", np.zeros((4, 6)), mode)
    with pytest.raises(error, match=rf"00010\.png {text}"):
        write_submission(root / "s.zip", root / "out", read_ytvos(root))
    assert not list(root.glob("s.zip*"))
