"""Our Swin: windows, shifts, padding, and equality with timm's where the two agree."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

import timm
import torch

from tubelet.nn.swin import Block, PatchMerging, SwinTransformer, from_windows, relative_position_index, to_windows


def test_windows_and_back():
    x = torch.randn(2, 6, 9, 4)
    windows = to_windows(x, 3)
    assert windows.shape == (12, 9, 4)
    torch.testing.assert_close(windows[1].view(3, 3, 4), x[0, :3, 3:6])
    torch.testing.assert_close(from_windows(windows, 3, 6, 9), x)


def test_relative_position_index():
    index = relative_position_index(2)
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert relative_position_index(7).unique().numel() == 169


def test_a_shifted_window_sees_no_stranger():
    """Places that only the cyclic shift brought together do not exchange anything, whatever the size."""
    torch.manual_seed(0)
    block = Block(8, 2, 4, shift=2, drop_path=0.0).double()
    x = torch.randn(1, 7, 10, 8, dtype=torch.float64, requires_grad=True)
    y = block.attention(x)
    reach = torch.autograd.grad(y[0, 0, 0].sum(), x)[0][0].abs().sum(-1) > 1e-12
    assert reach[:2, :2].all()
    assert reach.sum() == 4  # the first window of a shift by two is two by two


def test_merging_pads_odd_maps():
    merge = PatchMerging(4)
    x = torch.randn(1, 5, 3, 4)
    padded = torch.zeros(1, 6, 4, 4)
    padded[:, :5, :3] = x
    torch.testing.assert_close(merge(x), merge(padded))
    assert merge(x).shape == (1, 3, 2, 8)


def test_odd_images_are_padded_to_patches():
    net = SwinTransformer(8, (2, 2), (2, 2), window=4, stages=2).eval()
    image = torch.randn(1, 3, 30, 37)
    padded = torch.zeros(1, 3, 32, 40)
    padded[:, :, :30, :37] = image
    for a, b in zip(net(image), net(padded)):
        torch.testing.assert_close(a, b)


@torch.inference_mode()
def test_equals_timm_on_whole_windows():
    torch.manual_seed(0)
    options = {
        "embed_dim": 16,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "window_size": 4,
        "img_size": 64,
        "num_classes": 0,
    }
    theirs = timm.models.swin_transformer.SwinTransformer(**options).eval()
    ours = SwinTransformer(16, (2, 2), (2, 4), window=4, stages=2).eval()
    # timm merges before a stage, we after it; it has one final norm, we one per output
    state = {name.replace("layers.1.downsample", "layers.0.downsample"): x for name, x in theirs.state_dict().items()}
    state = {name: x for name, x in state.items() if not name.startswith("norm.") and "attn_mask" not in name}
    rest = ours.load_state_dict({n: x for n, x in state.items() if "relative_position_index" not in n}, strict=False)
    assert all(name.startswith("norms.") for name in rest.missing_keys)
    assert not rest.unexpected_keys
    image = torch.randn(1, 3, 64, 64)
    expected = theirs.layers(theirs.patch_embed(image))
    torch.testing.assert_close(ours(image)[-1], ours.norms[-1](expected).permute(0, 3, 1, 2), atol=1e-4, rtol=0)


def test_drop_path_runs_over_all_stages():
    net = SwinTransformer(8, (2, 2, 2, 2), (1, 1, 1, 1), drop_path=0.7, stages=2)
    rates = [block.drop_path.drop_prob for stage in net.layers for block in stage.blocks]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.7, 8)[:4])


def test_builds_without_data():
    with torch.device("meta"):
        net = SwinTransformer(8, (2, 2), (1, 1), stages=2, drop_path=0.1)
    assert net.patch_embed.proj.weight.is_meta
