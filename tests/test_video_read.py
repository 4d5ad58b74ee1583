import sys
import warnings
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tubelet.video.read import DamagedVideoError, read

FORMATS = {
    "mp4": ("libx264", "yuv420p", {"movflags": "faststart"}),
    "mov": ("libx264", "yuv420p", {"movflags": "faststart"}),
    "mkv": ("libx264", "yuv420p", {}),
    "avi": ("mpeg4", "yuv420p", {}),
    "webm": ("libvpx", "yuv420p", {}),
    "gif": ("gif", "rgb8", {}),
}
TEXTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def encode(path: Path, codec: str, pix_fmt: str, options: dict, *, frames: int = 30, turn: int = 0) -> Path:
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        if turn:
            stream.set_display_rotation(turn)
        for t in range(frames):
            picture = np.ascontiguousarray(np.roll(TEXTURE, 2 * t, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path


def make(folder: Path, kind: str = "mp4", **options) -> Path:
    return encode(folder / f"clip.{kind}", *FORMATS[kind], **options)


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def spoil(path: Path, first: float, last: float) -> Path:
    data = bytearray(path.read_bytes())
    a, b = int(len(data) * first), int(len(data) * last)
    data[a:b] = np.random.default_rng(1).integers(0, 256, b - a, np.uint8).tobytes()
    path.write_bytes(data)
    return path


# ---- files


@pytest.mark.parametrize("kind", FORMATS)
def test_every_frame_of_a_file_comes_twice(tmp_path, kind):
    video = read(make(tmp_path, kind))
    assert (video.name, video.frame_count, video.size) == ("clip", 30, (48, 64))
    assert video.fps == pytest.approx(10)
    first, again = list(video), list(video)
    assert [f.index for f in first] == list(range(30)) == [f.index for f in again]
    assert [f.name for f in first[:2]] == ["00000", "00001"]
    np.testing.assert_allclose([f.time or 0 for f in first], np.arange(30) / 10, atol=0.002)
    np.testing.assert_array_equal(first[-1].rgb, again[-1].rgb)
    assert np.abs(first[0].rgb.astype(int) - TEXTURE).mean() < 60  # the picture itself, not another one


def test_one_frame(tmp_path):
    assert len(list(read(make(tmp_path, frames=1)))) == 1


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotation_is_applied(tmp_path, turn):
    plain = next(iter(read(make(tmp_path)))).rgb
    video = read(make(tmp_path, turn=turn))
    upright = next(iter(video)).rgb
    # not equal: x264 does not always write the same bytes for the same small pictures
    assert np.abs(upright.astype(int) - np.rot90(plain, turn // 90)).mean() < 15
    assert video.size == upright.shape[:2]


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "gray", "yuv444p"])
def test_other_pixels_become_rgb(tmp_path, pix_fmt):
    path = encode(tmp_path / "clip.mkv", "libx264", pix_fmt, {}, frames=3)
    frame = next(iter(read(path)))
    assert frame.rgb.shape == (48, 64, 3)
    assert 100 < frame.rgb.mean() < 155
    assert (np.ptp(frame.rgb, axis=2).max() <= 3) == (pix_fmt == "gray")


def test_an_edit_list_is_no_damage(tmp_path):
    """A cut without re-encoding keeps frames before the cut that no player shows."""
    source, target = make(tmp_path), tmp_path / "cut.mp4"
    with av.open(str(source)) as a, av.open(str(target), "w") as b:
        stream: Any = a.streams.video[0]
        copy = b.add_stream_from_template(stream)
        late = int(1.25 / stream.time_base)
        for packet in a.demux(stream):
            if packet.dts is not None and packet.pts is not None:
                packet.stream, packet.pts, packet.dts = copy, packet.pts - late, packet.dts - late
                b.mux(packet)
    video = read(target)
    assert len(list(video)) == video.frame_count
    assert 15 <= (video.frame_count or 0) < 30


# ---- damage


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_short_never_passes(tmp_path, kind):
    # MPEG-4 in avi: nearly all of so small a file is its header and its first picture
    path = cut(make(tmp_path, kind), 0.9 if kind == "avi" else 0.7)
    seen = []
    with pytest.raises(DamagedVideoError, match=r"frames of clip can be read"):
        seen.extend(read(path))
    assert 0 < len(seen) < 30
    with pytest.warns(UserWarning, match=rf"{len(seen)}( of (about )?30)? frames of clip were read"):
        assert len(list(read(path, on_error="stop"))) == len(seen)


def test_the_sentence_counts(tmp_path):
    path, seen = cut(make(tmp_path), 0.7), []
    with pytest.raises(DamagedVideoError) as error:
        seen.extend(read(path))
    assert f"only {len(seen)} of 30 frames" in str(error.value)


@pytest.mark.parametrize("kind", ["mp4", "mov", "avi"])
def test_damage_in_the_middle_is_noticed(tmp_path, kind):
    path = make(tmp_path, kind)
    whole = list(read(path))
    spoil(path, 0.7, 0.8)
    good = []
    with pytest.raises(DamagedVideoError):
        good.extend(read(path))
    if kind != "avi":  # there, whole packets vanish and only the count tells
        for a, b in zip(good, whole, strict=False):
            np.testing.assert_array_equal(a.rgb, b.rgb)
    with pytest.warns(UserWarning, match=r"of 30 frames of clip were read .* missed\)"):
        skipped = list(read(path, on_error="skip"))
    assert len(good) <= len(skipped) < 30
    assert [f.index for f in skipped] == list(range(len(skipped)))


def test_an_undamaged_file_does_not_warn(tmp_path):
    path = make(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read(path, on_error="skip"))) == 30


# ---- not a video


def test_sentences_name_the_path(tmp_path):
    (tmp_path / "text.mp4").write_text("hello " * 500)
    (tmp_path / "notes.txt").write_text("hello " * 500)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("text.mp4", "notes.txt", "empty.mp4"):
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4"):
        read(tmp_path / "absent.mp4")
    with pytest.raises(FileNotFoundError, match=r"no images in the glob .*\*.png"):
        read(str(tmp_path / "*.png"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no images in the folder .*folder"):
        read(tmp_path / "folder")


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), "fltp", "mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"sound.mp4 has no video in it, only audio"):
        read(tmp_path / "sound.mp4")


def test_a_wrong_option_and_a_missing_camera():
    with pytest.raises(ValueError, match="on_error"):
        read("x.mp4", on_error="ignore")
    if sys.platform == "linux":
        with pytest.raises(OSError, match="/dev/video77"):
            list(read(77))


# ---- images


def save(path: Path, pixels: np.ndarray, **options) -> None:
    Image.fromarray(pixels).save(path, **options)


def test_a_folder_in_natural_order(tmp_path):
    for k in (10, 2, 1):
        save(tmp_path / f"f{k}.png", np.full((4, 6, 3), k, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._f1.png").write_bytes(b"left behind by a Mac")
    for source in (tmp_path, str(tmp_path / "f*.png")):
        video = read(source)
        assert (video.frame_count, video.size, video.name) == (3, (4, 6), tmp_path.name)
        assert [(f.name, f.index, int(f.rgb[0, 0, 0])) for f in video] == [("f1", 0, 1), ("f2", 1, 2), ("f10", 2, 10)]
    assert [f.name for f in read(tmp_path / "f2.png")] == ["f2"]


def test_grey_alpha_palette_and_16_bits(tmp_path):
    grey = np.array([[0, 128, 255]], np.uint8)
    save(tmp_path / "1.png", grey)
    save(tmp_path / "2.png", np.dstack([grey, grey, grey, grey * 0 + 7]))
    save(tmp_path / "3.png", grey.astype(np.uint16) * 257)
    Image.fromarray(grey).convert("P").save(tmp_path / "4.png")
    Image.fromarray(np.dstack([grey, grey * 0]), "LA").save(tmp_path / "5.png")
    for frame in read(tmp_path):
        np.testing.assert_array_equal(frame.rgb, np.repeat(grey[..., None], 3, 2), err_msg=frame.name)


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255
    save(tmp_path / "a.jpg", pixels, exif=exif)
    video = read(tmp_path)
    rgb = next(iter(video)).rgb
    assert video.size == rgb.shape[:2] == (32, 16)
    assert rgb[0, 0, 0] > 250 > 5 > rgb[-1, 0, 0]


def test_images_of_two_sizes(tmp_path):
    save(tmp_path / "1.png", np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "2.png", np.zeros((6, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"frame 2 .* is 4x6 but the first frame is 6x4"):
        list(read(tmp_path))


def test_a_damaged_image(tmp_path):
    for k in range(5):
        save(tmp_path / f"{k}.png", TEXTURE)
    cut(tmp_path / "2.png", 0.5)
    good = []
    with pytest.raises(DamagedVideoError, match=r"2 of 5 frames .*2\.png"):
        good.extend(read(tmp_path))
    assert [f.name for f in good] == ["0", "1"]
    with pytest.warns(UserWarning, match=r"4 of 5 frames .*1 missed"):
        assert [f.name for f in read(tmp_path, on_error="skip")] == ["0", "1", "3", "4"]


# ---- arrays


def test_arrays_of_every_shape():
    grey = np.array([[0, 9], [128, 255]], np.uint8)
    wide = grey.astype(np.uint16) * 257
    video = read([grey, grey[..., None], np.dstack([grey] * 3), np.dstack([grey] * 4), wide])
    assert (video.frame_count, video.size, video.fps) == (5, None, None)
    for frame in video:
        np.testing.assert_array_equal(frame.rgb, np.dstack([grey] * 3))
    assert len(list(video)) == 5


def test_an_iterator_is_read_lazily_and_once():
    drawn = []

    def source():
        for k in range(4):
            drawn.append(k)
            yield np.zeros((2, 2, 3), np.uint8)

    video = read(source())
    frames = iter(video)
    next(frames)
    assert drawn == [0]
    assert len(list(frames)) == 3
    with pytest.raises(ValueError, match="read already"):
        list(video)


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 3)), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2, 3), np.uint8)])
def test_arrays_that_are_no_pictures(bad):
    with pytest.raises(ValueError, match="a frame "):
        list(read([bad]))
