import torch

from tubelet.nn.feed_forward import FeedForward


def test_shortcut_then_norm():
    torch.manual_seed(0)
    net, x = FeedForward(8, 3), torch.randn(2, 5, 8)
    before = x.clone()
    hidden = (x @ net.expand.weight.T + net.expand.bias).clamp(min=0)
    y = x + hidden @ net.reduce.weight.T + net.reduce.bias
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(net(x), y)
    assert torch.equal(x, before)
