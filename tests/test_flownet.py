import pytest
import torch

from tubelet.nn.flownet import FlowDecoder, FlowEncoder


def test_strides_and_channels():
    with torch.inference_mode():
        maps = FlowEncoder()(torch.randn(1, 6, 64, 128))
    assert [tuple(x.shape[1:]) for x in maps] == [(128, 16, 32), (256, 8, 16), (512, 4, 8), (512, 2, 4), (1024, 1, 2)]
    assert FlowEncoder().channels == (128, 256, 512, 512, 1024)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (61, 35), (240, 428)])
def test_any_size_comes_back_at_a_quarter(size):
    encoder = FlowEncoder()
    decoder = FlowDecoder(1024, (512, 512, 256, 128), (16, 8, 8, 4))
    with torch.inference_mode():
        maps = encoder(torch.randn(1, 6, *size))
        flow = decoder(maps[::-1])
    assert flow.shape == (1, 2, *maps[0].shape[2:])
    assert flow.shape[2:] == tuple((n + 3) // 4 for n in size)


def test_parameters():
    """The published network: 38.68 M, the encoder 24.05 M."""
    encoder = FlowEncoder()
    decoder = FlowDecoder(1024, (512, 512, 256, 128), (512, 256, 128, 64))
    own, all_ = (sum(p.numel() for m in parts for p in m.parameters()) for parts in ([encoder], [encoder, decoder]))
    assert own == pytest.approx(24.051e6, abs=1e3)
    assert all_ == pytest.approx(38.6755e6, abs=1e3)


def test_every_flow_is_given_to_the_next():
    """The flow of the coarsest level reaches the finest only through the enlarged flows, if features are cut."""
    decoder = FlowDecoder(4, (4, 4), (4, 4))
    with torch.no_grad():
        for layer in decoder.enlarge:
            layer.weight.zero_()  # pyright: ignore[reportCallIssue]
    maps = [torch.randn(1, 4, 2, 2), torch.randn(1, 4, 4, 4), torch.randn(1, 4, 8, 8)]
    before = decoder(maps)
    after = decoder([maps[0] + 1, *maps[1:]])
    assert not torch.equal(before, after)
