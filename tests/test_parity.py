"""Recorded outputs of the reference implementations, reproduced through our own converters.

`TUBELET_PARITY=/some/folder pytest tests/test_parity.py` runs any other cases of the same layout.
"""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tubelet.models import mask2former, mpvss
from tubelet.models.aot import model as aot
from tubelet.models.aot.memory import Group, merge_groups
from tubelet.models.aot.official import our_name
from tubelet.weights import fill

HERE = Path(__file__).parent / "parity"
ROOT = Path(os.environ.get("TUBELET_PARITY", HERE))


def load_fill():
    """The recipe for weights and inputs: the one beside the cases, else ours."""
    path = next(p for p in (ROOT / "fill.py", HERE / "fill.py") if p.is_file())
    spec = importlib.util.spec_from_file_location("parity_fill", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILL = load_fill()


def cases(folder: str) -> list[Path]:
    return sorted((ROOT / folder).glob("*.npz"))


def agrees(ours: torch.Tensor, recorded: np.ndarray) -> None:
    assert ours.shape == recorded.shape
    difference = np.abs(ours.numpy() - recorded)
    assert difference.max() <= 1e-3
    assert difference.mean() <= 1e-4


def variant(name: str) -> str:
    """`r50_aotl` -> `r50-aot-l`: the reference leaves out our hyphens."""
    return next(v for v in aot.VARIANTS if v.replace("-", "") == name.lower().replace("_", "").replace("-", ""))


def rectangles(t: int, objects: int, size: tuple[int, int]) -> np.ndarray:
    """The masks of the cases: moving rectangles, later ones in front."""
    h, w = size
    labels = np.zeros(size, np.uint8)
    for o in range(objects):
        y, x = (17 * o + 5 * t) % (h - 40), (29 * o + 7 * t) % (w - 48)
        labels[y : y + 36, x : x + 44] = o + 1
    return labels


class Follower:
    """The protocol of the AOT cases, over the same groups that a session uses."""

    def __init__(self, model: aot.AOT, gap: int, depth: int):
        self.model, self.gap, self.depth = model, gap, depth
        self.groups: list[Group] = []

    def refer(self, frame, labels: torch.Tensor, objects: int, step: int) -> None:
        for o in range(1, objects + 1):
            if not any(o in group.slots for group in self.groups):
                if not self.groups or self.groups[-1].full:
                    self.groups.append(Group(self.model, gap=self.gap, cap=None))
                self.groups[-1].assign(o)
        for group in self.groups:
            group.refer(frame, labels, step)

    def predict(self, frame) -> torch.Tensor:
        return merge_groups([group.predict(frame, self.depth) for group in self.groups])

    def memorize(self, labels: torch.Tensor, step: int) -> None:
        for group in self.groups:
            group.memorize(labels, step)


def run_aot(model: aot.AOT, case: dict, expected_shape: tuple[int, ...]) -> np.ndarray:
    size = tuple(case["size"])
    frames = torch.from_numpy(FILL.noise(case["input_name"], (case["frames"], 3, *size)))
    new, new_at = case.get("new_objects", 0), case.get("new_objects_at", case["frames"])
    follower = Follower(model, case["long_term_gap"], model.check_depth(case.get("depth")))
    out = np.zeros(expected_shape, np.float32)
    for t in range(case["frames"]):
        objects = case["objects"] + (new if t >= new_at else 0)
        labels = torch.from_numpy(rectangles(t, objects, size))
        frame = model.encode_image(frames[t][None])
        if t == 0:
            follower.refer(frame, labels, objects, 0)
            continue
        logits = follower.predict(frame)
        out[t - 1, : len(logits)] = logits.float().numpy()
        if new and t == new_at:
            follower.refer(frame, labels, objects, t)
        else:
            follower.memorize(labels, t)
    return out


def parameters_used(model: aot.AOT, depth: int, layout: dict) -> int:
    """The parameters of the network of that depth, as the reference counts them (with its unused mask token)."""
    unused = [part for parts in (model.lstt.blocks, model.lstt.norms) for part in parts[depth:]]
    unused += model.decoder.entrances[depth:]
    count = sum(p.numel() for p in model.parameters()) - sum(p.numel() for part in unused for p in part.parameters())
    return count + (256 if "LSTT.mask_token" in layout else 0)


@pytest.mark.parametrize("path", cases("aot"), ids=lambda p: p.stem)
@torch.inference_mode()
def test_aot(path: Path):
    stored = np.load(path)
    case, expected = json.loads(str(stored["case"])), stored["logits"]
    layout = json.loads(path.with_suffix(".layout.json").read_text())
    model = aot.build(variant(case["model"])).eval()
    state = {name: torch.from_numpy(value) for name, value in FILL.weights(layout).items()}
    fill(model, state, name=case["model"], source=path.name)
    if "parameters" in case:
        assert parameters_used(model, model.check_depth(case.get("depth")), layout) == case["parameters"]
    agrees(torch.from_numpy(run_aot(model, case, expected.shape)), expected)


@pytest.mark.parametrize("path", cases("aot"), ids=lambda p: p.stem)
def test_every_official_name_is_known(path: Path):
    layout = json.loads(path.with_suffix(".layout.json").read_text())
    ours = [our_name(name) for name in layout]
    kept = [name for name in ours if name is not None]
    assert len(kept) == len(set(kept))


ENCODERS = {"R50": "r50", "R101": "r101", "tiny": "swin-t", "small": "swin-s", "base": "swin-b", "large": "swin-l"}


def mask2former_variant(config: str) -> str:
    """The reference's configuration, `video_maskformer2_R50_bs16_8ep.yaml` or `.../..._swin_tiny_...` -> our name."""
    word = next(word for word in Path(config).stem.split("_") if word in ENCODERS)
    return f"mask2former-vis-{ENCODERS[word]}"


@pytest.mark.parametrize("path", cases("mask2former_vis"), ids=lambda p: p.stem)
@torch.inference_mode()
def test_mask2former_vis(path: Path):
    stored = np.load(path)
    case = json.loads(str(stored["case"]))
    layout = json.loads(path.with_suffix(".layout.json").read_text())
    name, queries = mask2former_variant(case["config"]), stored["pred_logits"].shape[1]
    model = mask2former.build(name, case["num_classes"], queries).eval()
    state = {key: torch.from_numpy(value) for key, value in FILL.weights(layout).items()}
    assert fill(model, state, name=name, source=path.name) == []
    assert sum(p.numel() for p in model.parameters()) == case["parameters"]
    dtype = getattr(torch, case["dtype"])
    frames = torch.from_numpy(FILL.noise(case["input_name"], (1, case["frames"], 3, *case["size"]))).to(dtype)
    clip = model.to(dtype).encode(frames)
    for out in (model.decode(clip)[-1], model.decode_last(clip)):
        agrees(out.class_logits, stored["pred_logits"])
        agrees(out.mask_logits, stored["pred_masks"])


def mpvss_variant(config: str) -> str:
    """The reference's configuration, `MPVSS-VSPW-R50.yaml` or `MPVSS-VSPW-swin_tiny.yaml` -> our name."""
    word = next(word for word in Path(config).stem.replace("-", "_").split("_") if word in ENCODERS)
    return f"mpvss-{ENCODERS[word]}"


@pytest.mark.parametrize("path", cases("mpvss"), ids=lambda p: p.stem)
@torch.inference_mode()
def test_mpvss(path: Path):
    stored = np.load(path)
    case = json.loads(str(stored["case"]))
    layout = json.loads(path.with_suffix(".layout.json").read_text())
    name = mpvss_variant(case["config"])
    model = mpvss.build(name, case["num_classes"], grid="authors", frozen_norm=False).eval()
    state = {key: torch.from_numpy(value) for key, value in FILL.weights(layout).items()}
    assert fill(model, state, name=name, source=path.name) == []
    assert sum(p.numel() for p in model.parameters()) == case["parameters"]
    noise = FILL.noise(case["input_name"], (case["frames"], 3, *case["size"]))
    frames = torch.from_numpy(np.clip(127 + 60 * noise, 0, 255)).to(getattr(torch, case["dtype"]))
    model.to(frames.dtype)
    key = model.segment(frames[:1] / 255)
    found = key.prediction
    agrees(found.class_logits, stored["key_logits"])
    agrees(found.mask_logits[:, :, 0], stored["key_masks"])
    flows = None
    for t, expected in enumerate(stored["sem_seg"]):
        masks = found.mask_logits
        if t:
            flows = model.flows(frames[t, None] / 255, key.picture, found.embeddings)
            masks = model.carry(masks, flows)
        enlarged = torch.nn.functional.interpolate(masks[:, :, 0], scale_factor=4, mode="bilinear", align_corners=False)
        agrees(mpvss.class_scores(found.class_logits[0], enlarged[0])[::4, ::4, ::4], expected)
    assert flows is not None
    agrees(flows[0, ::5], stored["last_flow"])
