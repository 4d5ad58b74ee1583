"""The matching against loops over pixels and over all assignments."""

import math
from itertools import permutations

import pytest
import torch

from tubelet.loss.match import Match, Weights, assign, mask_costs, match, match_subclips, pair_sums
from tubelet.loss.points import sample_points

POINTS = 30


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def example(q=5, n=3, t=2, k=4, size=(6, 7), scale=4, seed=0):
    """Class logits, mask logits, classes, masks `scale` times larger, each visible in each frame."""
    g = seeded(seed)
    masks = torch.rand(n, t, scale * size[0], scale * size[1], generator=g) > 0.6
    classes = torch.randint(0, k, (n,), generator=g)
    return torch.randn(q, k + 1, generator=g), 2 * torch.randn(q, t, *size, generator=g), classes, masks


def plain_cost(class_logits, mask_logits, classes, masks, *, seed, weights=(2, 5, 5), points=POINTS):
    """Query by query and point by point, on the points that this seed draws."""
    place = torch.rand(points, 2, generator=seeded(seed))
    cost = torch.zeros(len(class_logits), len(classes), dtype=torch.float64)
    for q in range(len(class_logits)):
        for n in range(len(classes)):
            x = [v for mask in mask_logits[q] for v in sample_points(mask[None].double(), place[None])[0].tolist()]
            y = [v for mask in masks[n] for v in sample_points(mask[None].double(), place[None])[0].tolist()]
            p = [1 / (1 + math.exp(-v)) for v in x]
            entropy = sum(-b * math.log(a) - (1 - b) * math.log(1 - a) for a, b in zip(p, y)) / len(p)
            dice = 1 - (2 * sum(a * b for a, b in zip(p, y)) + 1) / (sum(p) + sum(y) + 1)
            probability = class_logits[q].double().softmax(0)[classes[n]]
            cost[q, n] = weights[0] * -probability + weights[1] * entropy + weights[2] * dice
    return cost


def cheapest(cost: torch.Tensor) -> float:
    """The least total cost over all assignments of min(Q, N) pairs."""
    cost = cost if cost.shape[0] >= cost.shape[1] else cost.T
    queries, instances = cost.shape
    return min(sum(cost[q, n].item() for n, q in enumerate(p)) for p in permutations(range(queries), instances))


def pairs(found: Match) -> list[tuple[int, int]]:
    return list(zip(found.truths.tolist(), found.queries.tolist()))


def squares(t: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Three instances, the left, middle and right third, and the logits of queries that see 2, 0, nothing, 1."""
    masks = torch.zeros(3, t, 12, 12, dtype=torch.bool)
    for n in range(3):
        masks[n, :, :, 4 * n : 4 * n + 4] = True
    thirds = masks[..., ::4, ::4].float() * 20 - 10
    return torch.stack((thirds[2], thirds[0], torch.full_like(thirds[0], -10), thirds[1])), masks


@pytest.mark.parametrize(("q", "n"), [(1, 1), (4, 1), (5, 3), (3, 3), (2, 4), (4, 0)])
@pytest.mark.parametrize("t", [1, 3])
@pytest.mark.parametrize("weights", [Weights(), Weights(classes=0.5, bce=0, dice=7), Weights(0, 1, 0)])
def test_the_match_is_the_cheapest_of_all(q, n, t, weights):
    parts = example(q, n, t)
    found = match(*parts, weights=weights, points=POINTS, generator=seeded(3))
    cost = plain_cost(*parts, seed=3, weights=weights)
    assert len(found.queries) == len(set(found.queries.tolist())) == min(q, n)
    assert found.truths.tolist() == sorted(set(found.truths.tolist()))
    assert cost[found.queries, found.truths].sum().item() == pytest.approx(cheapest(cost), abs=1e-5)


@pytest.mark.parametrize("frames", [[[0]], [[0, 1, 2]], [[0, 1], [0, 2], [1, 2]], [[2, 0], [1, 1]]])
def test_costs_of_sub_clips_are_those_of_the_cut_masks(frames):
    class_logits, mask_logits, classes, masks = example(t=3)
    place = torch.rand(1, POINTS, 2, generator=seeded(3))
    logits, truth = (
        torch.stack([sample_points(tube, place.expand(3, -1, -1)) for tube in tubes]) for tubes in (mask_logits, masks)
    )
    costs = mask_costs(pair_sums(logits, truth), torch.tensor(frames))
    for cost, kept in zip(costs, frames):
        cut = mask_logits[:, kept], classes, masks[:, kept]
        torch.testing.assert_close(cost, plain_cost(class_logits, *cut, seed=3, weights=(0, 5, 5)).float())


def test_sub_clips_are_matched_independently():
    class_logits, mask_logits, classes, masks = example(q=9, n=4, t=4)
    frames = torch.tensor([[0, 1], [0, 2], [1, 3], [2, 3]])
    found = match_subclips(class_logits, mask_logits, classes, masks, frames, points=POINTS, generator=seeded(3))
    for got, kept in zip(found, frames.tolist()):
        cut = class_logits, mask_logits[:, kept], classes, masks[:, kept]
        assert pairs(got) == pairs(match(*cut, points=POINTS, generator=seeded(3)))
    assert len({tuple(pairs(got)) for got in found}) > 1


@pytest.mark.parametrize("t", [1, 2])
@pytest.mark.parametrize("scale", [1, 4])
def test_instances_find_the_queries_that_see_them(t, scale):
    mask_logits, masks = squares(t)
    masks = masks.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    found = match(torch.zeros(4, 2), mask_logits, torch.zeros(3, dtype=torch.long), masks, points=200)
    assert pairs(found) == [(0, 1), (1, 3), (2, 0)]


def test_among_equal_masks_the_class_decides():
    mask_logits, masks = squares()
    class_logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, 4.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    found = match(class_logits, mask_logits[:1].expand(4, -1, -1, -1), torch.tensor([1, 0]), masks[[2, 2]], points=50)
    assert pairs(found) == [(0, 1), (1, 2)]


def test_permuting_the_truth_permutes_the_match():
    class_logits, mask_logits, classes, masks = example(q=8, n=5)
    order = torch.tensor([3, 0, 4, 1, 2])
    found = match(class_logits, mask_logits, classes, masks, points=POINTS, generator=seeded(3))
    again = match(class_logits, mask_logits, classes[order], masks[order], points=POINTS, generator=seeded(3))
    assert again.queries.tolist() == found.queries[order].tolist()


def test_padding_to_a_larger_image_changes_nothing_that_matters():
    mask_logits, masks = squares()
    padded = torch.nn.functional.pad(mask_logits, (0, 2, 0, 1), value=-10), torch.nn.functional.pad(masks, (0, 8, 0, 4))
    classes = torch.zeros(3, dtype=torch.int32)
    found = match(torch.zeros(4, 2), padded[0], classes, padded[1], points=500, generator=seeded())
    assert pairs(found) == [(0, 1), (1, 3), (2, 0)]


def test_what_no_frame_shows_is_not_matched():
    class_logits, mask_logits, classes, masks = example(n=4, t=3)
    masks[1] = False
    masks[2, :2] = False
    frames = torch.tensor([[0, 1, 2], [0, 1, 0], [2, 2, 2]])
    found = match_subclips(class_logits, mask_logits, classes, masks, frames, points=POINTS)
    assert [m.truths.tolist() for m in found] == [[0, 2, 3], [0, 3], [0, 2, 3]]
    assert match(class_logits, mask_logits, classes, masks, points=POINTS).truths.tolist() == [0, 2, 3]
    assert match(class_logits, mask_logits, classes, masks & False, points=POINTS).queries.tolist() == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_computed_in_float32_or_better(dtype):
    class_logits, mask_logits, classes, masks = example(q=8, n=5)
    class_logits, mask_logits = class_logits.to(dtype), mask_logits.to(dtype)
    found = match(class_logits, mask_logits, classes, masks, points=POINTS, generator=seeded(3))
    wide = match(class_logits.double(), mask_logits.double(), classes, masks, points=POINTS, generator=seeded(3))
    assert pairs(found) == pairs(wide)


def test_autocast_does_not_reach_the_cost():
    """In bfloat16 the masks of these queries would cost the same."""
    mask_logits = torch.linspace(0.40, 0.401, 4)[:, None, None, None].expand(4, 1, 3, 3)
    masks = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = match(torch.zeros(4, 3), mask_logits, torch.tensor([0]), masks, weights=Weights(0, 1, 0))
    assert pairs(found) == [(0, 3)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("part", [0, 1])
def test_a_cost_that_is_not_finite_names_the_clip(value, part):
    parts = example()
    parts[part].view(-1)[0] = value
    kind = ("class", "mask")[part]
    with pytest.raises(FloatingPointError, match=f"cost of cat_12 is not finite: .*1 of {parts[part].numel()} {kind}"):
        match(*parts, points=500, generator=seeded(), name="cat_12")
    with pytest.raises(FloatingPointError, match="cost of a clip is"):
        match(*parts, points=500, generator=seeded())


@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_class_out_of_range_is_told(wrong):
    class_logits, mask_logits, classes, masks = example(k=4)
    classes[1] = wrong
    with pytest.raises(ValueError, match=rf"dog has the classes \[{wrong}\], but those of the logits are 0..3"):
        match(class_logits, mask_logits, classes, masks, name="dog")


def test_very_certain_logits_have_a_finite_cost():
    class_logits, mask_logits, classes, masks = example()
    found = match(1e6 * class_logits, 1e6 * mask_logits, classes, masks, points=POINTS)
    assert len(found.queries) == 3


def test_assign_of_nothing():
    for cost in (torch.zeros(4, 0), torch.zeros(0, 3)):
        found = assign(cost, torch.ones(cost.shape[1], dtype=torch.bool))
        assert pairs(found) == []
        assert found.queries.dtype == found.truths.dtype == torch.long
