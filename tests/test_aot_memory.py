"""What a group remembers, for how long, and how groups are merged."""

import pytest
import torch

from tubelet.models.aot import model as aot
from tubelet.models.aot.blocks import Memory
from tubelet.models.aot.memory import Group, LongTermMemory, merge_groups


def frame(number: int, tokens: int = 2) -> Memory:
    return Memory(torch.full((1, tokens, 4), float(number)), torch.full((1, tokens, 4), float(-number)))


def held(memory: LongTermMemory) -> list[int]:
    assert torch.equal(memory.read().key, -memory.read().value)
    return [int(x) for x in memory.read().key[0, ::2, 0]]


def fill(cap: int | None, given: str) -> list[int]:
    """Frames 0, 1, ... of which those marked g have given masks."""
    memory = LongTermMemory(cap)
    for i, kind in enumerate(given):
        memory.add(frame(i), given=kind == "g")
    return held(memory)


@pytest.mark.parametrize(
    ("cap", "given", "expected"),
    [
        (None, "g" + "p" * 30, list(range(31))),
        (1, "gppp", [0]),
        (1, "ggg", [0, 1, 2]),  # more given frames than the cap
        (2, "gpppp", [0, 4]),
        (3, "gpppp", [0, 3, 4]),
        (3, "gppg", [0, 2, 3]),  # a given frame displaces a predicted one
        (3, "gpgpp", [0, 2, 4]),
        (3, "gpgg", [0, 2, 3]),
        (3, "gpggg", [0, 2, 3, 4]),
        (3, "ggggpp", [0, 1, 2, 3]),  # no place for predicted ones
    ],
)
def test_cap(cap, given, expected):
    assert fill(cap, given) == expected


def test_nothing_to_read():
    with pytest.raises(AssertionError):
        LongTermMemory(3).read()


# ---- merging


def test_one_group_is_left_as_it_is():
    logits = torch.randn(4, 2, 3)
    assert merge_groups([logits]) is logits


def test_merging_is_the_formula():
    a, b = torch.randn(11, 2, 3), torch.randn(4, 2, 3)
    p, q = a.softmax(0), b.softmax(0)
    expected = torch.cat((p[:1] * q[:1], p[1:], q[1:])).clamp(1e-5, 1 - 1e-5)
    torch.testing.assert_close(merge_groups([a, b]), (expected / (1 - expected)).log())


def test_merging_certain_groups_is_finite():
    a = torch.tensor([-1e4, 1e4]).view(2, 1, 1)
    merged = merge_groups([a, a.flip(0), a.flip(0)])
    assert torch.isfinite(merged).all()
    assert merged.argmax(0).item() == 1
    assert merge_groups([a.flip(0)] * 3).argmax(0).item() == 0


# ---- a group


@pytest.fixture(scope="module")
def model() -> aot.AOT:
    torch.manual_seed(0)
    return aot.build("aost").eval()


@pytest.fixture(scope="module")
def frames(model) -> list:
    with torch.inference_mode():
        g = torch.Generator().manual_seed(1)
        return [model.encode_image(torch.randn(1, 3, 33, 49, generator=g)) for _ in range(8)]


def labels(*objects: int) -> torch.Tensor:
    out = torch.zeros(33, 49, dtype=torch.uint8)
    for i, o in enumerate(objects):
        out[4 + 8 * i : 12 + 8 * i, 5:25] = o
    return out


def following(model, *objects: int, gap: int | None = 1, cap: int | None = None) -> Group:
    group = Group(model, gap=gap, cap=cap)
    for o in objects:
        group.assign(o)
    return group


def drive(group: Group, frames: list, depths: list[int], *objects: int) -> list[torch.Tensor]:
    """Refers on the first frame, then predicts each with the given depth and is told the truth."""
    group.refer(frames[0], labels(*objects), 0)
    out = []
    for t, depth in enumerate(depths, 1):
        out.append(group.predict(frames[t], depth))
        group.memorize(labels(*objects), t)
    return out


@torch.inference_mode()
@pytest.mark.parametrize(("gap", "remembered"), [(None, 1), (1, 8), (2, 4), (3, 3), (5, 2), (7, 2), (8, 1)])
def test_gap(model, frames, gap, remembered):
    group = following(model, 1, gap=gap)
    drive(group, frames, [1] * 7, 1)
    assert len(group.long[0].given) == remembered
    assert group.long[0].read().key.shape[1] == remembered * 12


@torch.inference_mode()
def test_a_given_frame_restarts_the_gap(model, frames):
    group = following(model, 1, gap=3)
    drive(group, frames, [1, 1], 1)
    group.refer(frames[3], labels(1), 2)
    for t in (3, 4, 5):
        group.predict(frames[t], 1)
        group.memorize(labels(1), t)
    assert group.long[0].given == [True, True, False]


def test_identities_are_local_and_never_used_twice(model):
    group = following(model, 7, 254, 3)
    group.remove(254)
    assert not group.full
    group.assign(9)
    assert group.slots == {7: 1, 3: 3, 9: 4}
    ids = group.identities(torch.tensor([[0, 7, 254], [3, 9, 255]], dtype=torch.uint8))
    assert ids.tolist() == [[[0, 1, 0], [3, 4, 0]]]


def test_ten_objects_fill_a_group_removed_ones_too(model):
    group = following(model, *range(1, 11))
    assert group.full
    group.remove(4)
    assert group.full
    with pytest.raises(AssertionError):
        group.assign(11)


@torch.inference_mode()
def test_logits_are_those_of_the_followed(model, frames):
    """Background first, then the objects in the order of their slots; a removed one has none."""
    group = following(model, 5, 2)
    first = drive(group, frames, [3], 5, 2)[0]
    assert first.shape == (3, 9, 13)
    group.predict(frames[2], 3)
    both = group.predict(frames[2], 3)
    group.remove(5)
    torch.testing.assert_close(group.predict(frames[2], 3), both[[0, 2]])


@torch.inference_mode()
def test_naming_the_constant_depth_changes_nothing(model, frames):
    """Depth 2 asked for anew at every frame is depth 2 of a model that has no third block."""
    plain = drive(following(model, 1), frames, [2] * 4, 1)
    shallow = aot.AOT(model.encoder, depth=2, gated=True, scalable=True).eval()
    state = {n: x for n, x in model.state_dict().items() if n in shallow.state_dict()}
    shallow.load_state_dict(state)
    for a, b in zip(plain, drive(following(shallow, 1), frames, [2] * 4, 1)):
        torch.testing.assert_close(a, b)


@torch.inference_mode()
def test_depth_down_and_up_again(model, frames):
    changed = drive(following(model, 1), frames, [3, 1, 1, 3, 3], 1)
    constant = drive(following(model, 1), frames, [3] * 5, 1)
    shallow = drive(following(model, 1), frames, [1] * 5, 1)
    torch.testing.assert_close(changed[0], constant[0])
    # the first block has been there all the time, so a shallow frame is that of a shallow session
    torch.testing.assert_close(changed[1], shallow[1])
    torch.testing.assert_close(changed[2], shallow[2])
    assert all(torch.isfinite(x).all() for x in changed)
    assert changed[3].shape == constant[3].shape
    assert not torch.allclose(changed[3], shallow[3])


@torch.inference_mode()
def test_deeper_blocks_meet_the_previous_frame_as_given(model, frames):
    group = following(model, 1, gap=None)
    drive(group, frames, [1, 1], 1)
    group.predict(frames[3], 3)
    _, memory = model.refer(frames[2], model.embed_ids(labels(1)[None]))
    assert len(group.short) == 3
    torch.testing.assert_close(group.short[2].value, memory[2].value)
    torch.testing.assert_close(group.short[1].key, memory[1].key)


@torch.inference_mode()
def test_two_groups_on_one_encoder_do_not_touch_each_other(model, frames):
    alone = drive(following(model, 1), frames, [3, 3], 1)
    one, other = following(model, 1), following(model, 2)
    one.refer(frames[0], labels(1), 0)
    other.refer(frames[0], labels(0, 2), 0)
    for t in (1, 2):
        torch.testing.assert_close(one.predict(frames[t], 3), alone[t - 1])
        other.predict(frames[t], 3)
        one.memorize(labels(1), t)
        other.memorize(labels(0, 2), t)
