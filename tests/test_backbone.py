"""The encoders: strides, widths, frozen and learned statistics."""

import pytest
import torch
from torch import nn

from tubelet.nn.backbone import MobileNetV2, ResNet, swin


@pytest.fixture(scope="module")
def mobilenet() -> MobileNetV2:
    torch.manual_seed(0)
    return MobileNetV2().eval()


@pytest.mark.parametrize(("side", "expected"), [(33, (9, 5, 3, 3)), (32, (8, 4, 2, 2)), (1, (1, 1, 1, 1))])
@torch.inference_mode()
def test_mobilenet_maps(mobilenet, side, expected):
    maps = mobilenet(torch.randn(2, 3, side, side + 16))
    assert [x.shape[1] for x in maps] == list(mobilenet.channels)
    assert [x.shape[2] for x in maps] == list(expected)


def test_the_last_stage_is_dilated(mobilenet):
    convs = [m for m in mobilenet.net.blocks[5:].modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [(conv.stride[0], conv.dilation[0]) for conv in convs] == [(1, 1), (1, 2), (1, 2), (1, 2)]


@torch.inference_mode()
def test_resnet_maps():
    net = ResNet(50, stages=3).eval()
    maps = net(torch.randn(1, 3, 33, 49))
    assert [tuple(x.shape[1:]) for x in maps] == [(256, 9, 13), (512, 5, 7), (1024, 3, 4)]
    assert not any("layer4" in name or "fc" in name for name in net.state_dict())


@pytest.mark.parametrize("frozen", [True, False])
def test_resnet_is_that_of_timm(frozen):
    """In values and in gradients, though frozen norms are folded into the convolutions."""
    torch.manual_seed(0)
    net = ResNet(50, stages=3, frozen_norm=frozen).double().eval()
    for module in net.modules():
        if "BatchNorm" in type(module).__name__:
            for x in (module.weight, module.running_var):
                torch.nn.init.uniform_(x, 0.5, 1.5)  # pyright: ignore
            for x in (module.bias, module.running_mean):
                torch.nn.init.normal_(x)  # pyright: ignore
    images = torch.randn(2, 3, 33, 49, dtype=torch.float64)
    ours, theirs = net(images), net.net(images)
    parameters = list(net.parameters())
    gradients = [torch.autograd.grad(sum(x.square().mean() for x in maps), parameters) for maps in (ours, theirs)]  # pyright: ignore
    for a, b in zip((*ours, *gradients[0]), (*theirs, *gradients[1]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@torch.inference_mode()
def test_swin_maps():
    net = swin("t", stages=3).eval()
    assert [tuple(x.shape[1:]) for x in net(torch.randn(1, 3, 32, 48))] == [(96, 8, 12), (192, 4, 6), (384, 2, 3)]


@pytest.mark.parametrize("make", [lambda: ResNet(50), lambda: ResNet(101), lambda: swin("t"), lambda: swin("s")])
@torch.inference_mode()
def test_four_stages(make):
    net = make().eval()
    maps = net(torch.randn(1, 3, 32, 64))
    assert [tuple(x.shape[1:]) for x in maps] == [(c, 8 // s, 16 // s) for c, s in zip(net.channels, (1, 2, 4, 8))]


@pytest.mark.parametrize(("size", "window", "channels"), [("b", 12, 128), ("l", 12, 192), ("l", 7, 192)])
def test_swin_windows(size, window, channels):
    with torch.device("meta"):
        net = swin(size, window=window, drop_path=0.3)
    assert net.channels == tuple(channels * 2**i for i in range(4))
    tables = [x for name, x in net.named_parameters() if name.endswith("relative_position_bias_table")]
    assert {x.shape[0] for x in tables} == {(2 * window - 1) ** 2}
    assert [x.shape[1] * 32 for x in tables][:: len(tables) - 1] == [channels, channels * 8]  # heads of 32 channels
    assert [norm.normalized_shape[0] for norm in net.norms] == list(net.channels)  # pyright: ignore
    assert net.layers[-1].blocks[-1].drop_path.drop_prob == pytest.approx(0.3)  # pyright: ignore


def test_frozen_statistics_are_buffers_and_do_not_move(mobilenet):
    net = MobileNetV2()
    assert all(p.ndim == 4 for p in net.parameters())
    before = {name: x.clone() for name, x in net.named_buffers()}
    net.train()(torch.randn(2, 3, 33, 33))
    assert before
    assert all(torch.equal(before[name], x) for name, x in net.named_buffers())


def test_learned_statistics_have_the_same_names():
    with torch.device("meta"):
        frozen, learned = MobileNetV2(), MobileNetV2(frozen_norm=False)
    names = {name for name in learned.state_dict() if not name.endswith("num_batches_tracked")}
    assert names == set(frozen.state_dict())
    assert any(p.ndim == 1 for p in learned.parameters())


@pytest.mark.parametrize("make", [MobileNetV2, lambda **options: ResNet(50, stages=3, **options)])
def test_folded_norms_say_what_norms_after_the_convolutions_say(make):
    """Random statistics, so that nothing is 0 or 1 by luck; maps and gradients of the weights."""
    torch.manual_seed(0)
    learned, frozen = make(frozen_norm=False).eval(), make().eval()
    for name, x in learned.state_dict().items():
        if name.endswith("running_var"):
            x.uniform_(0.5, 2)
        elif x.ndim == 1:
            x.add_(0.2 * torch.randn_like(x))
    frozen.load_state_dict({k: x for k, x in learned.state_dict().items() if not k.endswith("num_batches_tracked")})
    images = torch.randn(2, 3, 65, 49)
    expected, got = learned(images), frozen(images)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4 * a.std().item())
    for maps in (expected, got):
        sum((x / x.std().detach()).square().mean() for x in maps).backward()  # pyright: ignore
    weights = dict(learned.named_parameters())
    for name, p in frozen.named_parameters():
        grad = weights[name].grad
        assert p.grad is not None
        assert grad is not None
        assert (p.grad - grad).norm() < 1e-3 * grad.norm(), name


@pytest.mark.parametrize("make", [MobileNetV2, lambda: ResNet(50, stages=3), lambda: swin("t", stages=3)])
def test_the_stem_is_all_that_the_first_map_needs(make):
    """Freezing the stem leaves the first map without a gradient, and the rest with one (but for swin's norm)."""
    torch.manual_seed(0)
    net = make()
    for module in net.stem():
        module.requires_grad_(False)
    first, second, *_ = net(torch.randn(2, 3, 33, 33))
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    reached = set()
    if first.requires_grad:
        first.sum().backward(retain_graph=True)
        reached = {name for name, p in net.named_parameters() if p.grad is not None}
    assert reached <= {"norms.0.weight", "norms.0.bias"}
    assert second.requires_grad
    assert trained
