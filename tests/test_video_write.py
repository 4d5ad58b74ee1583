import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from tubelet.types import Track, TrackFrame, Tracks, encode_rle
from tubelet.video.read import read
from tubelet.video.write import LabelPngs, Mp4, RleJson, YtvisJson

PALETTE = np.arange(768).reshape(256, 3).astype(np.uint8)
PICTURE = np.tile(np.arange(33, dtype=np.uint8)[None, :, None] * 7, (17, 1, 3))


def write_all(writer, *frames: tuple, then: BaseException | None = None) -> None:
    with writer:
        for frame in frames:
            writer.write(*frame)
        if then:
            raise then


def labels(*ids: int) -> np.ndarray:
    out = np.zeros((6, 8), np.uint8)
    for i in ids:
        out[i % 6, i % 8 :] = i
    return out


# ---- PNG


def test_pngs_keep_ids_and_palette(tmp_path):
    masks = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with LabelPngs(tmp_path / "new" / "folder", PALETTE) as writer:
        writer.write(masks, "00007")
    with Image.open(tmp_path / "new" / "folder" / "00007.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), masks)
        assert image.getpalette() == PALETTE.ravel().tolist()
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["00007.png"]


def test_pngs_of_a_run_that_dies_stay(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_all(LabelPngs(tmp_path, PALETTE), (labels(1), "00000"), then=KeyboardInterrupt())
    assert [p.name for p in tmp_path.iterdir()] == ["00000.png"]


# ---- mp4


@pytest.mark.parametrize("size", [(17, 33), (16, 32), (1, 1), (17, 32)])
def test_mp4_of_any_size(tmp_path, size):
    picture = PICTURE[: size[0], : size[1]]
    with Mp4(tmp_path / "a.mp4", 29.97) as writer:
        for _ in range(5):
            writer.write(picture)
        assert not (tmp_path / "a.mp4").exists()
    video = read(tmp_path / "a.mp4")
    assert video.frame_count == 5
    assert video.fps == pytest.approx(29.97, abs=0.01)
    assert video.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    shown = list(video)[-1].rgb
    assert np.abs(shown[: size[0], : size[1]].astype(int) - picture).max() < 20
    assert np.abs(shown[-1].astype(int) - shown[size[0] - 1]).max() < 12  # the added row repeats the last
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_mp4_of_a_run_that_dies_is_a_part_that_plays(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_all(Mp4(tmp_path / "a.mp4", 10), *[(PICTURE,)] * 25, then=ZeroDivisionError())
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4.part"]
    assert len(list(read(tmp_path / "a.mp4.part"))) == 25


KILLED = """
import os, sys, numpy as np
from tubelet.video.write import Mp4
noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
writer = Mp4(sys.argv[1], 10)
for t in range(200):
    writer.write(np.roll(noise, t, 0))
os._exit(9)
"""


def test_mp4_of_a_killed_run_plays_too(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a.mp4")], check=False)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4.part"]
    assert 50 < len(list(read(tmp_path / "a.mp4.part"))) < 200  # the last whole fragment is the end


def test_mp4_of_no_frame_leaves_nothing(tmp_path):
    with Mp4(tmp_path / "a.mp4", 10):
        pass
    assert list(tmp_path.iterdir()) == []


def test_mp4_refuses_another_size_and_no_rate(tmp_path):
    with pytest.raises(ValueError, match="33x17 but this frame is 32x17"):
        write_all(Mp4(tmp_path / "a.mp4", 10), (PICTURE,), (PICTURE[:, :32],))
    with pytest.raises(ValueError, match="frame rate"):
        Mp4(tmp_path / "b.mp4", 0)


# ---- RLE


def test_rle_json(tmp_path):
    frames = {"a": labels(1, 255), "b": labels(), "c": labels(1, 3)}
    with RleJson(tmp_path / "t.json") as writer:
        for name, masks in frames.items():
            writer.write(masks, name, objects=(1, 2))
        assert [p.name for p in tmp_path.iterdir()] == ["t.json.part"]
        assert (tmp_path / "t.json.part").read_text().startswith('{"frame":"a"}\n{"id":1,')
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]
    found = json.loads((tmp_path / "t.json").read_text())
    assert (found["height"], found["width"], found["frames"]) == (6, 8, ["a", "b", "c"])
    tracks = {track["id"]: track["segmentations"] for track in found["tracks"]}
    assert sorted(tracks) == [1, 2, 3]
    assert tracks[2] == [None, None, None]
    assert [s is None for s in tracks[1]] == [False, True, False]
    assert [s is None for s in tracks[3]] == [True, True, False]
    for i, segmentations in tracks.items():
        for masks, rle in zip(frames.values(), segmentations, strict=True):
            if rle is not None:
                np.testing.assert_array_equal(coco.decode(rle), masks == i)


def test_rle_json_without_frames_or_objects(tmp_path):
    with RleJson(tmp_path / "t.json"):
        pass
    assert json.loads((tmp_path / "t.json").read_text())["tracks"] == []


def test_rle_json_of_a_run_that_dies_is_readable_lines(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_all(RleJson(tmp_path / "t.json"), (labels(4), "a"), then=ZeroDivisionError())
    assert [p.name for p in tmp_path.iterdir()] == ["t.json.part"]
    lines = [json.loads(line) for line in (tmp_path / "t.json.part").read_text().splitlines()]
    assert [line.get("frame", line.get("id")) for line in lines] == ["a", 4]


def test_rle_json_refuses_another_size(tmp_path):
    with pytest.raises(ValueError, match=r"t.json .* but b is \(8, 6\)"):
        write_all(RleJson(tmp_path / "t.json"), (labels(1), "a"), (labels(1).T.copy(), "b"))


def tracked(t: int, **masks: np.ndarray) -> TrackFrame:
    return TrackFrame(t, (6, 8), {int(name[1:]): encode_rle(mask) for name, mask in masks.items()})


def test_ytvis_json(tmp_path):
    """Overlapping masks, a track under two classes, one that is dropped, frames without any."""
    one, two = labels(1) > 0, labels(1, 2) > 0
    results = [tracked(0, t4=one, t2=two), tracked(1), tracked(2, t4=two, t9=one)]
    tracks = [Track(4, 0, 0.9), Track(2, 1, 0.5), Track(4, 1, 0.25)]
    with YtvisJson(tmp_path / "t.json", video_id=7, categories=[3, 5]) as writer:
        for result in results:
            writer.write(result, f"{result.index:05d}")
        writer.tracks = tracks
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]
    found = json.loads((tmp_path / "t.json").read_text())
    assert [(e["video_id"], e["category_id"], e["score"]) for e in found] == [(7, 3, 0.9), (7, 5, 0.5), (7, 5, 0.25)]
    assert [[s is None for s in e["segmentations"]] for e in found] == [[0, 1, 0], [0, 1, 1], [0, 1, 0]]
    video = Tracks(6, 8, tracks=tracks)
    for result in results:
        video.append(result)
    for entry, track in zip(found, tracks, strict=True):
        for t, rle in enumerate(entry["segmentations"]):
            assert rle is None or (coco.decode(rle) == video.masks(track.id)[t]).all()
    assert len(video) == 3


def test_ytvis_json_of_nothing(tmp_path):
    with YtvisJson(tmp_path / "t.json") as writer:
        writer.tracks = []
    assert json.loads((tmp_path / "t.json").read_text()) == []


def test_ytvis_json_of_a_run_that_dies(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_all(YtvisJson(tmp_path / "t.json"), (tracked(0, t1=labels(1) > 0), "a"), then=ZeroDivisionError())
    assert [p.name for p in tmp_path.iterdir()] == ["t.json.part"]


# ---- nowhere to write


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for start in (
        lambda: LabelPngs(tmp_path / "file" / "x", PALETTE),
        lambda: Mp4(tmp_path / "file" / "x.mp4", 10),
        lambda: RleJson(tmp_path / "file" / "x.json"),
    ):
        with pytest.raises(OSError, match=r"cannot write .*file"):
            start()


FULL = """
import resource, sys, numpy as np
from tubelet.video.write import LabelPngs, Mp4, RleJson
noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
folder = sys.argv[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for name, writer, frame in (
    ("a.mp4", Mp4(folder + "/a.mp4", 10), noise),
    ("b.json", RleJson(folder + "/b.json"), noise[..., 0]),
    ("c.png", LabelPngs(folder, np.zeros((256, 3), np.uint8)), noise[..., 0]),
):
    try:
        with writer:
            for t in range(100):
                arguments = (frame,) if name == "a.mp4" else (frame, "c")
                writer.write(*arguments)
    except OSError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a file size limit stands for a full disk")
def test_a_full_disk_is_told_and_nothing_looks_complete(tmp_path):
    run = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    sentences = run.stdout.splitlines()
    assert len(sentences) == 3, run.stderr
    for sentence, name in zip(sentences, ("a.mp4", "b.json", "c.png"), strict=True):
        assert sentence.startswith(f"cannot write {tmp_path / name}: File too large")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4.part", "b.json.part"]
