import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tubelet.cli import COMMANDS, dispatch, main
from tubelet.data.synthetic import make_clip
from tubelet.video.write import LabelPngs, Mp4
from tubelet.viz.palette import VOC

SIZE = (48, 64)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A folder with clip.mp4 and its true masks (masks/00000.png ...), six frames, two objects."""
    folder = tmp_path_factory.mktemp("clip")
    rgb, ids = make_clip(3, frames=6, size=SIZE, objects=(2, 2), pace=1.0)
    with Mp4(folder / "clip.mp4", 10) as mp4, LabelPngs(folder / "masks", VOC) as masks:
        for t in range(6):
            mp4.write(rgb[t])
            masks.write(ids[t], f"{t:05d}")
    return folder


def fails(arguments: list[str], monkeypatch, capsys) -> str:
    """Runs the command, which must exit with status 1; returns what it says."""
    monkeypatch.setattr(sys, "argv", ["tubelet", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_is_fast_and_loads_nothing_heavy(command):
    began = time.perf_counter()
    code = (
        "import sys\nfrom tubelet.cli import dispatch\n"
        f"try: dispatch({[*command, '--help']!r})\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: tubelet" in done.stdout
    assert time.perf_counter() - began < 20  # a guard against imports, not a measurement


def test_predict_then_score(clip, tmp_path, capsys):
    out = tmp_path / "out" / "masks_of_clip"
    dispatch(["predict", str(clip / "clip.mp4"), "--mask", str(clip / "masks/00000.png"), "--out", str(out)])
    assert "6 frames, 2 objects" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["contact_sheet.png", "masks", "masks.json", "overlay.mp4"]
    assert len(list((out / "masks").glob("*.png"))) == 6
    tracks = json.loads((out / "masks.json").read_text())["tracks"]
    assert [track["id"] for track in tracks] == [1, 2]
    dispatch(["score", "davis", "--gt", str(clip), "--pred", str(out), "--json", str(tmp_path / "score.json")])
    score = json.loads((tmp_path / "score.json").read_text())
    assert 0 < score["J&F-Mean"] <= 1
    assert set(score["J-per-object"]) == {"masks_1", "masks_2"}


@pytest.mark.parametrize(("benchmark", "numbers"), [("ytvis", 12), ("ovis", 18)])
def test_score_tubes(tmp_path, capsys, benchmark, numbers):
    files, result = vis_files(tmp_path), tmp_path / "out" / "score.json"
    dispatch(["score", benchmark, *files, "--json", str(result), "--long", "3", "--zip", str(tmp_path / "s.zip")])
    said = capsys.readouterr().out
    assert "1 predictions for 1 videos" in said
    assert "cat" in said
    score = json.loads(result.read_text())
    assert score["AP"] == pytest.approx(1)
    assert len(score["short"]) == numbers
    assert score["long"]["AP"] == -1
    dispatch(["score", benchmark, *files[:2], "--pred", str(tmp_path / "s.zip")])
    assert "100.0" in capsys.readouterr().out


def test_score_tubes_loads_nothing_heavy(tmp_path):
    command = ["score", "ytvis", *vis_files(tmp_path)]
    code = f"import sys\nfrom tubelet.cli import dispatch\ndispatch({command!r})\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_predict_with_a_folder_of_masks(clip, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    for t in (0, 3):
        (given / f"frame_{t:03d}.png").write_bytes((clip / f"masks/{t:05d}.png").read_bytes())
    out = tmp_path / "out"
    dispatch(["predict", str(clip / "clip.mp4"), "--masks", str(given), "--out", str(out), "--no-draw"])
    third = np.asarray(Image.open(out / "masks/00003.png"))
    truth = np.asarray(Image.open(clip / "masks/00003.png"))
    assert (third[truth > 0] == truth[truth > 0]).all()
    assert not (out / "overlay.mp4").exists()


def test_masks_that_belong_to_no_frame(clip, tmp_path, monkeypatch, capsys):
    given = tmp_path / "given"
    given.mkdir()
    for name in ("00000.png", "00077.png"):
        (given / name).write_bytes((clip / "masks/00000.png").read_bytes())
    arguments = ["predict", str(clip / "clip.mp4"), "--masks", str(given), "--out", str(tmp_path / "out")]
    assert "00077" in fails(arguments, monkeypatch, capsys)
    assert not (tmp_path / "out/overlay.mp4").exists()  # what was finished stays, but does not look complete
    assert (tmp_path / "out/masks/00005.png").exists()


def image(path: Path, array: np.ndarray) -> str:
    Image.fromarray(array).save(path)
    return str(path)


def vis_files(tmp: Path) -> list[str]:
    """The options for a truth and a result file: one instance in two frames, found."""
    masks = [{"size": list(SIZE), "counts": [0, 20, SIZE[0] * SIZE[1] - 20]}, None]
    tube = {"video_id": 1, "category_id": 1, "segmentations": masks}
    truth = {
        "videos": [{"id": 1, "height": SIZE[0], "width": SIZE[1], "length": 2}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{**tube, "id": 1, "iscrowd": 0, "occlusion": ["no_occlusion", None]}],
    }
    (tmp / "truth.json").write_text(json.dumps(truth))
    (tmp / "results.json").write_text(json.dumps([{**tube, "score": 0.5}]))
    return ["--gt", str(tmp / "truth.json"), "--pred", str(tmp / "results.json")]


def bad_inputs(clip: Path, tmp: Path) -> dict[str, tuple[list[str], str]]:
    video, mask, out = str(clip / "clip.mp4"), str(clip / "masks/00000.png"), str(tmp / "out")
    text = tmp / "text.mp4"
    text.write_text("this is not a video")
    empty = image(tmp / "empty.png", np.zeros(SIZE, np.uint8))
    small = image(tmp / "small.png", np.ones((10, 10), np.uint8))
    many = image(tmp / "many.png", (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 300).astype(np.uint16))
    (tmp / "file").write_text("")
    base = ["predict", video, "--mask", mask, "--out", out]
    return {
        "missing video": (["predict", "no.mp4", "--mask", mask, "--out", out], "no.mp4"),
        "not a video": (["predict", str(text), "--mask", mask, "--out", out], "text.mp4"),
        "missing mask": (["predict", video, "--mask", "no.png", "--out", out], "no.png"),
        "no mask": (["predict", video, "--out", out], "--mask"),
        "empty mask": (["predict", video, "--mask", empty, "--out", out], "no object"),
        "mask of another size": (["predict", video, "--mask", small, "--out", out], "10x10"),
        "300 objects": (["predict", video, "--mask", many, "--out", out], "254"),
        "unknown model": ([*base, "--model", "aots"], "aot-s"),
        "model without weights": ([*base, "--model", "r50-aot-l"], "weights"),
        "no such weights": ([*base, "--model", "aot-t", "--weights", "no.pth"], "no.pth"),
        "unknown device": ([*base, "--model", "aot-t", "--weights", "random", "--device", "tpu9"], "tpu9"),
        "option of another model": ([*base, "--depth", "2"], "--depth"),
        "unwritable": (["predict", video, "--mask", mask, "--out", str(tmp / "file/out")], "cannot write"),
        "unknown command": (["predikt"], "predict"),
        "unknown recipe": (["train", "aost-cpuu"], "aost-cpu"),
        "bad size": (["bench", "--size", "480"], "HEIGHTxWIDTH"),
        "too many to bench": (["bench", "--objects", "300"], "254"),
        "no data": (["eval", "davis", "--data", str(tmp), "--out", out], "JPEGImages"),
        "nothing to score": (["score", "davis", "--gt", str(clip), "--pred", str(tmp)], "masks"),
        "ytvos needs meta": (["score", "ytvos", "--gt", str(clip), "--pred", str(tmp)], "--meta"),
        "no truth": (["score", "ytvis", "--gt", "no.json", "--pred", str(text)], "no.json does not exist"),
        "truth is no JSON": (["score", "ovis", "--gt", str(text), "--pred", str(text)], "text.mp4 is not JSON"),
        "long is no list": (["score", "ytvis", *vis_files(tmp), "--long", "no.txt"], "neither a number of frames"),
        "no frames per second": ([*base, "--fps", "0"], "--fps is 0"),
        **bad_annotations(clip, tmp),
        **bad_sets(tmp),
    }


def bad_annotations(clip: Path, tmp: Path) -> dict[str, tuple[list[str], str]]:
    """What `make-ytvis` refuses."""
    (tmp / "nothing").mkdir()
    (tmp / "labelme").mkdir()
    (tmp / "labelme/0.json").write_text("{")
    half, strange = tmp / "half.json", tmp / "strange.json"
    half.write_text('{"images": [')
    strange.write_text('{"masks": {"one": "cat"}}')
    frames, masks = ["make-ytvis", str(tmp / "nothing")], ["--masks", str(clip / "masks")]
    out = ["--out", str(tmp / "made.json")]
    return {
        "nothing to make it of": (["make-ytvis", "no", *out], "no does not exist"),
        "neither labels nor masks": ([*frames, *out], "holds no labelme file"),
        "no frames": ([*frames, *masks, *out], "holds no frame"),
        "no such masks": ([*frames, "--masks", "no", *out], "no is not a folder"),
        "no masks": ([*frames, "--masks", str(tmp / "nothing"), *out], "holds neither masks nor folders"),
        "damaged labelme": (["make-ytvis", str(tmp / "labelme"), *out], "0.json is no labelme file"),
        "half a COCO file": (["make-ytvis", str(half), *out], "half.json is not JSON"),
        "no COCO file": (["make-ytvis", str(strange), *out], "strange.json is no COCO file"),
        "out is there": (["make-ytvis", str(half), "--out", str(half)], "half.json already exists"),
        "out in no place": (["make-ytvis", str(half), "--out", str(tmp / "file/made.json")], "cannot write to"),
        "names without masks": (["make-ytvis", str(half), "--names", "cat", *out], "--names is for --masks"),
        "classes without COCO": ([*frames, *masks, "--classes", "ovis", *out], "--classes is for a COCO file"),
        "no such names": ([*frames, *masks, "--names", "no.json", *out], "no.json does not exist"),
        "names are no JSON": ([*frames, *masks, "--names", str(half), *out], "half.json is not {video"),
        "names of no ids": ([*frames, *masks, "--names", str(strange), *out], "strange.json is not {video"),
    }


def bad_sets(tmp: Path) -> dict[str, tuple[list[str], str]]:
    """What `check` cannot even begin with."""
    half, folder = tmp / "half.json", tmp / "nothing"
    vis_files(tmp)
    return {
        "nothing to check": (["check", "no", "--as", "davis"], "no does not exist"),
        "a folder as ytvis": (["check", str(folder), "--as", "ovis"], "nothing is a folder; ovis needs a file"),
        "a file as davis": (["check", str(half), "--as", "davis"], "half.json is a file; davis needs a folder"),
        "half a file": (["check", str(half), "--as", "ytvis"], "half.json is not JSON"),
        "an empty set": (["check", str(folder), "--as", "davis"], "expected JPEGImages and Annotations"),
        "an empty split": (["check", str(folder), "--as", "ytvos"], "valid/JPEGImages is not a folder"),
        "frames of davis": (["check", str(folder), "--as", "davis", "--frames", "x"], "--frames is for ytvis"),
        "no such frames": (["check", str(tmp / "truth.json"), "--as", "ytvis", "--frames", "no"], "no is not a folder"),
    }


@pytest.mark.parametrize("case", range(47))
def test_bad_input_is_one_sentence(case, clip, tmp_path, monkeypatch, capsys):
    name, (arguments, expected) = list(bad_inputs(clip, tmp_path).items())[case]
    said = fails(arguments, monkeypatch, capsys)
    assert expected in said, f"{name}: {said}"
    assert not (tmp_path / "out/overlay.mp4").exists()


def test_cuda_asked_for_and_absent(clip, tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ["predict", str(clip / "clip.mp4"), "--mask", str(clip / "masks/00000.png"), "--out", str(tmp_path)]
    arguments += ["--model", "aot-t", "--weights", "random", "--device", "cuda"]
    assert "no CUDA device" in fails(arguments, monkeypatch, capsys)


def test_results_are_not_overwritten_unasked(clip, tmp_path, monkeypatch, capsys):
    arguments = ["predict", str(clip / "clip.mp4"), "--mask", str(clip / "masks/00000.png"), "--out", str(tmp_path)]
    dispatch(arguments)
    before = (tmp_path / "masks.json").read_bytes()
    assert "--overwrite" in fails(arguments, monkeypatch, capsys)
    dispatch([*arguments, "--overwrite"])
    assert (tmp_path / "masks.json").read_bytes() == before


def test_a_full_disk_loses_nothing_written(clip, tmp_path, monkeypatch, capsys):
    write, written = LabelPngs.write, []

    def full(self, labels, name):
        if len(written) == 3:
            raise OSError(28, "cannot write 00003.png: No space left on device")
        written.append(name)
        write(self, labels, name)

    monkeypatch.setattr(LabelPngs, "write", full)
    arguments = ["predict", str(clip / "clip.mp4"), "--mask", str(clip / "masks/00000.png"), "--out", str(tmp_path)]
    assert "No space left" in fails(arguments, monkeypatch, capsys)
    assert len(list(tmp_path.glob("masks/*.png"))) == 3
    assert not list(tmp_path.glob("*.mp4"))
    assert not list(tmp_path.glob("*.json"))


def test_demo(tmp_path, capsys):
    dispatch(["demo", "--out", str(tmp_path), "--frames", "6", "--size", "64x96"])
    assert "J&F" in capsys.readouterr().out
    assert (tmp_path / "contact_sheet.png").is_file()


def test_eval_davis(clip, tmp_path, capsys):
    rgb, ids = make_clip(4, frames=5, size=SIZE, objects=(1, 1))
    for name in ("JPEGImages/480p/one", "Annotations/480p/one", "ImageSets/2017"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("one\n")
    for t in range(5):
        Image.fromarray(rgb[t]).save(tmp_path / f"JPEGImages/480p/one/{t:05d}.jpg")
        Image.fromarray(ids[t]).save(tmp_path / f"Annotations/480p/one/{t:05d}.png")
    result = tmp_path / "score.json"
    (tmp_path / "out").mkdir()
    (tmp_path / "out/masks.json").write_text("what `predict` wrote here earlier")
    dispatch(["eval", "davis", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--json", str(result)])
    assert "frames per second" in capsys.readouterr().out
    assert set(json.loads(result.read_text())["J-per-object"]) == {"one_1"}
    assert (tmp_path / "out/masks.json").exists()


def test_eval_ytvos_writes_the_submission(tmp_path, capsys):
    import zipfile

    rgb, ids = make_clip(5, frames=4, size=SIZE, objects=(2, 2))
    first, later = np.where(ids == 2, 0, ids).astype(np.uint8), ids  # object 2 enters in frame 2
    for name in ("valid/JPEGImages/v1", "valid/Annotations/v1"):
        (tmp_path / name).mkdir(parents=True)
    for t in range(4):
        Image.fromarray(rgb[t]).save(tmp_path / f"valid/JPEGImages/v1/{5 * t:05d}.jpg")
    Image.fromarray(first[0]).save(tmp_path / "valid/Annotations/v1/00000.png")
    Image.fromarray(later[2]).save(tmp_path / "valid/Annotations/v1/00010.png")
    names = [f"{5 * t:05d}" for t in range(4)]
    objects = {"1": {"category": "dog", "frames": names}, "2": {"category": "fox", "frames": names[2:]}}
    (tmp_path / "valid/meta.json").write_text(json.dumps({"videos": {"v1": {"objects": objects}}}))
    dispatch(["eval", "ytvos", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "submission.zip" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "out/submission.zip") as submission:
        assert sorted(submission.namelist()) == [f"Annotations/v1/{name}.png" for name in names]
    assert 2 not in np.asarray(Image.open(tmp_path / "out/v1/00005.png"))
    assert 2 in np.asarray(Image.open(tmp_path / "out/v1/00010.png"))


# ---- data sets


@pytest.fixture
def folders(clip, tmp_path) -> Path:
    """JPEGImages and Annotations with one video, "masks", whose two objects are a cat and a dog, and its meta.json."""
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        (tmp_path / kind / "masks").mkdir(parents=True)
        for t in range(6):
            with Image.open(clip / f"masks/{t:05d}.png") as ids:
                made = ids.convert("RGB") if suffix == "jpg" else ids
                made.save(tmp_path / kind / f"masks/{t:05d}.{suffix}")
    names = [f"{t:05d}" for t in range(6)]
    objects = {str(i): {"category": c, "frames": names} for i, c in ((1, "cat"), (2, "dog"))}
    (tmp_path / "meta.json").write_text(json.dumps({"videos": {"masks": {"objects": objects}}}))
    (tmp_path / "names.json").write_text(json.dumps({"masks": {"1": "cat", "2": "dog"}}))
    return tmp_path


def checked(arguments: list[str], capsys) -> list[str]:
    """Runs a `check` that must find something; returns its lines."""
    with pytest.raises(SystemExit) as stopped:
        dispatch(["check", *arguments])
    assert stopped.value.code == 1
    return capsys.readouterr().out.splitlines()


def test_make_then_check(folders, capsys):
    made = folders / "made.json"
    command = ["make-ytvis", str(folders / "JPEGImages"), "--masks", str(folders / "Annotations"), "--out", str(made)]
    dispatch([*command, "--names", str(folders / "names.json")])
    said = "made.json: 1 videos, 2 instances, 2 categories; its first frame is masks/00000.jpg"
    assert said in capsys.readouterr().out
    dispatch(["check", str(made), "--as", "ytvis"])
    assert capsys.readouterr().out == "nothing wrong: 1 videos, 2 instances\n"
    assert len(checked([str(made), "--as", "ovis"], capsys)) == 2  # no instance says how occluded it is
    (folders / "JPEGImages/masks/00003.jpg").unlink()
    (line,) = checked([str(made), "--as", "ytvis"], capsys)
    assert "00003.jpg does not exist" in line
    (folders / "JPEGImages").rename(folders / "elsewhere")
    dispatch(["check", str(made), "--as", "ytvis"])
    assert "frames were not looked at" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError):
        dispatch([*command, "--overwrite"])
    assert [c["name"] for c in json.loads(made.read_text())["categories"]] == ["cat", "dog"]  # still there


def test_make_of_labelme_and_coco(tmp_path, capsys):
    points = [[1, 1], [9, 1], [9, 9]]
    page = {"imageHeight": 20, "imageWidth": 30, "imagePath": "0.jpg", "shapes": [{"label": "cat", "points": points}]}
    (tmp_path / "v").mkdir()
    (tmp_path / "v/0.json").write_text(json.dumps(page))
    dispatch(["make-ytvis", str(tmp_path / "v"), "--out", str(tmp_path / "a/one.json")])
    assert "1 videos, 1 instances, 1 categories; its first frame is v/0.jpg" in capsys.readouterr().out
    coco = {
        "images": [{"id": 1, "height": 20, "width": 30, "file_name": "x.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 17, "segmentation": [[1, 1, 9, 1, 9, 9]]}],
        "categories": [{"id": 17, "name": "cat"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    dispatch(["make-ytvis", str(tmp_path / "coco.json"), "--classes", "ovis", "--out", str(tmp_path / "two.json")])
    assert "1 videos, 1 instances, 25 categories; its first frame is x.jpg" in capsys.readouterr().out


def test_check_of_folders(folders, capsys):
    for kind, folder in (("davis", folders), ("ytvos", folders), ("ytvos", folders.parent)):
        dispatch(["check", str(folder), "--as", kind, "--split", folders.name])
        assert capsys.readouterr().out == "nothing wrong: 1 videos, 2 instances\n"
    (folders / "Annotations/masks/00000.png").unlink()
    (line,) = checked([str(folders), "--as", "davis"], capsys)
    assert "00000.jpg is the first frame" in line
    lines = checked([str(folders), "--as", "ytvos"], capsys)
    assert [line.split("meta.json ")[1] for line in lines[1:]] == [
        f"lets object {i} of video masks enter in frame 00000, which has no mask" for i in (1, 2)
    ]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda root: (root / "JPEGImages/masks/00005.jpg").unlink(), "lists frame 00005 of video masks"),
        (lambda root: (root / "meta.json").write_text("{}"), "is not a YouTube-VOS meta.json"),
        (lambda root: (root / "meta.json").unlink(), "meta.json does not exist"),
        (
            lambda root: (root / "meta.json").write_text('{"videos": {"gone": {"objects": {}}}}'),
            "lists video gone, which has no frames",
        ),
    ],
)
def test_check_of_what_meta_says(folders, capsys, damage, said):
    damage(folders)
    assert said in checked([str(folders), "--as", "ytvos"], capsys)[-1]


# ---- models that find objects


def video_folder(path: Path, frames: int = 4) -> Path:
    path.mkdir(parents=True)
    for t in range(frames):
        Image.fromarray(np.full((48, 64, 3), 40 * t, np.uint8)).save(path / f"{t:05d}.jpg")
    return path


def finding(*arguments) -> list[str]:
    return [str(a) for a in arguments] + ["--model", "syncvis-tiny", "--weights", "random", "--short-edge", "64"]


@pytest.mark.filterwarnings("ignore:syncvis-tiny has random", "ignore:the classes are called")
def test_predict_without_masks(tmp_path, capsys):
    frames = video_folder(tmp_path / "frames")
    dispatch(finding("predict", frames, "--out", tmp_path / "out", "--window", 3, "--top", 4))
    found = json.loads((tmp_path / "out" / "tracks.json").read_text())
    assert 0 < len(found) <= 4
    assert all(len(entry["segmentations"]) == 4 for entry in found)
    assert (tmp_path / "out" / "contact_sheet.png").is_file()
    assert "4 frames" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="already holds results"):
        dispatch(finding("predict", frames, "--out", tmp_path / "out"))


@pytest.mark.filterwarnings("ignore:syncvis-tiny has random", "ignore:the classes are called")
@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--mask", "x.png"], "syncvis-tiny finds objects by itself; leave out --mask"),
        (["--depth", "2"], "syncvis-tiny does not take --depth"),
        (["--only", "dgo"], "there is no class 'dgo'; did you mean dog"),
        (["--classes", "ytvis"], "there are no classes called 'ytvis'; did you mean ytvis_20"),
        (["--window", "2"], "does not move on"),
        (["--window", "1", "--overlap", "1"], "does not move on"),
        (["--window", "0"], "--window is 0; it must be at least 1"),
        (["--overlap", "-1"], "--overlap is -1; it must be at least 0"),
        (["--top", "0"], "--top is 0; it must be at least 1"),
        (["--min-score", "2"], "--min-score is 2; scores go from 0 to 1"),
        (["--min-score", "nan"], "--min-score is nan"),
        (["--short-edge", "0"], "--short-edge is 0; it must be at least 1"),
    ],
)
def test_options_that_do_not_fit_finding(tmp_path, extra, says):
    with pytest.raises(ValueError, match=says):
        dispatch(finding("predict", video_folder(tmp_path / "f"), "--out", tmp_path / "out") + extra)
    assert not (tmp_path / "out" / "tracks.json").exists()


@pytest.mark.filterwarnings("ignore:syncvis-tiny has random", "ignore:the classes are called")
@pytest.mark.parametrize("size", [(60, 80), (37, 51), (1, 40), (40, 1)])
@pytest.mark.parametrize("folder", [False, True])
def test_predict_on_one_image(tmp_path, size, folder):
    from tubelet.video.read import read

    (tmp_path / "in").mkdir()
    picture = image(tmp_path / "in/one.png", np.full((*size, 3), 90, np.uint8))
    out = tmp_path / "out"
    dispatch(finding("predict", tmp_path / "in" if folder else picture, "--out", out))
    found = json.loads((out / "tracks.json").read_text())
    assert found
    assert all(len(entry["segmentations"]) == 1 for entry in found)
    assert {tuple(entry["segmentations"][0]["size"]) for entry in found if entry["segmentations"][0]} <= {size}
    assert len(list(read(out / "overlay.mp4"))) == 1
    with Image.open(out / "contact_sheet.png") as sheet:
        assert max(sheet.size) < 4000  # of a narrow picture, too


@pytest.mark.filterwarnings("ignore:syncvis-tiny has random", "ignore:the classes are called")
def test_a_mistake_costs_no_earlier_results(tmp_path):
    frames, out = video_folder(tmp_path / "f"), tmp_path / "out"
    dispatch(finding("predict", frames, "--out", out))
    with pytest.raises(ValueError, match="no class 'dgo'"):
        dispatch(finding("predict", frames, "--out", out, "--overwrite", "--only", "dgo"))
    assert (out / "tracks.json").is_file()


def test_models_and_benchmarks_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="davis is for models that follow given objects"):
        dispatch(finding("eval", "davis", "--data", tmp_path, "--out", tmp_path / "o"))
    with pytest.raises(ValueError, match="ytvis is for models that find objects"):
        dispatch(["eval", "ytvis", "--data", str(tmp_path), "--out", str(tmp_path / "o"), "--model", "aost"])
    with pytest.raises(ValueError, match="aost does not take --window, --top"):
        dispatch(["bench", "--model", "aost", "--window", "3", "--top", "2"])
    with pytest.raises(ValueError, match="needs a model that follows"):
        dispatch(["demo", "--model", "syncvis-r50", "--out", str(tmp_path / "d")])


@pytest.mark.filterwarnings("ignore:syncvis-tiny has random", "ignore:the classes are called")
def test_eval_ytvis(tmp_path, capsys):
    from tubelet.data.classes import categories

    video_folder(tmp_path / "JPEGImages" / "v")
    names = [f"v/{t:05d}.jpg" for t in range(4)]
    rle = {"size": [48, 64], "counts": [0, 48 * 64]}
    truth = {
        "videos": [{"id": 3, "width": 64, "height": 48, "length": 4, "file_names": names}],
        "categories": categories("ytvis_2021"),
        "annotations": [
            {"id": 1, "video_id": 3, "category_id": 9, "iscrowd": 0, "segmentations": [rle] * 4,
             "bboxes": [[0, 0, 64, 48]] * 4, "areas": [48 * 64] * 4}
        ],
    }  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    command = finding("eval", "ytvis", "--data", tmp_path / "truth.json", "--out", tmp_path / "out")
    dispatch([*command, "--json", str(tmp_path / "numbers.json")])
    assert {e["video_id"] for e in json.loads((tmp_path / "out" / "results.json").read_text())} == {3}
    assert (tmp_path / "out" / "submission.zip").is_file()
    assert 0 <= json.loads((tmp_path / "numbers.json").read_text())["AP"] <= 1
    assert "AP" in capsys.readouterr().out
    truth["annotations"] = []
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    dispatch(command)
    assert "submission.zip" in capsys.readouterr().out


def test_bench_of_a_model_that_finds_objects(capsys):
    dispatch(["bench", "--model", "mask2former-vis-tiny", "--size", "64x96", "--frames", "3", "--short-edge", "64"])
    assert "its own objects" in capsys.readouterr().out
