"""The commands with models that give every pixel a class."""

import json
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
        (["--classes", "vpsw"], "there are no classes called 'vpsw'; did you mean vspw"),
        (["--interval", "0"], "--interval is 0; it must be at least 1"),
        (["--doubt", "2"], "a share of the picture"),
    ],
)
def test_options_that_do_not_fit(tmp_path, extra, says):
    with pytest.raises(ValueError, match=says):
        dispatch(labelling("predict", video_folder(tmp_path / "f"), "--out", tmp_path / "out", *extra))
    assert not (tmp_path / "out" / "classes").exists()


def test_names_for_another_number_of_classes(tmp_path, weights):
    command = labelling("predict", video_folder(tmp_path / "f"), "--out", tmp_path / "out", weights=weights)
    with pytest.raises(ValueError, match="the weights have 11 classes, vspw has 124"):
        dispatch([*command, "--classes", "vspw"])


def picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def make_set(benchmark: str, root: Path, frames: int = 3) -> Path:
    """One video of noise whose labels are void; returns the folder of its labels."""
    rng = np.random.default_rng(0)
    noise, void = rng.integers(0, 255, (frames, 48, 64, 3), np.uint8), np.full((48, 64), 255, np.uint8)
    if benchmark == "vspw":
        (root / "data").mkdir(parents=True)
        (root / "val.txt").write_text("one\n")
        for t in range(frames):
            picture(root / f"data/one/origin/{t:08d}.jpg", noise[t])
            picture(root / f"data/one/mask/{t:08d}.png", void)
        return root / "data/one/mask"
    if benchmark == "camvid":
        for t in range(frames):
            picture(root / f"val/0016E5_{t:05d}.jpg", noise[t])
            picture(root / f"valannot/0016E5_{t:05d}.png", np.full_like(void, 11))
        lines = [f"val/0016E5_{t:05d}.jpg valannot/0016E5_{t:05d}.png\n" for t in range(frames)]
        (root / "val.txt").write_text("".join(lines))
        return root / "valannot"
    for t in range(frames):
        picture(root / f"leftImg8bit_sequence/val/ulm/ulm_000000_{20 - frames + t:06d}_leftImg8bit.png", noise[t])
    picture(root / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png", np.zeros_like(void))
    return root / "gtFine/val/ulm"


@pytest.mark.filterwarnings("ignore:mpvss-tiny has random")
@pytest.mark.parametrize(("benchmark", "classes"), [("vspw", 124), ("cityscapes", 19), ("camvid", 11)])
def test_eval_predicts_a_set_and_scores_it(benchmark, classes, tmp_path, capsys):
    """Its own predictions, given as the truth, get full marks; before that there was nothing to score."""
    from tubelet.data.semantic_classes import CITYSCAPES_TRAIN_IDS

    labels, out = make_set(benchmark, tmp_path / "set"), tmp_path / "out"
    save(mpvss.build("mpvss-tiny", classes), tmp_path / "w.safetensors")
    more = ["--length", 3] if benchmark == "cityscapes" else []
    command = labelling(
        "eval", benchmark, "--data", tmp_path / "set", "--out", out, *more, weights=tmp_path / "w.safetensors"
    )
    dispatch([*command, "--json", str(tmp_path / "before.json")])
    found = sorted(out.rglob("*.png"))
    assert len(found) == (1 if benchmark == "cityscapes" else 3)
    assert "3 frames of 1 videos" in capsys.readouterr().out
    for path, truth in zip(found, sorted(labels.glob("*.png")), strict=True):
        ids = np.asarray(Image.open(path))
        raw = {"vspw": ids + 1, "camvid": ids}.get(benchmark, np.array(CITYSCAPES_TRAIN_IDS, np.uint8)[ids % 19])
        Image.fromarray(raw.astype(np.uint8)).save(truth)
    dispatch([*command, "--json", str(tmp_path / "after.json")])
    before, after = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("before", "after"))
    assert before["mIoU"] is None
    assert after["mIoU"] == after["pixel_accuracy"] == 1
    assert after["classes"] == classes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["camvid", "--model", "aost"], "camvid is for models that label pixels, as mpvss-r50 does; aost does not"),
        (["davis", "--model", "mpvss-r50"], "davis is for models that follow given objects"),
        (["camvid", "--model", "mpvss-tiny", "--length", "3"], "--length is for cityscapes"),
        (["vspw", "--model", "mpvss-tiny"], "val.txt"),
    ],
)
def test_eval_that_does_not_fit(arguments, says, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        dispatch(["eval", *arguments, "--data", str(tmp_path), "--out", str(tmp_path / "out")])


@pytest.mark.filterwarnings("ignore:mpvss-tiny has random")
def test_random_weights_have_the_classes_of_the_benchmark(tmp_path, capsys):
    make_set("camvid", tmp_path / "set")
    dispatch(labelling("eval", "camvid", "--data", tmp_path / "set", "--out", tmp_path / "out"))
    assert "3 frames of 1 videos" in capsys.readouterr().out
    with pytest.raises(ValueError, match="knows 19 classes but camvid has 11"):
        dispatch(
            labelling(
                "eval", "camvid", "--classes", "cityscapes", "--data", tmp_path / "set", "--out", tmp_path / "out2"
            )
        )


def test_eval_with_another_number_of_classes(tmp_path, weights):
    make_set("vspw", tmp_path / "set")
    with pytest.raises(ValueError, match="knows 11 classes but vspw has 124"):
        dispatch(labelling("eval", "vspw", "--data", tmp_path / "set", "--out", tmp_path / "out", weights=weights))
