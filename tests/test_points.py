"""Sampling of points against a loop, and where the points come to lie."""

import pytest
import torch

from tubelet.loss.points import sample_points, sample_shared, uncertain_points, uniform_points


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bilinear(image: torch.Tensor, x: float, y: float) -> float:
    """The value at (x, y), from the four nearest pixel centres; beyond the outermost centres nothing changes."""
    h, w = image.shape
    column, row = min(max(x * w - 0.5, 0), w - 1), min(max(y * h - 0.5, 0), h - 1)
    left, top = int(column), int(row)
    right, bottom, a, b = min(left + 1, w - 1), min(top + 1, h - 1), column - left, row - top
    upper = (1 - a) * image[top, left] + a * image[top, right]
    lower = (1 - a) * image[bottom, left] + a * image[bottom, right]
    return float((1 - b) * upper + b * lower)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3)])
def test_sampling_is_bilinear_between_pixel_centres(size):
    maps, points = torch.randn(2, *size, generator=seeded()), torch.rand(2, 50, 2, generator=seeded(1))
    points[:, :4] = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    expected = [[bilinear(maps[r], *p) for p in points[r].tolist()] for r in range(2)]
    torch.testing.assert_close(sample_points(maps, points), torch.tensor(expected))


def test_the_first_coordinate_goes_to_the_right():
    maps = torch.arange(8.0).expand(1, 3, 8)
    sampled = sample_points(maps, torch.tensor([[[0.5 / 8, 0.9], [6.5 / 8, 0.1]]]))
    torch.testing.assert_close(sampled, torch.tensor([[0.0, 6.0]]))


def test_shared_points_are_the_same_points_for_each_map():
    maps, points = torch.randn(3, 4, 6, generator=seeded()), uniform_points(20, generator=seeded(1))
    torch.testing.assert_close(sample_shared(maps, points), sample_points(maps, points.expand(3, 20, 2)))


def test_a_point_is_the_same_place_at_four_times_the_size():
    small = torch.rand(1, 3, 5, generator=seeded()) > 0.5
    large = small.repeat_interleave(4, 1).repeat_interleave(4, 2)
    centres = torch.tensor([[[(x + 0.5) / 5, (y + 0.5) / 3] for y in range(3) for x in range(5)]])
    torch.testing.assert_close(sample_points(small, centres), sample_points(large, centres))


@pytest.mark.parametrize("number", [0, 1, 7])
def test_no_maps_and_few_points(number):
    assert sample_points(torch.zeros(0, 4, 5), torch.zeros(0, number, 2)).shape == (0, number)
    assert sample_points(torch.zeros(2, 4, 5), torch.zeros(2, number, 2)).shape == (2, number)
    assert sample_shared(torch.zeros(0, 4, 5), torch.zeros(number, 2)).shape == (0, number)
    assert uncertain_points(torch.zeros(0, 4, 5), number).shape == (0, number, 2)
    assert uncertain_points(torch.zeros(3, 4, 5), number).shape == (3, number, 2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.bool, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_precision_is_float32_or_what_is_given_if_better(given, expected):
    maps = (torch.randn(1, 2, 3, generator=seeded()) > 0).to(given)
    for sampled in (sample_points(maps, torch.rand(1, 9, 2)), sample_shared(maps, torch.rand(9, 2))):
        assert sampled.dtype == expected


def test_uniform_points_fill_the_square_and_repeat_with_their_seed():
    points = uniform_points(2, 2000, generator=seeded())
    assert points.shape == (2, 2000, 2)
    assert 0 <= points.min() < 0.01 < 0.99 < points.max() < 1
    assert (points.mean((0, 1)) - 0.5).abs().max() < 0.02
    assert points.equal(uniform_points(2, 2000, generator=seeded()))
    assert not points.equal(uniform_points(2, 2000, generator=seeded(1)))


@pytest.mark.parametrize(("important", "expected"), [(0.0, 0), (0.75, 30), (1.0, 40)])
def test_uncertain_points_are_the_least_certain_candidates(important, expected):
    """Against sorting the same candidates by hand: first the candidates are drawn, then the rest."""
    logits, generator = torch.randn(2, 5, 6, generator=seeded()), seeded(1)
    points = uncertain_points(logits, 40, important=important, generator=seeded(1))
    candidates, rest = (torch.rand(2, n, 2, generator=generator) for n in (120, 40 - expected))
    for r in range(2):
        by_doubt = sorted(candidates[r].tolist(), key=lambda p: abs(bilinear(logits[r], *p)))
        assert sorted(points[r, :expected].tolist()) == sorted(by_doubt[:expected])
        assert points[r, expected:].equal(rest[r])


def test_the_edge_of_the_image_is_not_uncertain():
    """All points of a constant map are equally certain, so none are preferred for being near the edge."""
    points = uncertain_points(torch.full((1, 4, 4), 8.0), 4000, important=1.0, generator=seeded())
    near = ((points < 1 / 8) | (points > 7 / 8)).any(2).float().mean()
    assert near.item() == pytest.approx(1 - (3 / 4) ** 2, abs=0.03)


def test_choosing_points_keeps_nothing_for_a_gradient():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        uncertain_points(torch.zeros(1, 3, 3, requires_grad=True), 5)
    assert not kept
