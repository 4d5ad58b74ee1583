"""Mask2Former as a whole: sizes, variants, official names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tubelet.models import mask2former
from tubelet.models.mask2former_official import looks_official, our_name, our_state

PARITY = Path(__file__).parent / "parity" / "mask2former_vis"
# Frozen statistics and scales are not parameters: with them ResNet-101 has the 63.0 of the paper's table.
PARAMETERS = {"r50": 44.0, "r101": 62.9, "swin-t": 47.4, "swin-s": 68.7, "swin-b": 106.9, "swin-l": 215.5, "tiny": 1.7}


def make(**options) -> mask2former.Mask2Former:
    """A small Swin, for speed; the other sizes differ in widths only."""
    from tubelet.nn.swin import SwinTransformer

    torch.manual_seed(0)
    encoder = SwinTransformer(32, (1, 1, 1, 1), (1, 2, 4, 8))
    return mask2former.Mask2Former(encoder, classes=3, queries=6, **options).eval()


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameters(variant):
    with torch.device("meta"):
        model = mask2former.build(f"mask2former-vis-{variant}")
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(PARAMETERS[variant], abs=0.06)
    assert model.queries == {"swin-l": 200, "tiny": 20}.get(variant, 100)


def test_all_variants_are_counted():
    assert set(mask2former.VARIANTS) == {f"mask2former-vis-{variant}" for variant in PARAMETERS}


@pytest.mark.parametrize(("frames", "h", "w"), [(1, 32, 32), (2, 32, 96), (3, 64, 32)])
@torch.inference_mode()
def test_shapes(frames, h, w):
    model = make()
    encoded = model.encode(torch.randn(2, frames, 3, h, w))
    assert encoded.mask_features.shape == (2, frames, 256, h // 4, w // 4)
    assert [x.shape[3] for x in encoded.levels] == [h // 32, h // 16, h // 8]
    out = model.decode(encoded)
    assert len(out) == 10
    assert {tuple(x.class_logits.shape) for x in out} == {(2, 6, 4)}
    assert {tuple(x.mask_logits.shape) for x in out} == {(2, 6, frames, h // 4, w // 4)}


@torch.inference_mode()
def test_the_short_way_equals_the_long_one():
    model = make().double()
    encoded = model.encode(torch.randn(1, 2, 3, 64, 32, dtype=torch.float64))
    for a, b in zip(model.decode_last(encoded), model.decode(encoded)[-1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@torch.inference_mode()
def test_frames_are_encoded_one_by_one():
    model = make().double()
    images = torch.randn(2, 3, 3, 32, 64, dtype=torch.float64)
    clip, frame = model.encode(images), model.encode(images[1:, 2:])
    torch.testing.assert_close(clip.mask_features[1:, 2:], frame.mask_features, atol=1e-10, rtol=0)
    torch.testing.assert_close(clip.levels[1][1:, 2:], frame.levels[1], atol=1e-10, rtol=0)


@torch.inference_mode()
def test_clips_of_a_batch_do_not_meet():
    model = make().double()
    images = torch.randn(2, 2, 3, 32, 64, dtype=torch.float64)
    both, one = model.decode(model.encode(images))[-1], model.decode(model.encode(images[1:]))[-1]
    torch.testing.assert_close(both.mask_logits[1:], one.mask_logits, atol=1e-9, rtol=0)


@torch.inference_mode()
def test_the_image_model_does_not_know_the_order_of_frames():
    model, images = make(temporal=False).double(), torch.randn(1, 3, 3, 32, 32, dtype=torch.float64)
    one, other = (model.decode(model.encode(x))[-1] for x in (images, images.flip(1)))
    torch.testing.assert_close(one.class_logits, other.class_logits, atol=1e-9, rtol=0)
    torch.testing.assert_close(one.mask_logits, other.mask_logits.flip(2), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("h", "w"), [(33, 32), (32, 48), (16, 32)])
def test_other_sizes_are_refused(h, w):
    with pytest.raises(ValueError, match=f"multiples of 32, got {h}x{w}; pad the frame first"):
        make().encode(torch.randn(1, 1, 3, h, w))


def test_gradients_reach_all_parameters():
    """Once the offsets of the pixel decoder depend on the query at all, which at first they do not."""
    model = make()
    for layer in model.pixel_decoder.layers:
        torch.nn.init.normal_(layer.attention.offsets.weight, std=0.1)  # pyright: ignore
    out = model.decode(model.encode(torch.randn(1, 2, 3, 64, 64)))
    torch.stack([x.class_logits.square().sum() + x.mask_logits.square().sum() for x in out]).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@torch.inference_mode()
def test_mixed_precision():
    model, images = make(), torch.randn(1, 2, 3, 64, 32)
    expected = model.encode(images)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model.encode(images)
        out = model.decode(encoded)[-1]
    assert encoded.levels[0].dtype == torch.float32
    assert (encoded.mask_features.float() - expected.mask_features).abs().mean() < 0.05
    assert out.mask_logits.isfinite().all()


def test_a_frame_is_encoded_without_a_graph_break():
    """In a process of its own: the shape checks of the tests break graphs."""
    script = """
import torch
from tubelet.models.mask2former import build
model, images = build("mask2former-vis-tiny").eval(), torch.randn(1, 1, 3, 64, 96)
for enabled in (False, True):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        compiled = torch.compile(model.encode, fullgraph=True, backend="eager")(images)
        difference = (compiled.mask_features.float() - model.encode(images).mask_features.float()).abs().max()
    assert difference < (0.05 if enabled else 1e-4), difference
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


# ---- official names


def layout(case: str) -> dict[str, torch.Tensor]:
    """A state dict with the authors' names; the reference's index buffers are left out."""
    shapes = json.loads((PARITY / f"{case}.layout.json").read_text())
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items() if shape is not None}


@pytest.mark.parametrize(("case", "variant"), [("r50", "r50"), ("swin_t", "swin-t")])
def test_every_official_name_is_known(case, variant):
    with torch.device("meta"):
        own = mask2former.build(f"mask2former-vis-{variant}").state_dict()
    official = layout(case)
    assert looks_official(set(official))
    assert not looks_official(set(own))
    ours = our_state(official)
    assert {name: x.shape for name, x in ours.items()} == {name: x.shape for name, x in own.items()}


def test_what_the_network_does_not_read_is_left_out():
    for name in ("criterion.empty_weight", "pixel_mean", "backbone.layers.0.blocks.0.attn.relative_position_index"):
        assert our_name(name) is None
    assert our_name("sem_seg_head.predictor.new.weight") == "decoder.new.weight"


def test_the_old_name_of_the_queries():
    state = layout("r50")
    old = {name.replace("query_feat", "static_query"): x for name, x in state.items()}
    assert our_state(old).keys() == our_state(state).keys()
    with pytest.raises(ValueError, match=r"holds decoder\.query_content twice, once as .*static_query"):
        our_state({**state, **old})


def test_the_index_of_swin_is_checked():
    from tubelet.nn.swin import relative_position_index

    name = "backbone.layers.0.blocks.0.attn.relative_position_index"
    assert our_state({name: relative_position_index(7)}) == {}
    for wrong in (relative_position_index(7).T, torch.zeros(5, dtype=torch.long)):
        with pytest.raises(ValueError, match="numbers the displacements of a window in another order"):
            our_state({name: wrong})
