"""The counter against hand counts, fvcore's own and torch's, and MPVSS against the tables of its paper."""

import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from tubelet.cli import dispatch
from tubelet.metrics import flops
from tubelet.metrics.flops import Flops, FrameFlops, count, hollow, mpvss_flops, shapes
from tubelet.models import mpvss
from tubelet.nn.deform import deformable_attention
from tubelet.weights import save

warnings_of_fvcore = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")


def zeros(*shape: int, grad: bool = False) -> torch.Tensor:
    return torch.zeros(shape, requires_grad=grad)


def of(function, *inputs) -> dict[str, int]:
    return count(function, *inputs).of


@pytest.mark.parametrize("grad", [False, True])
def test_products_and_convolutions(grad):
    with torch.set_grad_enabled(grad):
        assert of(nn.Linear(5, 7), zeros(5)) == {"product": 35}
        assert of(nn.Linear(5, 7), zeros(2, 3, 5)) == {"product": 2 * 3 * 5 * 7}
        assert of(nn.Linear(5, 7, bias=False), zeros(2, 3, 5)) == {"product": 2 * 3 * 5 * 7}
        assert of(torch.matmul, zeros(4, 1, 2, 3), zeros(6, 3, 5)) == {"product": 4 * 6 * 2 * 3 * 5}
        assert of(partial(torch.einsum, "qc,chw->qhw"), zeros(4, 3), zeros(3, 5, 6)) == {"product": 4 * 3 * 5 * 6}
        assert of(torch.baddbmm, zeros(1), zeros(2, 3, 4), zeros(2, 4, 5)) == {"product": 2 * 3 * 4 * 5}
        strided = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        assert of(strided, zeros(2, 4, 5, 7)) == {"convolution": 2 * (3 * 4) * 6 * 2 * 9}
        doubling = nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1)
        assert of(doubling, zeros(1, 4, 5, 7)) == {"convolution": 5 * 7 * 4 * 6 * 16}


def test_nothing_else_counts():
    x = zeros(2, 3, 4, 4)
    assert of(lambda x: (x.relu() + x.exp()).softmax(1).sum(), x) == {}
    assert of(partial(F.interpolate, scale_factor=2, mode="nearest"), x) == {}
    assert count(nn.Identity(), x).total == 0


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("mask", [None, torch.bool, torch.float32])
def test_attention_is_two_products(mask, grad):
    q, k, v = zeros(2, 8, 5, 16, grad=grad), zeros(2, 8, 7, 16), zeros(2, 8, 7, 16)
    mask = None if mask is None else torch.ones(5, 7, dtype=mask, requires_grad=grad and mask != torch.bool)
    found = count(partial(F.scaled_dot_product_attention, attn_mask=mask), q, k, v)
    assert found.total == 2 * (2 * 8) * 5 * 7 * 16
    heads = nn.MultiheadAttention(16, 2, batch_first=True)
    x = zeros(3, 6, 16)
    assert count(heads, x, x, x).total == 3 * (4 * 6 * 16 * 16 + 2 * 6 * 6 * 16)


def test_norms():
    x = zeros(2, 8, 3, 5)
    assert of(nn.BatchNorm2d(8).eval(), x) == {"norm": 2 * x.numel()}
    assert of(nn.BatchNorm2d(8, affine=False).eval(), x) == {"norm": x.numel()}
    assert of(nn.BatchNorm2d(8), x) == {"norm": 5 * x.numel()}
    assert of(nn.GroupNorm(4, 8), x) == {"norm": 5 * x.numel()}
    assert of(nn.LayerNorm(5), x) == {"norm": 5 * x.numel()}
    assert of(nn.LayerNorm(5, elementwise_affine=False), x) == {"norm": 4 * x.numel()}


@pytest.mark.parametrize("aligned", [False, True])
def test_values_between_pixels(aligned):
    resize = partial(F.interpolate, size=(5, 7), mode="bilinear", align_corners=aligned)
    assert of(resize, zeros(2, 3, 4, 4)) == {"bilinear": 4 * 2 * 3 * 5 * 7}
    double = partial(F.interpolate, scale_factor=2, mode="bilinear", align_corners=aligned)
    assert of(double, zeros(2, 3, 4, 4)) == {"bilinear": 4 * 2 * 3 * 8 * 8}
    sample = partial(F.grid_sample, align_corners=aligned)
    assert of(sample, zeros(2, 3, 4, 4), zeros(2, 6, 1, 2)) == {"bilinear": 4 * 2 * 3 * 6}


def test_both_forms_of_deformable_attention_count_the_same():
    """Four for each sampled value: as bilinear samples, or as rows of a table."""
    shape = (2, 10, 8, 3, 4)  # images, queries, heads, levels, points
    sizes = [(2, 3), (4, 6), (8, 12)]
    for grad, kind in ((True, "bilinear"), (False, "bag")):
        inputs = (zeros(2, 126, 8, 16, grad=grad), zeros(10, 2), zeros(*shape, 2), zeros(*shape), sizes)
        assert of(deformable_attention, *inputs) == {kind: 4 * 2 * 10 * 8 * 3 * 4 * 16}


@warnings_of_fvcore
def test_the_same_as_fvcore_counts():
    from fvcore.nn import FlopCountAnalysis

    net = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1), nn.GroupNorm(4, 12), nn.UpsamplingBilinear2d(scale_factor=2),
        nn.Conv2d(12, 6, 3, groups=3), nn.LayerNorm(62), nn.Linear(62, 5),
    ).eval()  # fmt: skip
    x = zeros(2, 3, 18, 32)
    ours, theirs = count(net, x).total, FlopCountAnalysis(net, x).total()
    assert ours == theirs > 0


def test_the_same_as_torch_counts():
    """Torch's counter knows products, convolutions and attention, and counts additions too; that 2.14 does not know the
    attention of a CPU is made up for with its formula for the others."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formula = {attention: lambda q, k, v, *rest, out_shape, **options: sdpa_flop_count(q, k, v)}
    torchs = FlopCounterMode(display=False, custom_mapping=formula)
    model = tiny().requires_grad_(False)
    ours = of(model.segment, zeros(1, 3, 64, 96))
    with shapes(), torchs:
        model.segment(torch.zeros(1, 3, 64, 96))
    assert 2 * sum(ours[kind] for kind in ("product", "convolution", "attention")) == torchs.get_total_flops()


def test_a_hollow_model_has_no_content():
    model = hollow(lambda: nn.Linear(3, 4))
    assert not model.training
    assert model.weight.shape == (4, 3)
    with pytest.raises(RuntimeError, match="local_scalar"):
        count(lambda x: x.sum().item(), zeros(3))


def test_average():
    pair = FrameFlops(Flops({"product": 90, "norm": 10}), Flops({"product": 10}))
    assert [pair.average(n) for n in (1, 5, 15, 99)] == [100, (3 * 100 + 12 * 10) / 15, 16, 16]
    assert pair.average(2, frames=3) == 70
    assert pair.average(7, frames=1) == 100
    for wrong in ((0, 15), (5, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            pair.average(*wrong)


# Tables 1, 2 and F: a key frame, a frame between, the average over 15 frames at interval 5.
PAPER = {
    ("vspw", "r50"): (110.6, 21.0, 38.9),
    ("vspw", "r101"): (141.3, 21.0, 45.1),
    ("vspw", "swin-t"): (114.4, 21.0, 39.7),
    ("vspw", "swin-s"): (152.2, 21.0, 47.3),
    ("vspw", "swin-b"): (223.5, 21.0, 61.5),
    ("vspw", "swin-l"): (402.7, 21.0, 97.3),
    ("cityscapes", "r50"): (529.9, 84.0, 173.2),
    ("cityscapes", "r101"): (685.5, 84.0, 204.3),
    ("cityscapes", "swin-t"): (543.6, 84.0, 175.9),
    ("cityscapes", "swin-s"): (730.1, 84.0, 213.2),
    ("cityscapes", "swin-b"): (1057.0, 84.0, 278.6),
    ("cityscapes", "swin-l"): (1911.3, 84.0, 449.5),
}


SLOW = [row for row in PAPER if "swin" in row[1] and row != ("vspw", "swin-t")]


@pytest.mark.parametrize(
    ("data", "encoder"), [pytest.param(*row, marks=[pytest.mark.slow] if row in SLOW else []) for row in PAPER]
)
def test_mpvss_costs_what_its_paper_says(data, encoder):
    """All are within a third of a percent, the encoders that are Swins too."""
    classes, size = {"vspw": (124, (480, 853)), "cityscapes": (19, (1024, 2048))}[data]
    found = mpvss_flops(hollow(lambda: mpvss.build(f"mpvss-{encoder}", classes, frozen_norm=False)), size)
    ours = [n / 1e9 for n in (found.key.total, found.other.total, found.average(5))]
    assert ours == pytest.approx(PAPER[data, encoder], rel=1 / 300)
    if (data, encoder) == ("vspw", "r50"):
        averages = [found.average(interval) / 1e9 for interval in (1, 2, 3, 5, 10, 15)]
        assert averages == pytest.approx([110.6, 68.8, 50.9, 38.9, 33.0, 27.0], rel=1 / 300)
        # measured by others, in parts: flow estimation, then the scores of 124 classes
        assert found.other.of["convolution"] / 1e9 == pytest.approx(7.68, rel=1 / 100)
        assert found.other.of["product"] / 1e9 == pytest.approx(7.2 + 0.33 + 5.14, rel=1 / 100)


def tiny(**options) -> mpvss.MPVSS:
    return hollow(lambda: mpvss.build("mpvss-tiny", 5, **options))


@pytest.mark.parametrize(("motion", "size"), [("query", (1, 1)), ("query-random", (33, 70)), ("flownet", (33, 70))])
def test_any_motion_and_size(motion, size):
    model = tiny(motion=motion)
    plain, here = (mpvss_flops(model, size, plain=plain) for plain in (True, False))
    assert 0 < here.other.total <= plain.other.total < plain.key.total
    assert here.key.total < plain.key.total
    assert "bag" in here.key.of
    assert "bag" not in plain.key.of


def test_a_model_with_content_counts_the_same():
    model = mpvss.build("mpvss-tiny", 5, motion="query-learned").eval()
    assert mpvss_flops(model, (32, 64)) == mpvss_flops(tiny(motion="query-learned"), (32, 64))
    assert all(type(p) is nn.Parameter for p in model.parameters())
    assert torch.is_grad_enabled()


def test_models_that_cannot_be_counted():
    with pytest.raises(ValueError, match="training mode"):
        mpvss_flops(tiny().train(), (32, 32))
    with pytest.raises(ValueError, match="no flow"):
        mpvss_flops(tiny(motion="none"), (32, 32))


def test_bench_prints_the_table(tmp_path, capsys):
    dispatch(["bench", "--model", "mpvss-tiny", "--flops", "--size", "64x96", "--classes", "camvid", "--interval", "3"])
    said = capsys.readouterr().out
    assert "mpvss-tiny, 64x96, 11 classes" in said
    assert "average at 3" in said
    assert said.count("\n") == 4
    save(mpvss.build("mpvss-tiny", 11), tmp_path / "w.safetensors")
    file = ["--weights", str(tmp_path / "w.safetensors")]
    dispatch(["bench", "--model", "mpvss-tiny", "--flops", "--size", "64x96", "--interval", "3", *file])
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "aost"], "--flops is for MPVSS"),
        (["--model", "mask2former-vis-tiny"], "--flops is for MPVSS"),
        (["--model", "mpvss-tiny", "--carry", "copy"], "leave out --carry"),
        (["--model", "mpvss-tiny", "--doubt", "0.2"], "leave out --carry and --doubt"),
        (["--model", "mpvss-tiny", "--classes", "camvit"], "did you mean camvid"),
        (["--model", "mpvss-tiny", "--interval", "0"], "at least 1"),
        (["--model", "mpvss-tinny"], "did you mean"),
    ],
)
def test_bench_says_what_it_cannot_count(arguments, said):
    with pytest.raises(ValueError, match=said):
        dispatch(["bench", "--flops", *arguments])


def test_without_fvcore(monkeypatch):
    monkeypatch.setitem(sys.modules, "fvcore.nn", None)
    flops.rules.cache_clear()
    with pytest.raises(RuntimeError, match=r"pip install tubelet\[flops\]"):
        count(nn.Identity(), zeros(1))
    monkeypatch.undo()
    assert count(nn.Identity(), zeros(1)).total == 0
