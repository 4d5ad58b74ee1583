"""The losses on label maps against plain formulas."""

import pytest
import torch

from tubelet.loss import masks
from tubelet.loss.masks import segmentation_loss

VOID = 255


def bootstrapped_cross_entropy(logits: torch.Tensor, ids: torch.Tensor, **options) -> torch.Tensor:
    """Of one sample, (N, H, W) and (H, W)."""
    return masks.bootstrapped_cross_entropy(logits.log_softmax(0).flatten(1)[None], ids.flatten()[None], **options)[0]


def soft_jaccard(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Of one sample, (N, H, W) and (H, W)."""
    return masks.soft_jaccard(logits.log_softmax(0).flatten(1)[None], ids.flatten()[None])[0]


def example(n: int = 3, h: int = 4, w: int = 5, *, void: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(n, h, w, generator=g), torch.randint(0, n, (h, w), generator=g)
    ids.view(-1)[:void] = VOID
    return logits, ids


def entropies(logits: torch.Tensor, ids: torch.Tensor) -> list[float]:
    """-log p of the true class, of every pixel that is not void."""
    p = logits.softmax(0)
    return [
        -p[ids[y, x], y, x].log().item() for y in range(ids.shape[0]) for x in range(ids.shape[1]) if ids[y, x] != VOID
    ]


def certain(ids: torch.Tensor, n: int) -> torch.Tensor:
    """Logits that say exactly this (anything where it is void)."""
    return torch.stack([(ids == i) * 100.0 for i in range(n)])


@pytest.mark.parametrize("void", [0, 7, 19])
@pytest.mark.parametrize("hard", [1.0, 0.5, 0.15, 0.001])
def test_cross_entropy_is_the_mean_of_the_hardest(hard, void):
    logits, ids = example(void=void)
    hardest = sorted(entropies(logits, ids), reverse=True)[: max(1, int(hard * (20 - void)))]
    got = bootstrapped_cross_entropy(logits, ids, hard_fraction=hard)
    assert got.item() == pytest.approx(sum(hardest) / len(hardest), rel=1e-5)


@pytest.mark.parametrize("void", [0, 7])
def test_jaccard_is_one_minus_the_soft_iou(void):
    logits, ids = example(void=void)
    p, valid = logits.softmax(0), ids != VOID
    ious = []
    for i in range(3):
        y = ((ids == i) & valid).float()
        overlap = (p[i] * y).sum()
        ious.append((overlap / ((p[i] * valid).sum() + y.sum() - overlap)).item())
    assert soft_jaccard(logits, ids).item() == pytest.approx(1 - sum(ious) / 3, rel=1e-4)


def test_absent_classes_do_not_count():
    logits, ids = example()
    ids[ids == 2] = 1
    p = logits.softmax(0)
    ious = []
    for i in (0, 1):
        y = (ids == i).float()
        ious.append(((p[i] * y).sum() / (p[i].sum() + y.sum() - (p[i] * y).sum())).item())
    assert soft_jaccard(logits, ids).item() == pytest.approx(1 - sum(ious) / 2, rel=1e-4)


@pytest.mark.parametrize("hard", [1.0, 0.15])
def test_perfect_logits_cost_nothing(hard):
    _, ids = example(void=3)
    assert bootstrapped_cross_entropy(certain(ids, 3), ids, hard_fraction=hard).item() < 1e-6
    assert soft_jaccard(certain(ids, 3), ids).item() < 1e-5


def test_the_opposite_costs_everything():
    _, ids = example()
    wrong = certain((ids + 1) % 3, 3)
    assert bootstrapped_cross_entropy(wrong, ids).item() == pytest.approx(100)
    assert soft_jaccard(wrong, ids).item() == pytest.approx(1)


@pytest.mark.parametrize("hard", [1.0, 0.15])
def test_all_void_is_zero_with_a_gradient(hard):
    logits, ids = example(void=20)
    logits.requires_grad_()
    total = bootstrapped_cross_entropy(logits, ids, hard_fraction=hard) + soft_jaccard(logits, ids)
    total.backward()
    assert total.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_void_pixels_get_no_gradient():
    logits, ids = example(void=6)
    logits.requires_grad_()
    (bootstrapped_cross_entropy(logits, ids) + soft_jaccard(logits, ids)).backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum(0) > 0
    assert touched.tolist() == (ids != VOID).tolist()


@pytest.mark.parametrize("hard", [1.0, 0.15])
def test_channels_of_others_get_no_gradient_and_void_samples_none(hard):
    """A batch whose second sample has fewer objects and whose third is void."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 4, 5, generator=g, requires_grad=True)
    ids = torch.randint(0, 2, (3, 4, 5), generator=g)
    ids[2] = VOID
    torch.stack(segmentation_loss(logits, ids, torch.tensor([3, 1, 2]), hard_fraction=hard)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0].any()
    assert logits.grad[1, :2].any()
    assert not logits.grad[1, 2:].any()
    assert not logits.grad[2].any()


def test_background_only():
    logits, ids = example(n=1)
    entropy, jaccard = segmentation_loss(logits[None], ids[None] * 0, torch.tensor([0]))
    assert entropy.item() == jaccard.item() == 0


def test_each_sample_has_its_own_channels():
    """Channels past a sample's objects do not enter its softmax."""
    g = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(2, 11, 4, 5, generator=g), torch.randint(0, 2, (2, 4, 5), generator=g)
    ids[1, 0, 0] = 3
    objects = torch.tensor([1, 3])
    entropy, jaccard = (x.mean() for x in segmentation_loss(logits, ids, objects, hard_fraction=0.5))
    parts = [(logits[0, :2], ids[0]), (logits[1, :4], ids[1])]
    expected = [
        sum(f(x, y) for x, y in parts) / 2
        for f in (lambda x, y: bootstrapped_cross_entropy(x, y, hard_fraction=0.5), soft_jaccard)
    ]
    assert entropy.item() == pytest.approx(float(expected[0]))
    assert jaccard.item() == pytest.approx(float(expected[1]))
    logits[0, 2:] += 1e6
    again = segmentation_loss(logits, ids, objects, hard_fraction=0.5)
    assert [x.mean().item() for x in again] == pytest.approx([entropy.item(), jaccard.item()])


def test_half_precision_is_computed_in_float32():
    logits, ids = example()
    entropy, _ = segmentation_loss(logits[None].bfloat16(), ids[None], torch.tensor([2]))
    assert entropy.dtype == torch.float32
