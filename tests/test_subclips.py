"""Sub-clips, and the synchronized loss against the plain loss of cut tensors."""

from itertools import combinations
from math import comb

import pytest
import torch

import tubelet.loss.tubes as tubes
from tubelet.loss.match import match_subclips
from tubelet.loss.points import Points
from tubelet.loss.subclips import subclips, synchronized_loss
from tubelet.loss.tubes import tube_loss

FEW = Points(number=40)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def example(counts=(3, 1), q=5, t=4, k=4, size=(6, 7), seed=0):
    """Class logits, mask logits, classes, masks twice as large; instance 0 shows only in frame 0."""
    g, b = seeded(seed), len(counts)
    masks = [torch.rand(n, t, 2 * size[0], 2 * size[1], generator=g) > 0.6 for n in counts]
    for m in masks:
        m[:1, 1:] = False
    classes = [torch.randint(0, k, (n,), generator=g) for n in counts]
    return torch.randn(b, q, k + 1, generator=g), 2 * torch.randn(b, q, t, *size, generator=g), classes, masks


@pytest.fixture
def fixed(monkeypatch):
    """All random points are always the same: what is drawn no longer depends on what was drawn before."""

    def uniform(*shape, generator=None, device="cpu"):
        return torch.rand(shape[-1], 2, generator=seeded(7)).expand(*shape, 2)

    monkeypatch.setattr("tubelet.loss.points.uniform_points", uniform)
    monkeypatch.setattr("tubelet.loss.match.uniform_points", uniform)


def cut(parts, frames):
    class_logits, mask_logits, classes, masks = parts
    return class_logits, mask_logits[:, :, frames], classes, [m[:, frames] for m in masks]


@pytest.mark.parametrize(("frames", "length"), [(1, 1), (4, 1), (5, 3), (5, 5), (9, 3)])
def test_all_combinations(frames, length):
    found = subclips(frames, length)
    assert len(found) == comb(frames, length)
    assert len(set(found)) == len(found)
    assert found == sorted(found)
    assert all(list(clip) == sorted(set(clip)) and clip[0] >= 0 and clip[-1] < frames for clip in found)


def test_the_figure_of_the_paper():
    assert subclips(3, 2) == [(0, 1), (0, 2), (1, 2)]


def test_adjacent_windows():
    assert subclips(5, 2, choose="adjacent") == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert subclips(3, 3, choose="adjacent") == [(0, 1, 2)]
    assert subclips(1, 1, choose="adjacent") == [(0,)]


@pytest.mark.parametrize("choose", ["all", "adjacent"])
def test_a_cap_draws_without_repetition_and_misses_none_in_the_long_run(choose):
    everything = subclips(6, 2, choose=choose)
    draws = [subclips(6, 2, choose=choose, most=3, generator=seeded(s)) for s in range(60)]
    assert all(len(set(d)) == 3 and d == sorted(d) for d in draws)
    assert {clip for d in draws for clip in d} == set(everything)
    assert draws[5] == subclips(6, 2, choose=choose, most=3, generator=seeded(5))
    assert len({tuple(d) for d in draws}) > 5


@pytest.mark.parametrize("most", [15, 16, None])
def test_a_cap_that_is_not_reached_draws_nothing(most):
    generator = seeded()
    assert subclips(6, 2, most=most, generator=generator) == list(combinations(range(6), 2))
    assert torch.rand(1, generator=generator) == torch.rand(1, generator=seeded())


@pytest.mark.parametrize("length", [0, 4])
def test_a_length_that_does_not_fit_is_told(length):
    with pytest.raises(ValueError, match=f"sub-clip of {length} frames cannot be cut from a clip of 3; give 1 to 3"):
        subclips(3, length)


def test_a_cap_of_nothing_is_told():
    with pytest.raises(ValueError, match="at most 0 sub-clips leave nothing"):
        subclips(3, 2, most=0)


@pytest.mark.parametrize("counts", [(3, 1), (0,), (0, 2)])
@pytest.mark.parametrize("t", [1, 4])
@pytest.mark.parametrize("options", [{}, {"joined": True}, {"choose": "adjacent"}, {"most": 1}, {"num_masks": 3.0}])
def test_the_whole_clip_is_the_plain_loss_to_the_bit(counts, t, options):
    parts = example(counts, t=t)
    got = synchronized_loss(*parts, length=t, points=FEW, generator=seeded(2), **options)
    plain = {k: v for k, v in options.items() if k in ("joined", "num_masks")}
    expected = tube_loss(*parts, points=FEW, generator=seeded(2), **plain)
    assert {name: x.item() for name, x in got.items()} == {name: x.item() for name, x in expected.items()}


@pytest.mark.parametrize(("counts", "q"), [((3, 1), 5), ((4,), 12), ((0, 2), 5), ((0,), 2)])
@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("choose", ["all", "adjacent"])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.usefixtures("fixed")
def test_the_loss_is_the_mean_of_plain_losses(counts, q, length, choose, joined):
    parts = example(counts, q=q)
    frames = subclips(4, length, choose=choose)
    plain = [tube_loss(*cut(parts, list(f)), joined=joined, points=FEW) for f in frames]
    got = synchronized_loss(*parts, length=length, choose=choose, joined=joined, points=FEW)
    for name in ("class", "bce", "dice"):
        assert got[name].item() == pytest.approx(sum(p[name].item() for p in plain) / len(plain), rel=1e-5), name


def test_sub_clips_of_the_example_disagree_about_the_match():
    """Else the test above would not see whether each sub-clip has its own."""
    class_logits, mask_logits, classes, masks = example((4,), q=12)
    matches = match_subclips(class_logits[0], mask_logits[0], classes[0], masks[0], torch.tensor(subclips(4, 2)))
    assert len({m.queries[-1].item() for m in matches}) > 1


@pytest.mark.usefixtures("fixed")
def test_a_capped_loss_is_the_mean_over_what_was_drawn():
    parts = example()
    frames = subclips(4, 2, most=2, generator=seeded(4))
    plain = [tube_loss(*cut(parts, list(f)), points=FEW) for f in frames]
    got = synchronized_loss(*parts, length=2, most=2, points=FEW, generator=seeded(4))
    assert got["bce"].item() == pytest.approx(sum(p["bce"].item() for p in plain) / 2, rel=1e-5)


def test_an_instance_that_a_sub_clip_does_not_show_is_no_object_there():
    """One instance, seen in frame 0 of 2, and one query that is sure of its class: right once, wrong once."""
    class_logits = torch.tensor([[[30.0, 0.0, 0.0]]])
    masks = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    masks[0, 0, :2] = True
    truth = [torch.tensor([0])], [masks]
    got = synchronized_loss(class_logits, torch.zeros(1, 1, 2, 2, 2), *truth, length=1, points=FEW)
    assert got["class"].item() == pytest.approx(2 * (0 + 30) / 2)
    assert got["bce"].item() == pytest.approx(5 * (torch.tensor(2.0).log().item() + 0) / 2)


def test_rows_that_sub_clips_share_are_sampled_once(monkeypatch):
    """Ten sub-clips of five frames that agree on the match need no more masks than the clip itself."""
    masks = torch.zeros(2, 5, 8, 8, dtype=torch.bool)
    masks[0, :, :4], masks[1, :, 4:] = True, True
    mask_logits = torch.where(masks[:, :, ::2, ::2], 9.0, -9.0)[None]
    rows, sampled = [], tubes.row_sums
    monkeypatch.setattr(tubes, "row_sums", lambda logits, *rest: rows.append(len(logits)) or sampled(logits, *rest))
    truth = [torch.tensor([0, 1])], [masks]
    synchronized_loss(torch.zeros(1, 2, 3), mask_logits, *truth, length=3, points=FEW)
    assert rows == [2 * 5]


@pytest.mark.parametrize("counts", [(3, 1), (0, 0)])
def test_gradients_are_finite(counts):
    class_logits, mask_logits, classes, masks = example(counts)
    class_logits.requires_grad_()
    mask_logits.requires_grad_()
    losses = synchronized_loss(class_logits, mask_logits, classes, masks, length=2, points=FEW)
    torch.stack(list(losses.values())).sum().backward()
    for x in (class_logits, mask_logits):
        assert x.grad is not None
        assert x.grad.isfinite().all()
    assert bool(mask_logits.grad.any()) == bool(sum(counts))  # pyright: ignore[reportOptionalMemberAccess]


def test_half_precision_is_computed_in_float32():
    class_logits, mask_logits, classes, masks = example()
    half = class_logits.bfloat16(), mask_logits.bfloat16(), classes, masks
    losses = synchronized_loss(*half, length=2, points=FEW)
    assert {x.dtype for x in losses.values()} == {torch.float32}
