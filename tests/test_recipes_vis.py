"""Recipes for instances: each builds what it names, starts from what it is given, runs, and is scored."""

import dataclasses
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tubelet.models import mask2former, syncvis
from tubelet.recipes import vis
from tubelet.recipes.base import Run
from tubelet.recipes.vis import RECIPES, Data, Validation, VisRecipe, build, class_names, decays, sources
from tubelet.train.log import read_log
from tubelet.train.optim import parameter_groups
from tubelet.weights import load, read_state, save

TINY = RECIPES["syncvis-tiny-shapes"]


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    """Accelerate keeps its precision for the whole process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds(name):
    recipe = RECIPES[name]
    with torch.device("meta"):
        model = build(recipe)
    assert isinstance(model, syncvis.SyncVIS) == recipe.model.startswith("syncvis")
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, encoder_lr=0.1, decays=decays)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert all(drop < recipe.steps for drop in recipe.decay_at)
    assert recipe.subclip is None or recipe.subclip <= recipe.frames


def test_the_papers_numbers():
    r50, ovis = RECIPES["syncvis-r50-2019"], RECIPES["syncvis-r50-ovis"]
    assert (r50.steps, r50.decay_at, r50.frames, r50.lr, r50.subclip) == (70_000, (37_500,), 8, 1e-4, 3)
    assert (r50.momentum, r50.keep, r50.clip_norm, r50.weight_decay) == (0.05, 10, 0.01, 0.05)
    assert (ovis.subclip, RECIPES["syncvis-swin-l-2022"].subclip) == (2, 2)
    assert RECIPES["syncvis-swin-l-2021"].lr == 5e-5
    assert (RECIPES["mask2former-vis-2019"].steps, RECIPES["mask2former-vis-2021"].decay_at) == (6_000, (5_500,))


def test_what_decays():
    with torch.device("meta"):
        names = [n for n, p in syncvis.build("syncvis-swin-t").named_parameters() if not decays(n, p)]
    assert {"host.decoder.query_content", "query_position", "host.pixel_decoder.level_embed"} <= set(names)
    assert any(name.endswith("relative_position_bias_table") for name in names)
    assert "host.decoder.heads.class_embed.weight" not in names
    assert all("norm" in n or n.split(".")[-1].startswith(("query_", "level_", "relative_")) for n in names)


def test_classes():
    assert len(class_names("ytvis_2019")) == len(class_names("ytvis_2022")) == 40
    assert len(class_names("ovis")) == 25
    assert "star" in class_names("shapes")
    with pytest.raises(ValueError, match="there are no classes of 'coco2'"):
        class_names("coco2")


def test_no_data():
    with pytest.raises(ValueError, match="this recipe has no data"):
        sources(dataclasses.replace(TINY, data=Data()))
    with pytest.raises(ValueError, match="where the images"):
        sources(dataclasses.replace(TINY, data=Data(coco=Path("x.json"))))


def small(tmp_path: Path, **options) -> VisRecipe:
    return dataclasses.replace(
        TINY,
        **{"steps": 2, "batch": 1, "frames": 2, "decay_at": (), "points": 64, "precision": "no"},
        **options,
        data=Data(classes="shapes", shapes=1.0, shapes_size=32),
        run=Run(out=tmp_path, workers=0, log_every=1),
    )


def test_a_run_from_beginning_to_end(tmp_path):
    """Sub-clips longer than the clip are the clip; the weights say their classes; a second call has nothing to do."""
    recipe = small(tmp_path, validation=Validation(every=2, videos=2, frames=3), direction="frame_to_video", keep=3)
    folder = vis.run("tiny", recipe)
    entries = read_log(folder / "log.jsonl")
    assert [entry["step"] for entry in entries] == [1, 2, 2]
    assert {"class", "dice.1", "frame.bce", "norm"} <= set(entries[0])
    assert 0 <= entries[2]["AP"] <= 1
    model = load("syncvis-tiny", folder / "weights.safetensors")
    assert model.host.classes == 5
    assert (model.exchange.direction, model.exchange.keep, model.exchange.momentum) == ("frame_to_video", 3, 0.05)
    before = read_state(folder / "weights.safetensors")
    vis.run("tiny", recipe)
    after = read_state(folder / "weights.safetensors")
    assert all(torch.equal(after[name], x) for name, x in before.items())


def test_starting_weights(tmp_path):
    """A Mask2Former starts the host, and the frame queries and layers with it; a SyncVIS starts all."""
    torch.manual_seed(0)
    host = mask2former.build("mask2former-vis-tiny", 5)
    torch.nn.init.normal_(host.decoder.query_content, 3.0)
    save(host, tmp_path / "host.safetensors")
    model = build(small(tmp_path, weights=tmp_path / "host.safetensors"))
    assert isinstance(model, syncvis.SyncVIS)
    assert torch.equal(model.query_content, host.decoder.query_content)
    torch.nn.init.normal_(model.query_content)
    save(model, tmp_path / "sync.safetensors")
    again = build(small(tmp_path, weights=tmp_path / "sync.safetensors"))
    assert isinstance(again, syncvis.SyncVIS)
    assert torch.equal(again.query_content, model.query_content)
    with pytest.raises(ValueError, match="does not fit"):
        build(small(tmp_path, model="mask2former-vis-tiny", weights=tmp_path / "sync.safetensors"))
