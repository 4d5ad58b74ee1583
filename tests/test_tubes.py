"""The set criterion against loops over clips, instances, frames and points."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

import tubelet.loss.tubes as tubes
from tubelet.loss.match import Weights, match
from tubelet.loss.points import Points, sample_points
from tubelet.loss.tubes import deep_supervision, frame_loss, row_sums, tube_loss

FEW = Points(number=40)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def example(counts=(3, 1), q=5, t=3, k=4, size=(6, 7), seed=0):
    """Class logits, mask logits, classes, masks twice as large, each visible in each frame."""
    g, b = seeded(seed), len(counts)
    masks = [torch.rand(n, t, 2 * size[0], 2 * size[1], generator=g) > 0.6 for n in counts]
    classes = [torch.randint(0, k, (n,), generator=g) for n in counts]
    return torch.randn(b, q, k + 1, generator=g), 2 * torch.randn(b, q, t, *size, generator=g), classes, masks


@pytest.fixture
def fixed(monkeypatch):
    """All random points are always the same: what is drawn no longer depends on what was drawn before."""

    def uniform(*shape, generator=None, device="cpu"):
        return torch.rand(shape[-1], 2, generator=seeded(7)).expand(*shape, 2)

    monkeypatch.setattr("tubelet.loss.points.uniform_points", uniform)
    monkeypatch.setattr("tubelet.loss.match.uniform_points", uniform)


def fixed_place(number: int, logits: torch.Tensor) -> torch.Tensor:
    """The points that `fixed` leaves to a mask: the least certain three quarters of 3 * number, and the rest."""
    candidates = torch.rand(3 * number, 2, generator=seeded(7))
    doubt = sample_points(logits[None], candidates[None])[0].abs().argsort()
    rest = torch.rand(number - int(0.75 * number), 2, generator=seeded(7))
    return torch.cat((candidates[doubt[: int(0.75 * number)]], rest))


def plain(class_logits, mask_logits, classes, masks, *, joined=False, number=FEW.number):
    """The definition, in loops, under `fixed`: (class, bce, dice), weighted, with the instances found again."""
    k = class_logits.shape[2] - 1
    target = torch.full(class_logits.shape[:2], k)
    bce, dice, count = [], [], 0
    for b in range(len(classes)):
        found = match(class_logits[b], mask_logits[b], classes[b], masks[b], points=number)
        for q, n in zip(found.queries.tolist(), found.truths.tolist()):
            count += 1
            target[b, q] = classes[b][n]
            xs, ys = [], []
            for x, y in zip(mask_logits[b, q], masks[b][n]):
                place = fixed_place(number, x)[None]
                xs.append(sample_points(x[None], place)[0])
                ys.append(sample_points(y[None], place)[0])
            if joined:
                xs, ys = [torch.cat(xs)], [torch.cat(ys)]
            for x, y in zip(xs, ys):
                p = x.sigmoid()
                bce.append(-(y * p.log() + (1 - y) * (1 - p).log()).mean())
                dice.append(1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))
    weight = torch.tensor([1.0] * k + [0.1])
    entropy = F.cross_entropy(class_logits.transpose(1, 2), target, weight)
    return {
        "class": 2 * entropy,
        "bce": 5 * sum(bce) / max(count, 1),
        "dice": 5 * sum(dice) / max(count, 1),
    }


def assert_same(got: dict, expected: dict) -> None:
    assert list(got) == list(expected)
    for name in expected:
        assert float(got[name]) == pytest.approx(float(expected[name]), rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("counts", [(1,), (3, 1), (0, 2), (7, 2), (0, 0)])
@pytest.mark.parametrize("t", [1, 3])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.usefixtures("fixed")
def test_the_loss_is_its_definition(counts, t, joined):
    parts = example(counts, t=t)
    assert_same(tube_loss(*parts, joined=joined, points=FEW), plain(*parts, joined=joined))


@pytest.mark.usefixtures("fixed")
def test_rows_grow_with_the_clip_and_joined_tubes_do_not():
    """A clip that stands still for three frames."""
    one = example(t=1)
    class_logits, mask_logits, classes, masks = one
    three = class_logits, mask_logits.repeat(1, 1, 3, 1, 1), classes, [m.repeat(1, 3, 1, 1) for m in masks]
    single, rows = tube_loss(*one, points=FEW), tube_loss(*three, points=FEW)
    assert rows["bce"].item() == pytest.approx(3 * single["bce"].item(), rel=1e-5)
    assert rows["dice"].item() == pytest.approx(3 * single["dice"].item(), rel=1e-5)
    joined = tube_loss(*three, joined=True, points=FEW)
    assert joined["bce"].item() == pytest.approx(single["bce"].item(), rel=1e-5)
    assert joined["dice"].item() == pytest.approx(single["dice"].item(), rel=0.05)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.usefixtures("fixed")
def test_batched_equals_single(joined):
    class_logits, mask_logits, classes, masks = example((2, 2, 2))
    run = partial(tube_loss, joined=joined, points=FEW)
    single = [run(class_logits[b : b + 1], mask_logits[b : b + 1], [classes[b]], [masks[b]]) for b in range(3)]
    mean = {name: sum(s[name] for s in single) / 3 for name in single[0]}
    assert_same(run(class_logits, mask_logits, classes, masks), mean)


@pytest.mark.usefixtures("fixed")
def test_the_order_of_the_truth_does_not_matter():
    class_logits, mask_logits, classes, masks = example((4,))
    order = [2, 0, 3, 1]
    swapped = tube_loss(class_logits, mask_logits, [classes[0][order]], [masks[0][order]], points=FEW)
    assert_same(swapped, tube_loss(class_logits, mask_logits, classes, masks, points=FEW))


@pytest.mark.usefixtures("fixed")
def test_weights_and_normaliser():
    parts = example()
    base = tube_loss(*parts, points=FEW)
    halved = tube_loss(*parts, points=FEW, num_masks=8)
    assert_same(halved, {"class": base["class"], "bce": base["bce"] / 2, "dice": base["dice"] / 2})
    doubled = tube_loss(*parts, points=FEW, weights=Weights(4, 10, 10, 0.1))
    assert_same(doubled, {name: 2 * x for name, x in base.items()})
    flat = tube_loss(*parts, points=FEW, weights=Weights(no_object=1.0))
    assert flat["class"].item() != pytest.approx(base["class"].item(), rel=1e-3)


def test_perfect_predictions_cost_nothing_and_the_opposite_a_lot():
    """Each instance fills one of two frames: no outline, on which points have labels between 0 and 1."""
    masks = torch.eye(2, dtype=torch.bool)[:, :, None, None].expand(2, 2, 8, 8)
    mask_logits = torch.where(masks, 1e4, -1e4)[None]
    class_logits = torch.tensor([[[50.0, 0, 0], [0, 50.0, 0]]])
    truth = [torch.tensor([0, 1])], [masks]
    assert sum(tube_loss(class_logits, mask_logits, *truth, joined=True).values()) < 1e-4
    assert sum(tube_loss(class_logits, mask_logits, *truth).values()) < 1e-4
    bad = tube_loss(class_logits, -mask_logits.abs(), *truth, joined=True)
    assert bad["dice"].item() == pytest.approx(5, rel=1e-3)
    assert bad["bce"].item() == pytest.approx(5 * 1e4 / 2)


def test_no_object_is_the_class_of_queries_without_an_instance():
    """Queries that are sure of it cost nothing, in clips with and without instances."""
    class_logits, mask_logits, classes, masks = example((0, 1), q=3)
    class_logits = torch.zeros_like(class_logits)
    class_logits[..., -1] = 100
    found = match(class_logits[1], mask_logits[1], classes[1], masks[1], points=4000)
    class_logits[1, found.queries, -1] = 0
    class_logits[1, found.queries, classes[1]] = 100
    assert tube_loss(class_logits, mask_logits, classes, masks, points=Points(4000))["class"].item() < 1e-5
    without = [classes[0]] * 2, [masks[0]] * 2
    expected = 2 * 0.1 * 100 / (6 * 0.1)
    assert tube_loss(class_logits, mask_logits, *without)["class"].item() == pytest.approx(expected)


@pytest.mark.parametrize("counts", [(0,), (0, 0), (0, 2), (2, 2)])
@pytest.mark.parametrize("joined", [False, True])
def test_gradients_are_finite_and_reach_only_what_is_matched(counts, joined):
    class_logits, mask_logits, classes, masks = example(counts)
    class_logits.requires_grad_()
    mask_logits.requires_grad_()
    losses = tube_loss(class_logits, mask_logits, classes, masks, joined=joined, points=FEW, generator=seeded())
    torch.stack(list(losses.values())).sum().backward()
    assert class_logits.grad is not None
    assert mask_logits.grad is not None
    assert class_logits.grad.isfinite().all()
    assert (class_logits.grad != 0).any(2).all()
    assert mask_logits.grad.isfinite().all()
    assert (mask_logits.grad != 0).flatten(2).any(2).sum(1).tolist() == list(counts)
    assert losses["bce"].item() == losses["dice"].item() == 0 or sum(counts)


def test_gradients_are_those_of_the_loss():
    class_logits, mask_logits, classes, masks = example((2,), q=3, t=2, size=(2, 3))
    uniform = Points(20, oversample=1, important=0.0)

    def loss(c, m):
        parts = tube_loss(c, m, classes, masks, joined=True, points=uniform, generator=seeded())
        return torch.stack(list(parts.values()))

    inputs = class_logits.double().requires_grad_(), mask_logits.double().requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_are_computed_in_float32_or_better(dtype):
    class_logits, mask_logits, classes, masks = example()
    class_logits, mask_logits = class_logits.to(dtype), mask_logits.to(dtype)
    losses = tube_loss(class_logits, mask_logits, classes, masks, points=FEW, generator=seeded())
    wide = tube_loss(class_logits.double(), mask_logits.double(), classes, masks, points=FEW, generator=seeded())
    assert_same(losses, wide)
    assert {x.dtype for x in losses.values()} == {torch.promote_types(dtype, torch.float32)}


def test_autocast_changes_nothing():
    parts = example()
    expected = tube_loss(*parts, points=FEW, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = tube_loss(*parts, points=FEW, generator=seeded())
    assert {name: x.item() for name, x in losses.items()} == {name: x.item() for name, x in expected.items()}


def test_the_generator_decides_about_the_points():
    parts = example()
    once, twice, other = (tube_loss(*parts, points=FEW, generator=seeded(s))["bce"].item() for s in (0, 0, 1))
    assert once == twice != other


def test_many_points_see_the_whole_mask():
    """Uniform points of piecewise constant masks: the mean over points is that over pixels."""
    class_logits, mask_logits, classes, masks = example((1,), q=1, t=1, size=(1, 1))
    masks = [torch.ones_like(masks[0])]
    loss = tube_loss(class_logits, mask_logits, classes, masks)
    p = mask_logits.sigmoid().item()
    assert loss["bce"].item() == pytest.approx(-5 * torch.tensor(p).log().item(), rel=1e-4)
    n = 12544
    assert loss["dice"].item() == pytest.approx(5 * (1 - (2 * n * p + 1) / (n * p + n + 1)), rel=1e-4)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.usefixtures("fixed")
def test_an_instance_that_no_frame_shows_does_not_exist(joined):
    class_logits, mask_logits, classes, masks = example((3, 2))
    masks[0][1] = False
    without = [classes[0][[0, 2]], classes[1]], [masks[0][[0, 2]], masks[1]]
    run = partial(tube_loss, class_logits, mask_logits, joined=joined, points=FEW)
    assert_same(run(classes, masks), run(*without))


@pytest.mark.usefixtures("fixed")
def test_absent_from_one_frame_means_an_empty_mask_there():
    parts = example((1,), q=1, t=2)
    parts[3][0][0, 1] = False
    p = parts[1][0, 0, 1].sigmoid()
    assert p.max() > 0.5
    assert_same(tube_loss(*parts, points=FEW), plain(*parts))


@pytest.mark.parametrize("t", [1, 3])
@pytest.mark.usefixtures("fixed")
def test_frame_loss_is_the_loss_of_images(t):
    class_logits, mask_logits, classes, masks = example((3, 2), t=t)
    class_logits = torch.stack([class_logits + 0.3 * i for i in range(t)], 1) * torch.rand(
        2, t, 5, 5, generator=seeded(5)
    )
    mask_logits = mask_logits.transpose(1, 2)
    masks[0][1, 0] = False
    masks[1][:, -1] = False
    images = [(b, i) for b in range(2) for i in range(t)]
    expected = plain(
        torch.stack([class_logits[b, i] for b, i in images]),
        torch.stack([mask_logits[b, i][:, None] for b, i in images]),
        [classes[b][masks[b][:, i].any((1, 2))] for b, i in images],
        [masks[b][masks[b][:, i].any((1, 2))][:, i : i + 1] for b, i in images],
    )
    assert_same(frame_loss(class_logits, mask_logits, classes, masks, points=FEW), expected)


def test_frame_loss_names_the_frame():
    class_logits, mask_logits, classes, masks = example((1, 1), t=2)
    class_logits = class_logits[:, None].repeat(1, 2, 1, 1)
    class_logits[1, 0] = torch.nan
    parts = class_logits, mask_logits.transpose(1, 2), classes, masks
    with pytest.raises(FloatingPointError, match="cost of b, frame 0 is"):
        frame_loss(*parts, points=FEW, names=["a", "b"])
    with pytest.raises(FloatingPointError, match="cost of clip 1 of the batch, frame 0 is"):
        frame_loss(*parts, points=FEW)


def test_tube_loss_names_the_clip():
    class_logits, mask_logits, classes, masks = example((1, 1), t=2)
    class_logits[1] = torch.nan
    with pytest.raises(FloatingPointError, match="cost of b is"):
        tube_loss(class_logits, mask_logits, classes, masks, points=FEW, names=["a", "b"])


@pytest.mark.usefixtures("fixed")
def test_deep_supervision_matches_each_output_anew():
    outputs = [example(seed=s)[:2] for s in range(3)]
    truth = example()[2:]
    loss = partial(tube_loss, classes=truth[0], masks=truth[1], points=FEW)
    losses = deep_supervision(outputs, loss)
    suffix = {"": 2, ".0": 0, ".1": 1}
    assert set(losses) == {name + s for name in ("class", "bce", "dice") for s in suffix}
    for s, i in suffix.items():
        assert_same({n: losses[n + s] for n in ("class", "bce", "dice")}, plain(*outputs[i], *truth))


def test_one_output_has_plain_names():
    parts = example()
    loss = partial(tube_loss, classes=parts[2], masks=parts[3], points=FEW)
    assert list(deep_supervision([parts[:2]], loss)) == ["class", "bce", "dice"]


def test_each_row_has_its_own_points():
    """Two equal masks, of which each looks at other places."""
    logits, truth = torch.randn(1, 6, 7, generator=seeded()), torch.rand(1, 12, 14, generator=seeded()) > 0.5
    sums = row_sums(logits.expand(2, -1, -1), truth.expand(2, -1, -1), FEW, seeded())
    assert sums.entropy[0] != sums.entropy[1]


def test_the_normaliser_is_shared_by_processes(monkeypatch):
    """As if another process had a batch of 8 instances, and queries whose weights add up to 8: (4 + 8) / 2 = 6."""
    parts = example((3, 1))
    expected = tube_loss(*parts, points=FEW, num_masks=6, generator=seeded())
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.add_(8))
    got = tube_loss(*parts, points=FEW, generator=seeded())
    weight = 4 + 0.1 * (parts[0].shape[0] * parts[0].shape[1] - 4)
    assert_same(got, expected | {"class": expected["class"] * weight / ((weight + 8) / 2)})
    count = torch.tensor([4.0])
    assert tubes.average_over_processes(count).item() == 6
    assert count.item() == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, m: (c[:1], m), "logits are of 2 clips, but there are classes of 1 and masks of 2"),
        (lambda c, m: (c, m[:1]), "classes of 2 and masks of 1"),
        (lambda c, m: (c, [m[0], m[1][:0]]), r"1 classes and masks of shape \[0, 3, 12, 14\]; expected \(1, 3, H, W\)"),
        (lambda c, m: (c, [m[0], m[1][..., :-2]]), r"sizes \[\(12, 12\), \(12, 14\)\]; pad all"),
    ],
)
def test_truth_that_does_not_fit_is_told(change, message):
    class_logits, mask_logits, classes, masks = example()
    with pytest.raises(ValueError, match=message):
        tube_loss(class_logits, mask_logits, *change(classes, masks), points=FEW)


def test_a_clip_with_a_generator_of_its_own_does_not_see_the_others():
    """Of a batch of two, as of two batches of one; with one generator for both, the second draws what is left."""
    class_logits, mask_logits, classes, masks = example((3, 1))
    options = {"points": FEW, "num_masks": 4}
    both = tube_loss(class_logits, mask_logits, classes, masks, **options, generator=[seeded(1), seeded(2)])
    single = [
        tube_loss(class_logits[b : b + 1], mask_logits[b : b + 1], classes[b : b + 1], masks[b : b + 1], **options,
                  generator=[seeded(b + 1)])
        for b in range(2)
    ]  # fmt: skip
    for name in ("bce", "dice"):
        assert both[name].item() == pytest.approx(single[0][name].item() + single[1][name].item(), rel=1e-5)
    shared = tube_loss(class_logits, mask_logits, classes, masks, **options, generator=seeded(1))
    assert shared["bce"].item() != pytest.approx(both["bce"].item(), rel=1e-5)
