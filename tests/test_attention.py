"""Attention over everything and over windows; the fast local attention equals the plain one."""

import pytest
import torch

from tubelet.nn.attention import (
    LocalAttention,
    MultiHeadAttention,
    attend,
    inside_window,
    local_attention,
    local_attention_plain,
)


def local_inputs(h: int, w: int, *, window: int, heads: int = 2, d: int = 4, dtype=torch.float32) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(h * 100 + w)
    shapes = [(2, heads, h, w, d)] * 3 + [(2, heads, h, w, window**2), (heads, d, window**2)]
    return [torch.randn(shape, generator=g, dtype=dtype) for shape in shapes]


def test_attend_is_explicit_softmax():
    q, k, v = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    expected = []
    for head in range(3):
        c = slice(4 * head, 4 * head + 4)
        weights = (q[..., c] @ k[..., c].transpose(1, 2) / 4**0.5).softmax(-1)
        expected.append(weights @ v[..., c])
    torch.testing.assert_close(attend(q, k, v, 3), torch.cat(expected, -1), atol=1e-5, rtol=0)


def test_one_key_is_copied():
    v = torch.randn(1, 1, 8)
    torch.testing.assert_close(attend(torch.randn(1, 3, 8), torch.randn(1, 1, 8), v, 2), v.expand(1, 3, 8))


def test_multi_head_attention_projects_each_of_its_inputs():
    m = MultiHeadAttention(8, 2)
    q, k, v = torch.randn(1, 3, 8), torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    torch.testing.assert_close(m(q, k, v), m.projection(attend(m.query(q), m.key(k), m.value(v), 2)))


SIZES = [(1, 1), (1, 9), (2, 3), (15, 15), (16, 16), (8, 24), (17, 5), (9, 23), (31, 18)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", [1, 3, 15])
def test_fast_is_plain(size, window):
    inputs = local_inputs(*size, window=window)
    torch.testing.assert_close(
        local_attention(*inputs, window=window), local_attention_plain(*inputs, window=window), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("tile", [1, 2, 5, 8, 40])
def test_any_tile_is_plain(tile):
    inputs = local_inputs(9, 14, window=7)
    torch.testing.assert_close(
        local_attention(*inputs, window=7, tile=tile), local_attention_plain(*inputs, window=7), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("size", [(1, 1), (6, 4), (11, 9), (13, 12)])
def test_gradients_are_plain(size):
    inputs = [x.requires_grad_() for x in local_inputs(*size, window=5, dtype=torch.float64)]
    goal = torch.randn(2, 2, *size, 4, dtype=torch.float64)
    fast = torch.autograd.grad((local_attention(*inputs, window=5) * goal).sum(), inputs)
    plain = torch.autograd.grad((local_attention_plain(*inputs, window=5) * goal).sum(), inputs)
    for a, b in zip(fast, plain):
        torch.testing.assert_close(a, b)


def test_bf16_is_close():
    inputs = local_inputs(11, 20, window=7)
    exact = local_attention_plain(*inputs, window=7)
    half = local_attention(*(x.bfloat16() for x in inputs), window=7)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.06
    assert (half.float() - exact).abs().mean() < 0.01


def test_offsets_are_row_major_from_minus_to_plus_radius():
    """A huge relative score for offset (dy, dx) = (-1, +1) makes every query read the key up and to the right."""
    q, k, v, relative, relative_value = local_inputs(4, 5, window=3)
    relative[..., 2] = 1e4
    for attention in (local_attention, local_attention_plain):
        out = attention(q, k, v, relative, torch.zeros_like(relative_value), window=3)
        torch.testing.assert_close(out[:, :, 1:, :-1], v[:, :, :-1, 1:])
        out = attention(q, k, torch.zeros_like(v), relative, relative_value, window=3)
        torch.testing.assert_close(out[0, :, 1, 1], relative_value[..., 2])


def test_keys_outside_the_map_do_not_exist():
    """On a map of one place the only key is the place itself, whatever the scores say."""
    q, k, v, relative, relative_value = local_inputs(1, 1, window=15)
    out = local_attention(q, k, v, relative, relative_value, window=15)
    torch.testing.assert_close(out, v + relative_value[None, :, None, None, :, 112])


def test_inside_window():
    inside = inside_window(2, 3, 3, torch.device("cpu"))
    assert inside.shape == (2, 3, 9)
    assert inside[0, 0].tolist() == [False, False, False, False, True, True, False, True, True]
    assert inside[1, 2].tolist() == [True, True, False, True, True, False, False, False, False]


def test_local_attention_layer_against_a_loop():
    """Layer level: scaled dot product, relative key from the unscaled query, heads own neighbouring channels."""
    layer, (h, w) = LocalAttention(8, 2, window=3), (3, 4)
    torch.nn.init.normal_(layer.relative_value)
    q, k, v = (torch.randn(1, h * w, 8) for _ in range(3))
    expected = torch.zeros(1, h * w, 8)
    bias = layer.relative_key.bias
    assert bias is not None
    for place in range(h * w):
        for head in range(2):
            c = slice(4 * head, 4 * head + 4)
            scores, values = [], []
            for offset in range(9):
                y, x = place // w + offset // 3 - 1, place % w + offset % 3 - 1
                if 0 <= y < h and 0 <= x < w:
                    row = head * 9 + offset
                    relative = layer.relative_key.weight[row, :, 0, 0] @ q[0, place, c] + bias[row]
                    scores.append(q[0, place, c] @ k[0, y * w + x, c] / 2 + relative)
                    values.append(v[0, y * w + x, c] + layer.relative_value[head, :, offset])
            expected[0, place, c] = torch.stack(scores).softmax(0) @ torch.stack(values)
    torch.testing.assert_close(layer(q, k, v, (h, w)), layer.projection(expected), atol=1e-5, rtol=0)
