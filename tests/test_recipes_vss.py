from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tubelet.models import mpvss
from tubelet.recipes.base import Run
from tubelet.recipes.vss import RECIPES, Data, VssRecipe, build, run, sources
from tubelet.train.optim import parameter_groups
from tubelet.weights import load, read_metadata, save


@pytest.fixture(scope="module")
def camvid(tmp_path_factory) -> Path:
    """One sequence of five frames, two classes side by side."""
    root, rng = tmp_path_factory.mktemp("camvid"), np.random.default_rng(0)
    lines = []
    for t in range(5):
        classes = np.full((48, 64), 1, np.uint8)
        classes[:, 10 + 5 * t :], classes[40:] = 3, 11
        names = f"train/0001TP_{t:05d}.jpg", f"trainannot/0001TP_{t:05d}.png"
        for name, image in zip(
            names, (classes[..., None] * 60 + rng.integers(0, 20, (48, 64, 3)), classes), strict=True
        ):
            (root / name).parent.mkdir(exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(root / name)
        lines.append(" ".join(names) + "\n")
    (root / "train.txt").write_text("".join(lines))
    return root


def small(camvid: Path, out: Path, **changes) -> VssRecipe:
    data = Data(dataset="camvid", root=camvid, size=(32, 64), short_edges=(40, 48), long_edge=100)
    own: dict[str, Any] = {
        "steps": 2,
        "batch": 1,
        "points": 64,
        "precision": "no",
        "lr": 1e-3,
        "scratch": True,
        "data": data,
    }
    return VssRecipe("mpvss-tiny", run=Run(out=out, workers=0), **{**own, **changes})


def test_two_stages(camvid, tmp_path):
    """The segmentor alone, then the flow on top of it, which leaves it as it is but for its heads."""
    folder = run("first", small(camvid, tmp_path, motion="none", learns="all"))
    first = load("mpvss-tiny", folder / "weights.safetensors")
    assert first.motion is None
    assert first.classes == 11
    assert read_metadata(folder / "weights.safetensors")["classes"].split()[:2] == ["Sky", "Building"]
    folder = run("second", small(camvid, tmp_path, weights=folder / "weights.safetensors"))
    second = load("mpvss-tiny", folder / "weights.safetensors")
    assert second.motion is not None
    after = second.state_dict()
    changed = {key for key, value in first.state_dict().items() if not torch.equal(value, after[key])}
    assert changed
    assert all("class_embed" in key or "mask_embed" in key for key in changed)
    again = build(small(camvid, tmp_path, weights=folder / "weights.safetensors"))
    assert all(torch.equal(value, after[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize("motion", ["query", "flownet"])
def test_flow_is_learned_from_made_motion(motion, camvid, tmp_path):
    """Nothing but the flow learns, also that of FlowNetS, and the next stage takes it from there."""
    torch.manual_seed(0)
    save(mpvss.build("mpvss-tiny", 11, motion="none"), tmp_path / "first.safetensors")
    own: dict[str, Any] = {"motion": motion, "learns": "motion", "truth": "flow"}
    folder = run("flow", small(camvid, tmp_path, weights=tmp_path / "first.safetensors", **own))
    assert "endpoint" in (folder / "log.jsonl").read_text() or not (folder / "log.jsonl").read_text()
    second = build(small(camvid, tmp_path, motion=motion, weights=folder / "weights.safetensors"))
    first = build(small(camvid, tmp_path, motion="none", weights=tmp_path / "first.safetensors"))
    after, before = second.state_dict(), first.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert {key.split(".")[0] for key in after.keys() - before.keys()} == {"motion"}
    with pytest.raises(ValueError, match="this one has motion none"):
        sources(small(camvid, tmp_path, motion="none", truth="flow"))


def test_what_learns_in_the_second_stage(tmp_path):
    model = build(VssRecipe("mpvss-tiny"))
    groups = parameter_groups(model, lr=1.0, encoder_lr=0.1, weight_decay=0.05)
    assert {group["base_lr"] for group in groups} == {1.0}  # the flow module's encoder is not the segmentor's
    learning = sum(p.numel() for group in groups for p in group["params"])
    heads = model.segmentor.decoder.heads
    parts = [model.motion, heads.class_embed, heads.mask_embed]
    assert learning == sum(p.numel() for part in parts if part is not None for p in part.parameters())


def test_flownet_fills_the_encoder_of_the_flow_module(tmp_path):
    model = mpvss.build("mpvss-tiny", 124, motion="flownet")
    assert model.motion is not None
    state = {}
    for key, value in model.motion.pyramid.state_dict().items():
        _, stage, i, kind = key.split(".")
        state[f"conv{int(stage) + 1}.{i}.conv.{kind}"] = value
    torch.save({"state_dict": state}, tmp_path / "flownet.pth")
    filled = build(VssRecipe("mpvss-tiny", flownet=tmp_path / "flownet.pth"))
    assert filled.motion is not None
    own, theirs = (x.pyramid.state_dict() for x in (filled.motion, model.motion))
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    save(model, tmp_path / "ours.safetensors")
    again = build(VssRecipe("mpvss-tiny", flownet=tmp_path / "ours.safetensors"))
    assert again.motion is not None
    assert all(torch.equal(value, theirs[key]) for key, value in again.motion.pyramid.state_dict().items())
    with pytest.raises(ValueError, match="estimates flow; this one has motion none"):
        build(VssRecipe("mpvss-tiny", motion="none", flownet=tmp_path / "flownet.pth"))


def test_weights_of_another_kind_are_refused(tmp_path):
    save(mpvss.build("mpvss-tiny", 124, motion="flownet"), tmp_path / "flow.safetensors")
    with pytest.raises(ValueError, match="does not fit mpvss-tiny"):
        build(VssRecipe("mpvss-tiny", weights=tmp_path / "flow.safetensors"))


def test_data_that_is_missing(camvid):
    with pytest.raises(ValueError, match="give the folder of vspw"):
        sources(VssRecipe("mpvss-tiny"))
    with pytest.raises(ValueError, match="VIPSeg has the classes of vspw"):
        sources(VssRecipe("mpvss-tiny", data=Data(dataset="camvid", root=camvid, vipseg=camvid)))


def test_the_papers_recipes():
    for name, recipe in RECIPES.items():
        alone = name.startswith("mask2former-")
        assert recipe.frames == (1 if alone else 2)
        flow = name.startswith("flow-")
        assert recipe.learns == ("all" if alone else "motion" if flow else "motion and heads")
        assert recipe.truth == ("flow" if flow else "classes")
        assert recipe.model in mpvss.VARIANTS
        assert "Not run by us" in recipe.about or "camvid" in name
    vspw = RECIPES["mpvss-vspw-r50"]
    assert (vspw.steps, vspw.lr, vspw.batch * 8, vspw.clip_norm) == (90_000, 5e-5, 16, 0.01)
    assert vspw.data.short_edges == tuple(int(0.1 * 960 * k) for k in range(5, 21))
    assert replace(vspw, motion="none").frames == 1
