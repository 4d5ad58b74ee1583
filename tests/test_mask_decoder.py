"""The parts of the mask decoder, and the decoder: masks, shapes, time, precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tubelet.nn.mask_decoder import Attention, Heads, MaskDecoder, Prediction, attention_mask

LEVELS = ((1, 2), (2, 4), (4, 8))


def make(temporal: bool = True, layers: int = 4) -> MaskDecoder:
    torch.manual_seed(0)
    return MaskDecoder(5, 7, channels=32, layers=layers, temporal=temporal).double()


def features(frames: int, batch: int = 2) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(1)
    levels = [torch.randn(batch, frames, 32, h, w, dtype=torch.float64) for h, w in LEVELS]
    return torch.randn(batch, frames, 32, 8, 16, dtype=torch.float64), levels


def close(one: Prediction, other: Prediction) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


# ---- attention masks


def test_a_mask_is_true_where_a_query_may_look():
    logits = torch.full((1, 2, 1, 2, 2), -1.0)
    logits[0, 0, 0, 1, 0] = 2.0
    mask = attention_mask(logits, (2, 2))
    assert mask.shape == (1, 1, 2, 4)
    assert mask[0, 0, 0].tolist() == [False, False, True, False]
    assert mask[0, 0, 1].all()  # an empty mask opens the whole level


def test_a_mask_may_lie_in_one_frame_alone():
    logits = torch.full((1, 1, 3, 2, 2), -1.0)
    logits[0, 0, 1] = 1.0
    assert attention_mask(logits, (1, 2))[0, 0, 0].tolist() == [False, False, True, True, False, False]


def test_probability_one_half_is_inside():
    assert attention_mask(torch.tensor([0.0, -1e-6]).view(1, 1, 1, 1, 2), (1, 2)).flatten().tolist() == [True, False]


def test_resizing_equals_the_definition():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 8, 12, requires_grad=True)
    mask = attention_mask(logits, (3, 5))
    resized = F.interpolate(logits.flatten(0, 1), (3, 5), mode="bilinear", align_corners=False)
    assert torch.equal(mask[:, 0], (resized.sigmoid() >= 0.5).view(2, 3, -1))
    assert not mask.requires_grad


# ---- layers and heads


def test_attention_equals_torch():
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4).double(), nn.MultiheadAttention(16, 4, batch_first=True).double()
    names = {"entrance.weight": "in_proj_weight", "entrance.bias": "in_proj_bias"}
    names |= {"projection.weight": "out_proj.weight", "projection.bias": "out_proj.bias"}
    ours.load_state_dict({name: theirs.state_dict()[other] for name, other in names.items()})
    q, k, v = (torch.randn(2, n, 16, dtype=torch.float64) for n in (3, 5, 5))
    mask = torch.rand(2, 1, 3, 5) < 0.5
    mask[..., 0] = True
    blocked = ~mask.expand(2, 4, 3, 5).flatten(0, 1)
    torch.testing.assert_close(ours(q, k, v, mask), theirs(q, k, v, attn_mask=blocked)[0])
    torch.testing.assert_close(ours(q, k, v), theirs(q, k, v)[0])


def test_a_layer_does_not_read_what_is_masked():
    decoder = make()
    queries, memory = decoder.start(1), torch.randn(1, 6, 32, dtype=torch.float64)
    mask = torch.ones(1, 1, 7, 6, dtype=torch.bool)
    mask[..., 4:] = False
    changed = memory.clone()
    changed[:, 4:] += 1
    position = torch.zeros(6, 32, dtype=torch.float64)
    out = [decoder.layers[0](queries, decoder.query_position, x, position, mask) for x in (memory, changed)]
    assert torch.equal(*out)
    free = decoder.layers[0](queries, decoder.query_position, memory, position, None)
    assert not torch.allclose(out[0], free)


def test_masks_are_products_of_each_frame_with_each_query():
    torch.manual_seed(0)
    heads = Heads(8, 3)
    queries, pixels = torch.randn(2, 5, 8), torch.randn(2, 4, 8, 3, 6)
    out = heads(queries, pixels)
    vector = heads.norm(queries)
    for i, linear in enumerate(heads.mask_embed):
        vector = linear(vector.relu() if i else vector)
    torch.testing.assert_close(out.mask_logits, torch.einsum("bqc,btchw->bqthw", vector, pixels))
    assert out.class_logits.shape == (2, 5, 4)
    torch.testing.assert_close(out.embeddings, heads.norm(queries))


# ---- the decoder


@pytest.mark.parametrize("frames", [1, 3])
@torch.inference_mode()
def test_one_prediction_before_and_one_after_each_layer(frames):
    out = make()(*features(frames))
    assert len(out) == 5
    assert {tuple(x.class_logits.shape) for x in out} == {(2, 7, 6)}
    assert {tuple(x.mask_logits.shape) for x in out} == {(2, 7, frames, 8, 16)}


@torch.inference_mode()
def test_the_first_prediction_is_of_the_learned_queries():
    decoder, (pixels, levels) = make(), features(2)
    close(decoder(pixels, levels)[0], decoder.heads(decoder.start(2), pixels))


@pytest.mark.parametrize("temporal", [True, False])
@torch.inference_mode()
def test_the_short_way_to_the_last_prediction(temporal):
    decoder, given = make(temporal), features(3)
    close(decoder.last(*given), decoder(*given)[-1])


@torch.inference_mode()
def test_the_order_of_frames_matters_through_their_time_alone():
    order = torch.tensor([2, 0, 1])
    pixels, levels = features(3)
    shuffled = pixels[:, order], [x[:, order] for x in levels]
    timeless, timed = make(temporal=False), make()
    expected = timeless(pixels, levels)[-1]
    close(timeless(*shuffled)[-1], expected._replace(mask_logits=expected.mask_logits[:, :, order]))
    assert not torch.allclose(timed(*shuffled)[-1].class_logits, timed(pixels, levels)[-1].class_logits)


@torch.inference_mode()
def test_frames_in_the_batch_do_not_meet():
    decoder, (pixels, levels) = make(temporal=False), features(3, batch=1)
    folded = decoder(pixels.transpose(0, 1), [x.transpose(0, 1) for x in levels])[-1]
    alone = decoder(pixels[:, 1:2], [x[:, 1:2] for x in levels])[-1]
    close(Prediction(*(x[1:2] for x in folded)), alone)


@torch.inference_mode()
def test_levels_take_turns():
    """With one layer only the coarsest level is read, with two the next."""
    pixels, levels = features(1)
    other = [levels[0], levels[1], levels[2] + 1]
    close(make(layers=2)(pixels, levels)[-1], make(layers=2)(pixels, other)[-1])
    changed = make(layers=3)(pixels, other)[-1]
    assert not torch.allclose(make(layers=3)(pixels, levels)[-1].class_logits, changed.class_logits)


def test_gradients_reach_all_parameters():
    decoder = make()
    losses = [x.class_logits.square().sum() + x.mask_logits.square().sum() for x in decoder(*features(2))]
    torch.stack(losses).sum().backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@torch.inference_mode()
def test_mixed_precision_stays_near():
    decoder, (pixels, levels) = make(layers=3).float(), features(2)
    pixels, levels = pixels.float(), [x.float() for x in levels]
    expected = decoder(pixels, levels)[0]
    with torch.autocast("cpu", torch.bfloat16):
        out = decoder(pixels, levels)
    assert all(x.isfinite().all() for prediction in out for x in prediction)
    torch.testing.assert_close(out[0].class_logits.float(), expected.class_logits, atol=0.05, rtol=0)
    torch.testing.assert_close(out[0].mask_logits.float(), expected.mask_logits, atol=0.2, rtol=0)
