"""The LSTT against plain formulations of the paper's equations."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

import pytest
import torch
from torch import nn

from tubelet.models.aot.blocks import LSTT, AddIdentity, Decoder, FeedForward, GateIdentity, Memory, one_hot
from tubelet.nn.attention import attend
from tubelet.nn.position import sine_position

SIZE, HW, C = (2, 3), 6, 256


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def lstt() -> LSTT:
    torch.manual_seed(0)
    lstt = LSTT(C, 2, gated=True).eval()
    for block in lstt.blocks:
        nn.init.normal_(block.short_attention.relative_value, std=0.1)
    return lstt


def test_block_v1_projects_after_adding_the_identity():
    identity = AddIdentity(C)
    x, e = noise(1, HW, C), noise(1, HW, C, seed=1)
    memory = identity.memorize(identity.match(x), e)
    torch.testing.assert_close(memory.key, x @ identity.match_key.weight.T + identity.match_key.bias)
    torch.testing.assert_close(memory.value, (x + e) @ identity.value.weight.T + identity.value.bias)


def test_block_v2_gates_each_head_of_the_key():
    identity = GateIdentity(C)
    x, e = noise(1, HW, C), noise(1, HW, C, seed=1)
    memory = identity.memorize(identity.match(x), e)
    weight, bias = identity.match_key_value.weight, identity.match_key_value.bias
    key, value = x @ weight[:C].T + bias[:C], x @ weight[C:].T + bias[C:]
    weight, bias = identity.identity_gate_value.weight, identity.identity_gate_value.bias
    for head in range(8):
        c = slice(32 * head, 32 * head + 32)
        gate = 1 + torch.tanh(e @ weight[head] + bias[head])
        torch.testing.assert_close(memory.key[..., c], key[..., c] * gate[..., None], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(memory.value, value + e @ weight[8:].T + bias[8:], atol=1e-5, rtol=1e-5)


def test_feed_forward():
    ff = FeedForward(64, 128)
    x = noise(1, HW, 64)
    hidden = nn.functional.gelu(ff.norm(ff.expand(x).transpose(1, 2).reshape(1, 128, *SIZE)))
    torch.testing.assert_close(ff(x, SIZE), ff.reduce(ff.conv(hidden).reshape(1, 128, HW).transpose(1, 2)))


@torch.no_grad()
def test_a_block_is_figure_3c(lstt):
    """Self-attention with the position on query and key alone; long plus short on one query; feed-forward."""
    block, position = lstt.blocks[0], sine_position(*SIZE, C)
    x, e = noise(1, HW, C), noise(1, HW, C, seed=1)
    long = Memory(noise(1, 3 * HW, C, seed=2), noise(1, 3 * HW, C, seed=3))
    short = Memory(noise(1, HW, C, seed=4), noise(1, HW, C, seed=5))
    outputs, matched = lstt.propagate(x, SIZE, position, [(long, short)])

    normed, attention = block.norm1(x), block.self_attention
    q, k = attention.query(normed + position), attention.key(normed + position)
    y = x + attention.projection(attend(q, k, attention.value(normed), 8))
    key, value = block.identity.match_key_value(block.norm2(y)).chunk(2, 2)
    torch.testing.assert_close(matched[0].key, key)
    torch.testing.assert_close(matched[0].value, value)
    y = y + block.long_projection(attend(key, long.key, long.value, 8))
    y = y + block.short_attention(key, short.key, short.value, SIZE)
    y = y + block.feed_forward(block.norm3(y), SIZE)
    torch.testing.assert_close(outputs[0], lstt.norms[0](y))
    assert len(outputs) == 1
    assert lstt.memorize(matched, e)[0].key.shape == (1, HW, C)


@torch.no_grad()
def test_referring_is_propagating_with_oneself_as_memory(lstt):
    position = sine_position(*SIZE, C)
    x, e = noise(1, HW, C), noise(1, HW, C, seed=1)
    referred, memory = lstt.refer(x, SIZE, position, e, 2)
    propagated, matched = lstt.propagate(x, SIZE, position, [(m, m) for m in memory])
    for a, b in zip([*referred, *memory], [*propagated, *lstt.memorize(matched, e)]):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_the_first_blocks_do_not_depend_on_the_depth(lstt):
    """What makes AOST scalable: depth 1 is the beginning of depth 2."""
    position, x, e = sine_position(*SIZE, C), noise(1, HW, C), noise(1, HW, C, seed=1)
    shallow, deep = lstt.refer(x, SIZE, position, e, 1), lstt.refer(x, SIZE, position, e, 2)
    torch.testing.assert_close(shallow[0][0], deep[0][0])
    torch.testing.assert_close(shallow[1][0].value, deep[1][0].value)
    assert (len(shallow[0]), len(deep[0])) == (1, 2)


@torch.no_grad()
def test_the_order_of_long_term_frames_does_not_matter(lstt):
    position, x = sine_position(*SIZE, C), noise(1, HW, C)
    short = Memory(noise(1, HW, C, seed=4), noise(1, HW, C, seed=5))
    key, value, order = noise(1, 2 * HW, C, seed=2), noise(1, 2 * HW, C, seed=3), torch.randperm(2 * HW)
    one, _ = lstt.propagate(x, SIZE, position, [(Memory(key, value), short)])
    other, _ = lstt.propagate(x, SIZE, position, [(Memory(key[:, order], value[:, order]), short)])
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_shared_uses_one_block():
    lstt = LSTT(C, 3, gated=True, shared=True)
    assert len(lstt.blocks) == len(lstt.norms) == 1
    assert lstt.block(0) is lstt.block(2)


def test_drop_path_leaves_the_memory_branch_alone():
    """With every drop-path branch dropped, a block is x + long + short."""
    torch.manual_seed(0)
    block = LSTT(C, 1, gated=False).train().blocks[0]
    block.drop_path.drop_prob, block.drop_path.scale_by_keep = 1.0, False
    x, m = noise(1, HW, C), Memory(noise(1, HW, C, seed=2), noise(1, HW, C, seed=3))
    torch.testing.assert_close(block.attend_itself(x, sine_position(*SIZE, C)), x)
    matched = block.identity.match(x)
    expected = x + block.long_projection(attend(matched.key, m.key, m.value, 8))
    expected = expected + block.short_attention(matched.key, m.key, m.value, SIZE)
    torch.testing.assert_close(block.attend_memory(x, matched, m, m, SIZE), expected)


def test_initialisation_of_drop_path_is_constant():
    assert [block.drop_path.drop_prob for block in LSTT(C, 3, gated=False).blocks] == [0.1] * 3


def test_decoder_takes_odd_maps_and_has_an_entrance_per_depth():
    decoder = Decoder([512, 768], (24, 32, 96), 11, channels=C, align_corners=True)
    shortcuts = decoder.adapt([noise(2, 24, 9, 13), noise(2, 32, 5, 7), noise(2, 96, 3, 4)])
    assert decoder(noise(2, 512, 3, 4), shortcuts, 0).shape == (2, 11, 9, 13)
    assert decoder(noise(2, 768, 3, 4), shortcuts, 1).shape == (2, 11, 9, 13)


def test_one_hot():
    ids = torch.tensor([[[0, 2], [1, 0]]], dtype=torch.uint8)
    out = one_hot(ids, 3)
    assert out.shape == (1, 3, 2, 2)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.argmax(1), ids.long())
    torch.testing.assert_close(out.sum(1), torch.ones(1, 2, 2))
