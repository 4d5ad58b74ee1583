"""Deformable attention: the fast form equals the definition, in value and in gradient."""

import pytest
import torch

from tubelet.nn.deform import DeformableAttention, deformable_attention, deformable_attention_plain, softmax

SIZES = [(1, 2), (3, 2), (5, 4)]


def inputs(dtype: torch.dtype, batch: int = 2, spread: float = 3.0):
    torch.manual_seed(0)
    places = sum(h * w for h, w in SIZES)
    value = torch.randn(batch, places, 2, 4, dtype=dtype)
    offsets = spread * torch.randn(batch, 7, 2, 3, 4, 2, dtype=dtype)
    weights = torch.randn(batch, 7, 2, 12, dtype=dtype).softmax(-1).unflatten(3, (3, 4))
    return value, torch.rand(7, 2, dtype=dtype), offsets, weights


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 1e4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_fast_equals_plain(dtype, tolerance, spread):
    given = inputs(dtype, spread=spread)
    torch.testing.assert_close(
        deformable_attention(*given, SIZES), deformable_attention_plain(*given, SIZES), atol=tolerance, rtol=0
    )


def test_learning_takes_the_plain_form():
    """To the bit, with gradients for all that is learned; without gradients the forms differ by rounding."""
    value, places, offsets, weights = inputs(torch.float32)
    leaves = [x.requires_grad_() for x in (value, offsets, weights)]
    out, plain = (f(value, places, offsets, weights, SIZES) for f in (deformable_attention, deformable_attention_plain))
    assert torch.equal(out, plain)
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(out.square().sum(), leaves))
    with torch.no_grad():
        assert not torch.equal(deformable_attention(value, places, offsets, weights, SIZES), plain)


def test_on_the_edge_of_the_map():
    """Whole pixels up to two outside, where the corners change hands."""
    value = torch.arange(1.0, 7, dtype=torch.float64).view(1, 6, 1, 1)
    steps = torch.arange(-2.0, 5)
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=2).double().view(1, 49, 1, 1, 1, 2)
    corner = torch.tensor([[0.5 / 3, 0.5 / 2]], dtype=torch.float64).expand(49, 2)
    out = deformable_attention(value, corner, offsets, torch.ones(1, 49, 1, 1, 1, dtype=torch.float64), [(2, 3)])
    expected = torch.zeros(7, 7, dtype=torch.float64)
    expected[2:4, 2:5] = value.view(2, 3)
    torch.testing.assert_close(out.view(7, 7), expected, atol=1e-12, rtol=0)


def test_batched_equals_single():
    value, places, offsets, weights = inputs(torch.float64, batch=3)
    both = deformable_attention(value, places, offsets, weights, SIZES)
    one = deformable_attention(value[2:], places, offsets[2:], weights[2:], SIZES)
    torch.testing.assert_close(both[2:], one, atol=0, rtol=0)


def test_the_first_offsets_are_eight_directions():
    module = DeformableAttention(32)
    offsets = module.offsets.bias.view(8, 3, 4, 2)
    assert offsets[0, :, :, 0].tolist() == [[1, 2, 3, 4]] * 3
    assert offsets[0, :, :, 1].abs().max() < 1e-6
    torch.testing.assert_close(offsets.abs().amax(-1), torch.arange(1.0, 5).expand(8, 3, 4))
    torch.testing.assert_close(offsets[1, 0, 0], torch.ones(2))
    torch.testing.assert_close(offsets[:4], -offsets[4:])


def test_the_module_at_first_is_a_mean_of_the_surroundings():
    """Constant memory, all samples inside: the result is the two projections of the constant."""
    torch.manual_seed(0)
    module = DeformableAttention(16, heads=8, levels=1).double()
    memory = torch.randn(1, 1, 16, dtype=torch.float64).expand(1, 121, 16)
    out = module(memory[:, :1], torch.tensor([[0.5, 0.5]], dtype=torch.float64), memory, [(11, 11)])
    torch.testing.assert_close(out, module.projection(module.value(memory[:, :1])))


def test_offsets_are_those_of_the_layer_in_single_precision_always():
    torch.manual_seed(0)
    module, query = DeformableAttention(16), torch.randn(2, 5, 16)
    torch.nn.init.normal_(module.offsets.weight)
    expected = module.offsets(query).view(2, 5, 8, 3, 4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        looked = module.look(query)
    torch.testing.assert_close(looked.view(2, 5, 2, 8, 3, 4).movedim(2, -1), expected, atol=1e-5, rtol=0)


def test_softmax_is_over_the_last_axis():
    x = 30 * torch.randn(2, 5, 8, 12)
    torch.testing.assert_close(softmax(x), x.softmax(-1))
