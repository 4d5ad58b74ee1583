"""Recipes: each builds what it names, its schedule ends where it says, its data is found or asked for."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from tubelet.data.loader import ClipStream
from tubelet.models.aot import model as aot
from tubelet.models.base import Session
from tubelet.recipes import vos
from tubelet.recipes.base import Run
from tubelet.recipes.vos import (
    RECIPES,
    Data,
    Validation,
    VosRecipe,
    check_crop,
    read_material,
    schedule,
    sources,
    validation,
    views,
)
from tubelet.train.log import read_log
from tubelet.train.optim import parameter_groups
from tubelet.types import LabelFrame
from tubelet.weights import save


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds(name):
    recipe = RECIPES[name]
    with torch.device("meta"):
        model = aot.build(recipe.model, frozen_norm=not recipe.scratch)
    assert (recipe.crop - int(model.align_corners)) % 16 == 0
    groups = parameter_groups(model, lr=recipe.lr, weight_decay=recipe.weight_decay)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert recipe.floor_lr <= recipe.lr
    assert recipe.frames >= 2


def test_the_papers_numbers():
    first, second = RECIPES["aot-t-pretrain"], RECIPES["aot-t-main"]
    assert (first.lr, first.weight_decay, first.steps, first.batch, first.frames) == (4e-4, 0.03, 100_000, 16, 5)
    assert (second.lr, second.weight_decay, second.steps, second.batch, second.crop) == (2e-4, 0.07, 100_000, 16, 465)
    assert (first.data.merge, second.data.merge) == (1.0, 0.3)


@pytest.mark.parametrize("model", aot.VARIANTS)
def test_every_variant_has_both_stages(model):
    first, second = RECIPES[f"{model}-pretrain"], RECIPES[f"{model}-main"]
    assert first.model == second.model == model
    assert first.floor_lr == second.floor_lr == (1e-5 if model.startswith(("r", "swin")) else 2e-5)
    assert second.run.until == (80_000 if model.startswith(("r101", "swinb")) else None)
    assert second.steps == 100_000


def test_schedule_of_main_training():
    at = schedule(RECIPES["aot-t-main"])
    assert at(0) == {"hard_fraction": 1.0, "reference_weight": 1.0, "feedback": False, "freeze_bank": False}
    middle = at(50_000)
    assert middle["hard_fraction"] == pytest.approx(0.15)
    assert middle["reference_weight"] == pytest.approx(0.5)
    assert middle["feedback"]
    assert middle["freeze_bank"]
    assert not at(49_999)["feedback"]
    assert not at(49_999)["freeze_bank"]
    assert at(25_000)["hard_fraction"] == pytest.approx(0.575)
    assert at(99_999)["hard_fraction"] == pytest.approx(0.15)
    assert at(99_999)["reference_weight"] == pytest.approx(1e-5)


def test_schedule_of_pretraining():
    at = schedule(RECIPES["aot-t-pretrain"])
    assert at(5_000)["reference_weight"] == pytest.approx(0.5)
    assert at(10_000)["reference_weight"] == at(99_999)["reference_weight"] == 0
    assert not at(99_999)["feedback"]
    assert not at(99_999)["freeze_bank"]


def test_random_weights_learn_identities():
    """A bank that is frozen at its start, less than a thousandth of what it becomes, hardly tells them apart; and the
    masks of a random network are not worth remembering."""
    at = schedule(RECIPES["aost-cpu"])
    assert not at(0)["feedback"]
    assert not at(RECIPES["aost-cpu"].steps - 1)["freeze_bank"]


@pytest.mark.parametrize("share", ["bootstrap_share", "reference_share", "feedback_from", "freeze_bank_from"])
def test_a_share_of_nothing_is_there_at_once(share):
    at = schedule(dataclasses.replace(RECIPES["aot-t-main"], **{share: 0.0}))
    key, value = {
        "bootstrap_share": ("hard_fraction", 0.15),
        "reference_share": ("reference_weight", 0.0),
        "feedback_from": ("feedback", True),
        "freeze_bank_from": ("freeze_bank", True),
    }[share]
    assert at(0)[key] == pytest.approx(value)


def test_no_data():
    with pytest.raises(ValueError, match=r"--data\.photos is for synthetic clips, and this recipe has none"):
        read_material(Data(photos=Path("photos"), davis=Path("davis")))
    with pytest.raises(ValueError, match=r"this recipe has no data: give --data\.synthetic"):
        read_material(Data())


def test_synthetic_data():
    recipe = VosRecipe("aot-t", steps=1, batch=1, crop=33, frames=3, data=Data(synthetic=2.0, merge=1.0))
    found = sources(recipe, read_material(recipe.data))
    assert [share for _, share in found] == [2.0]
    rgb, ids = found[0][0](np.random.default_rng(0))
    assert rgb.shape == (3, 33, 33, 3)
    assert ids.shape == (3, 33, 33)


@pytest.mark.parametrize("kind", ["davis", "ytvos", "images"])
def test_data_that_is_not_there(tmp_path, kind):
    folders: Any = (tmp_path / "nowhere",) if kind == "images" else tmp_path / "nowhere"
    with pytest.raises((FileNotFoundError, ValueError), match="nowhere") as error:
        read_material(Data(**{kind: folders}))
    assert "Errno" not in str(error.value)


def still(folder, name: str) -> None:
    rng = np.random.default_rng(0)
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        (folder / kind / "COCO").mkdir(parents=True, exist_ok=True)
        data = rng.integers(0, 256, (64, 64, 3), np.uint8)
        if kind == "Annotations":
            data = np.zeros((64, 64), np.uint8)
            data[10:40, 10:40] = 1
        Image.fromarray(data).save(folder / kind / "COCO" / f"{name}.{suffix}")


def test_images_and_synthetic_clips_mix(tmp_path):
    folders = tmp_path / "one", tmp_path / "two"
    still(folders[0], "1")
    still(folders[1], "1")
    recipe = VosRecipe("aot-t", steps=1, batch=2, crop=33, frames=2, data=Data(synthetic=1.0, images=folders))
    clip, labels = ClipStream(sources(recipe, read_material(recipe.data)), batch=4)[0]
    assert clip.images.shape == (4, 2, 3, 33, 33)
    assert labels.ids.shape == (4, 2, 33, 33)


def size_of(path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_frozen_parts_need_weights(tmp_path):
    recipe = VosRecipe("aot-t", steps=1, batch=1, crop=33, frames=2, data=Data(synthetic=1.0), run=Run(out=tmp_path))
    with pytest.raises(ValueError, match=r"--encoder IMAGENET\.pth or --weights FILE, or --scratch"):
        vos.run("tiny", recipe)


def test_a_run_stops_where_it_should(tmp_path):
    AcceleratorState._reset_state(True)
    recipe = VosRecipe(
        "aot-t", steps=9, batch=1, frames=2, crop=17, scratch=True, precision="no", data=Data(synthetic=1.0),
        run=Run(out=tmp_path, workers=0, log_every=1, until=2),
    )  # fmt: skip
    folder = vos.run("tiny", recipe)
    assert [entry["step"] for entry in read_log(folder / "log.jsonl")] == [1, 2]
    assert (folder / "weights.safetensors").is_file()
    AcceleratorState._reset_state(True)


def test_views_between_the_clips(tmp_path):
    AcceleratorState._reset_state(True)
    recipe = VosRecipe(
        "aot-t", steps=6, batch=1, frames=4, crop=17, scratch=True, precision="no", data=Data(synthetic=1.0), views=2,
        run=Run(out=tmp_path, workers=0, log_every=1),
    )  # fmt: skip
    material = read_material(recipe.data)
    pairs = views(recipe, material)
    assert pairs is not None
    assert (pairs.batch, pairs.count) == (2, 2)
    assert views(dataclasses.replace(recipe, views=0), material) is None
    with pytest.raises(ValueError, match="--views is a number of batches"):
        views(dataclasses.replace(recipe, views=-1), material)
    with pytest.raises(ValueError, match=r"--data\.pace is at least 1"):
        read_material(Data(synthetic=1.0, pace=0.5))
    entries = read_log(vos.run("tiny", recipe) / "log.jsonl")
    kinds = ["matching" if "matching" in entry else "jaccard" for entry in entries]
    assert kinds == ["jaccard", "matching", "matching", "jaccard", "matching", "matching"]
    assert not any("matching" in entry and "jaccard" in entry for entry in entries)
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("scratch", [True, False])
def test_a_run_from_beginning_to_end(tmp_path, scratch):
    AcceleratorState._reset_state(True)
    save(aot.build("aot-t", frozen_norm=not scratch), tmp_path / "start.safetensors")
    recipe = VosRecipe(
        "aot-t", steps=2, batch=1, frames=2, crop=33, scratch=scratch, precision="no", data=Data(synthetic=1.0),
        weights=tmp_path / "start.safetensors", validation=Validation(every=2, synthetic=2, frames=3),
        run=Run(out=tmp_path, workers=0, log_every=1, minutes=0.0),
    )  # fmt: skip
    folder = vos.run("tiny", recipe)
    assert folder == tmp_path / "tiny"
    assert len(read_log(folder / "log.jsonl")) == 1  # no minutes at all: stopped after the first step
    vos.run("tiny", dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, minutes=None)))
    entries = read_log(folder / "log.jsonl")
    assert [entry["step"] for entry in entries] == [1, 2, 2]
    assert 0 <= entries[2]["synthetic J&F"] <= 1
    assert size_of(folder / "curves.png") == (960, 720)
    state = torch.load(folder / "last.pt", weights_only=True)
    assert ("encoder.net.conv_stem.weight" in state["ema"]["average"]) == scratch
    AcceleratorState._reset_state(True)


class Copies:
    """A model that repeats the mask it was given."""

    def session(self) -> Session:
        class Repeat(Session[LabelFrame]):
            def feed(self, frame, prompt=None):
                if prompt is not None and prompt.labels is not None:
                    self.given = prompt.labels
                return [LabelFrame(self.given, frame.index)]

            def finish(self):
                return []

        return Repeat()


def test_validation_follows_the_clips_and_the_split(tmp_path):
    """A square that jumps away in the last of three frames: J and F are 1, then 0."""
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        (tmp_path / kind / "480p" / "jump").mkdir(parents=True)
        for t in range(4):
            mask = np.zeros((40, 60), np.uint8)
            mask[5:15, 5 + 30 * (t == 2) : 15 + 30 * (t == 2)] = 1
            Image.fromarray(mask).save(tmp_path / kind / "480p" / "jump" / f"{t:05d}.{suffix}")
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "held.txt").write_text("jump\n")
    recipe = VosRecipe(
        "aot-t", steps=1, batch=1, crop=33, data=Data(davis=tmp_path),
        validation=Validation(every=1, synthetic=1, davis_split="held", frames=3),
    )  # fmt: skip
    scores = validation(recipe)(Copies())  # pyright: ignore[reportArgumentType]
    assert scores["DAVIS J&F"] == pytest.approx(0.5)
    assert 0 < scores["synthetic J&F"] <= 1
    with pytest.raises(ValueError, match=r"say where DAVIS is: --data\.davis"):
        validation(dataclasses.replace(recipe, data=Data()))


@pytest.mark.parametrize(("name", "crop", "near"), [("swinb-aot-l", 465, 464), ("aot-t", 464, 465), ("aot-t", 3, 17)])
def test_a_crop_that_does_not_fit(name, crop, near):
    with torch.device("meta"):
        model = aot.build(name)
    with pytest.raises(ValueError, match=rf"not {crop}; the nearest is --crop {near}"):
        check_crop(crop, model)
    check_crop(near, model)
