"""The commands with models that give every pixel a class."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tubelet.cli import dispatch
from tubelet.models import mpvss
from tubelet.video.read import read
from tubelet.weights import save


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """An untrained mpvss-tiny for the 11 classes of CamVid."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save(mpvss.build("mpvss-tiny", 11), path)
    return path


def video_folder(path: Path, frames: int = 4, size: tuple[int, int] = (48, 64)) -> Path:
    path.mkdir(parents=True)
    for t in range(frames):
        Image.fromarray(np.full((*size, 3), 40 * t, np.uint8)).save(path / f"{t:05d}.jpg")
    return path


def labelling(*arguments, weights: Path | str = "random") -> list[str]:
    own = ["--model", "mpvss-tiny", "--weights", weights, "--short-edge", 64]
    return [str(a) for a in [*arguments, *own]]


def test_predict_writes_class_maps_pictures_and_a_sheet(tmp_path, weights, capsys):
    frames, out = video_folder(tmp_path / "frames"), tmp_path / "out"
    dispatch(labelling("predict", frames, "--out", out, "--interval", 2, weights=weights))
    maps = sorted(out.glob("classes/*.png"))
    assert [path.stem for path in maps] == ["00000", "00001", "00002", "00003"]
    for path in maps:
        with Image.open(path) as picture:
            assert picture.mode == "P"
            assert picture.size == (64, 48)
            assert (picture.getpalette() or [])[:6] == [128, 128, 128, 128, 0, 0]  # the colours of CamVid
            assert np.asarray(picture).max() < 11
    assert len(list(read(out / "overlay.mp4"))) == 4
    assert (out / "contact_sheet.png").is_file()
    assert "4 frames" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="already holds results"):
        dispatch(labelling("predict", frames, "--out", out, weights=weights))
    dispatch(labelling("predict", frames, "--out", out, "--overwrite", "--no-draw", "--carry", "copy", weights=weights))
    assert not (out / "overlay.mp4").exists()


@pytest.mark.filterwarnings("ignore:mpvss-tiny has random")
@pytest.mark.parametrize("size", [(37, 51), (1, 40)])
def test_predict_on_one_image(tmp_path, size):
    dispatch(labelling("predict", video_folder(tmp_path / "f", 1, size), "--out", tmp_path / "out"))
    (path,) = tmp_path.glob("out/classes/*.png")
    with Image.open(path) as picture:
        assert picture.size == size[::-1]


@pytest.mark.filterwarnings("ignore:mpvss-tiny has random")
@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--mask", "x.png"], "mpvss-tiny finds objects by itself; leave out --mask"),
        (["--depth", "2"], "mpvss-tiny does not take --depth"),
        (["--classes", "camvid"], "the weights have 124 classes, camvid has 11"),
        (["--classes", "vpsw"], "there are no classes called 'vpsw'; did you mean vspw"),
        (["--interval", "0"], "--interval is 0; it must be at least 1"),
        (["--doubt", "2"], "a share of the picture"),
    ],
)
def test_options_that_do_not_fit(tmp_path, extra, says):
    with pytest.raises(ValueError, match=says):
        dispatch(labelling("predict", video_folder(tmp_path / "f"), "--out", tmp_path / "out", *extra))
    assert not (tmp_path / "out" / "classes").exists()
