"""The pixel decoder: shapes, places, what precision touches, gradients."""

import pytest
import torch

from tubelet.nn import deform
from tubelet.nn.pixel_decoder import PixelDecoder, centres

WIDTHS = (8, 16, 24, 32)


def make() -> PixelDecoder:
    torch.manual_seed(0)
    return PixelDecoder(WIDTHS, 32, layers=2, hidden=16)


def maps(h: int, w: int, batch: int = 2, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """The encoder's maps of an image of 32h x 32w."""
    torch.manual_seed(1)
    return [torch.randn(batch, c, h * s, w * s, dtype=dtype) for c, s in zip(WIDTHS, (8, 4, 2, 1))]


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 3), (3, 2)])
@torch.inference_mode()
def test_shapes(h, w):
    out = make()(maps(h, w))
    assert out.mask_features.shape == out.finest.shape == (2, 32, 8 * h, 8 * w)
    assert [tuple(x.shape) for x in out.levels] == [(2, 32, h * s, w * s) for s in (1, 2, 4)]
    assert out.finest.min() == 0
    torch.testing.assert_close(out.mask_features, make().mask_features(out.finest))


def test_centres_are_x_then_y():
    places = centres([(1, 2), (2, 2)], torch.zeros(()))
    corners = [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert places.tolist() == [[0.25, 0.5], [0.75, 0.5], *corners]


@torch.inference_mode()
def test_images_of_a_batch_do_not_meet():
    decoder, given = make().double(), maps(2, 3, dtype=torch.float64)
    both, one = decoder(given), decoder([x[1:] for x in given])
    torch.testing.assert_close(both.mask_features[1:], one.mask_features, atol=1e-12, rtol=0)
    torch.testing.assert_close(both.levels[0][1:], one.levels[0], atol=1e-12, rtol=0)


@torch.inference_mode()
def test_positions_tell_levels_apart():
    decoder = make()
    torch.nn.init.zeros_(decoder.level_embed)
    plain = decoder.positions([(1, 2), (1, 2), (1, 2)]).view(3, 2, 32)
    torch.testing.assert_close(plain[0], plain[2])
    torch.nn.init.normal_(decoder.level_embed)
    torch.testing.assert_close(decoder.positions([(1, 2)] * 3).view(3, 2, 32), plain + decoder.level_embed[:, None])


@torch.inference_mode()
def test_in_mixed_precision_only_products_are_in_half(monkeypatch):
    """Places, offsets, weights and values reach the sampling in single precision, and the tokens leave in it."""
    decoder, given, seen = make(), maps(2, 2), []

    def watch(*inputs):
        seen.extend(x.dtype for x in inputs[:4])
        return deform.deformable_attention_plain(*inputs)

    expected = decoder(given)
    monkeypatch.setattr(deform, "deformable_attention", watch)
    with torch.autocast("cpu", torch.bfloat16):
        outs = decoder(given), decoder([x.bfloat16() for x in given])
    assert len(seen) == 2 * 2 * 4
    assert set(seen) == {torch.float32}
    for out in outs:
        assert out.mask_features.dtype == torch.bfloat16
        assert {x.dtype for x in out.levels} == {torch.float32}
        for a, b in zip((*out.levels, out.mask_features.float()), (*expected.levels, expected.mask_features)):
            torch.testing.assert_close(a, b, atol=0.1, rtol=0)
            assert (a - b).abs().mean() < 0.02


def test_while_learning_all_of_the_deformable_layers_is_in_single_precision():
    decoder, given = make(), maps(2, 2)
    expected = decoder.attend(given[:0:-1])
    with torch.autocast("cpu", torch.bfloat16):
        levels = decoder.attend(given[:0:-1])
    for a, b in zip(levels, expected, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_gradients_reach_all_parameters():
    """Once the offsets depend on the query at all, which at first they do not."""
    decoder = make()
    for layer in decoder.layers:
        torch.nn.init.normal_(layer.attention.offsets.weight, std=0.1)  # pyright: ignore
    out = decoder(maps(2, 2))
    torch.stack([x.square().sum() for x in (out.mask_features, *out.levels)]).sum().backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
