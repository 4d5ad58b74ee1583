"""What a run leaves in its folder: the recipe it was made with, the log for TensorBoard, the worst pictures."""

import dataclasses
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image

import tubelet
from tubelet.models.base import Session
from tubelet.recipes import vos
from tubelet.recipes.base import Run, config_of, flat, warn_of_changes, write_config
from tubelet.recipes.vos import RECIPES, Data, Validation, VosRecipe, jf_of_following
from tubelet.train.log import Log, read_log
from tubelet.train.worst import Worst, truth_and_prediction
from tubelet.types import LabelFrame


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    """Accelerate keeps its precision for the whole process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


# ---- the recipe


def test_the_whole_recipe_is_written(tmp_path):
    recipe = dataclasses.replace(RECIPES["aot-t-main"], weights=Path("a/b.pth"))
    write_config(tmp_path, config_of("mine", recipe, processes=4))
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["name"], config["tubelet"], config["processes"]) == ("mine", tubelet.__version__, 4)
    assert config["torch"][0].isdigit()
    assert config["recipe"]["weights"] == "a/b.pth"
    assert config["recipe"]["data"]["davis"] == "data/DAVIS"
    assert config["recipe"]["lr"] == recipe.lr
    assert config["recipe"].keys() == {field.name for field in dataclasses.fields(recipe)}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_nested_fields_have_the_names_of_the_command_line():
    assert flat({"a": 1, "b": {"c": [2], "d": {"e": None}}}) == {"a": 1, "b.c": [2], "b.d.e": None}


def changed(folder: Path, recipe: VosRecipe, *, processes: int = 1) -> list[str]:
    """The warnings of going on in the folder with this recipe."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_changes(folder, config_of("mine", recipe, processes=processes))
    return [str(warning.message) for warning in found]


def test_every_changed_field_is_named(tmp_path):
    recipe = VosRecipe("aot-t", steps=10, batch=1, data=Data(synthetic=1.0))
    assert changed(tmp_path, recipe) == []
    write_config(tmp_path, config_of("mine", recipe, processes=1))
    other = dataclasses.replace(recipe, steps=20, data=Data(synthetic=1.0, davis=Path("DAVIS")))
    assert changed(tmp_path, other) == []  # nothing was saved yet, so nothing goes on
    (tmp_path / "last.pt").touch()
    (warning,) = changed(tmp_path, other, processes=2)
    assert "processes was 1, now 2; steps was 10, now 20; data.davis was None, now 'DAVIS'; to begin" in warning
    assert "batch" not in warning
    assert changed(tmp_path, dataclasses.replace(recipe, about="new", run=Run(Path("x"), 3, 1.0, 5, 7))) == []


def tiny(out: Path, **options) -> VosRecipe:
    return VosRecipe(
        "aot-t", steps=2, batch=1, frames=2, crop=33, scratch=True, precision="no", data=Data(synthetic=1.0),
        run=Run(out=out, workers=0, log_every=1), **options,
    )  # fmt: skip


def test_a_longer_run_says_so_and_is_written_down(tmp_path):
    recipe = tiny(tmp_path, validation=Validation(every=2, synthetic=2, frames=3))
    folder = vos.run("mine", recipe)
    assert {"config.json", "log.jsonl", "curves.png", "last.pt", "weights.safetensors", "worst.png"} <= {
        path.name for path in folder.iterdir()
    }
    assert not list(folder.glob("*.part"))
    with Image.open(folder / "worst.png") as image:
        assert image.width == 1600
        assert 400 < image.height < 1600  # two clips of two frames each
    with pytest.warns(UserWarning, match=r"another recipe: steps was 2, now 3; to begin anew, give another --run\.out"):
        vos.run("mine", dataclasses.replace(recipe, steps=3))
    assert json.loads((folder / "config.json").read_text())["recipe"]["steps"] == 3
    assert [entry["step"] for entry in read_log(folder / "log.jsonl")] == [1, 2, 2, 3]


def test_a_recipe_that_does_not_fit_the_checkpoint_leaves_the_config(tmp_path):
    folder = vos.run("mine", tiny(tmp_path))
    other = dataclasses.replace(tiny(tmp_path), model="aot-s")
    with (
        pytest.warns(UserWarning, match="model was 'aot-t', now 'aot-s'"),
        pytest.raises(ValueError, match=r"last\.pt is of another model than the one to train"),
    ):
        vos.run("mine", other)
    assert json.loads((folder / "config.json").read_text())["recipe"]["model"] == "aot-t"


# ---- TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return {tag: [(e.step, round(e.value, 4)) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_tensorboard_shows_the_log_also_of_a_killed_run(tmp_path):
    pytest.importorskip("tensorboard")
    log = Log(tmp_path)
    log.write(step=1, loss=0.5, lr=1e-3)
    log.write(step=2, loss=0.25, lr=1e-4)
    log.write(step=2, **{"synthetic J&F": 0.75})  # and is never closed
    assert scalars(tmp_path) == {
        "training/loss": [(1, 0.5), (2, 0.25)],
        "training/lr": [(1, 0.001), (2, 0.0001)],
        "validation/synthetic J&F": [(2, 0.75)],
    }


def test_tensorboard_forgets_what_came_after_the_resumed_step(tmp_path):
    pytest.importorskip("tensorboard")
    for begun, values in ((0, [1.0, 2.0, 3.0, 4.0]), (2, [5.0]), (3, [6.0])):
        log = Log(tmp_path, step=begun)
        for step, value in enumerate(values, start=begun + 1):
            log.write(step=step, loss=value, lr=0.1)
        log.close()
        time.sleep(1.05)  # the files of one process are told apart by the second, and then by an unpadded number
    assert scalars(tmp_path)["training/loss"] == [(1, 1.0), (2, 2.0), (3, 5.0), (4, 6.0)]
    assert [entry["loss"] for entry in read_log(tmp_path / "log.jsonl")] == [1.0, 2.0, 5.0, 6.0]


def test_without_tensorboard_there_is_just_the_log(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = Log(tmp_path)
    log.write(step=1, loss=0.5, lr=0.1)
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


# ---- the worst frames


def grey(value: int) -> np.ndarray:
    return np.full((10, 20, 3), value, np.uint8)


@pytest.mark.parametrize("most", [1, 3, 7, 9])
def test_the_worst_are_kept_and_only_they_are_drawn(tmp_path, most):
    scores = [0.5, 0.1, 0.9, 0.3, 0.3, 0.2, 0.8]
    drawn, worst = [], Worst(most)
    for i, score in enumerate(scores):
        worst.add(score, lambda i=i: drawn.append(i) or grey(i))
    kept = [picture[0, 0, 0] for _, _, picture in sorted(worst.heap, key=lambda entry: entry[:2], reverse=True)]
    assert kept == [1, 5, 3, 4, 0, 6, 2][:most]  # of equal ones the first
    assert most > 1 or drawn == [0, 1]
    worst.save(tmp_path / "worst.png")
    with Image.open(tmp_path / "worst.png") as image:
        assert image.getpixel((20, 20)) == (1, 1, 1)
        assert image.width == 1600


def test_nothing_seen_nothing_written(tmp_path):
    Worst().save(tmp_path / "worst.png")
    assert list(tmp_path.iterdir()) == []


def test_a_pair_is_small_whatever_the_frame():
    for height, width in ((9, 16), (2160, 3840), (37, 21)):
        ids = np.zeros((height, width), np.uint8)
        ids[: height // 2] = 1
        pair = truth_and_prediction(np.zeros((height, width, 3), np.uint8), ids, ids * 0, name="cat", score="0.1")
        assert pair.shape[1] == 794
        assert pair.shape[0] == pytest.approx(395 * height / width, abs=40)
        top = pair[10:30]
        assert top[:, 10:300].max() > 100  # the truth is drawn on the left
        assert top[:, 410:700].max() == 0


class Knows(Session[LabelFrame]):
    """Finds what it is told, whatever it sees."""

    def __init__(self, answers: list[np.ndarray]):
        self.answers = answers

    def feed(self, frame, prompt=None):
        return [LabelFrame(self.answers[frame.index], frame.index)]

    def finish(self):
        return []


class Model:
    def __init__(self, answers: list[np.ndarray]):
        self.answers = answers

    def session(self) -> Session:
        return Knows(self.answers)


def test_the_frames_with_the_lowest_score_are_shown(monkeypatch):
    """An object of 20 columns, found from further and further right; frame 0 is not scored, however wrong."""
    shifts = [25, 0, 5, 1, 25, 2, 10]
    truth = np.zeros((40, 60), np.uint8)
    truth[10:30, 10:30] = 1
    found = [np.roll(truth, shift, axis=1) for shift in shifts]
    titles = []

    def told(rgb, ids, labels, *, name, score):
        assert np.array_equal(labels, found[rgb[0, 0, 0]])
        titles.append((name, score))
        return rgb

    monkeypatch.setattr("tubelet.train.worst.truth_and_prediction", told)
    worst = Worst(2)
    rgb = [np.full((40, 60, 3), t, np.uint8) for t in range(7)]
    score = jf_of_following(Model(found), "cat", rgb, [truth] * 7, worst)  # pyright: ignore[reportArgumentType]
    assert sorted(int(picture[0, 0, 0]) for _, _, picture in worst.heap) == [4, 6]
    assert titles[0] == ("cat, frame 4", "J&F 0.000")
    assert len(titles) == 2  # the third of this video is better than both
    assert 0.5 < score < 0.7
