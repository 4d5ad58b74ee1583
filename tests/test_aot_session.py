"""Sessions of the AOT family: prompts of all kinds, odd sizes, memory, test-time augmentation."""

import warnings

import numpy as np
import pytest
import torch

from tubelet.models.aot import model as aot
from tubelet.models.aot.memory import Group
from tubelet.models.aot.session import AOTSession, paste
from tubelet.models.base import precision
from tubelet.types import Frame, Prompt
from tubelet.video.resize import argmax_to_frame, labels_to_model, model_size, to_model

H, W = 45, 62


@pytest.fixture(scope="module")
def aott() -> aot.AOT:
    torch.manual_seed(0)
    return aot.build("aot-t").eval()


@pytest.fixture(scope="module")
def aost() -> aot.AOT:
    torch.manual_seed(0)
    return aot.build("aost").eval()


def video(n: int = 6, h: int = H, w: int = W, seed: int = 0) -> list[Frame]:
    rng = np.random.default_rng(seed)
    return [Frame(rng.integers(0, 256, (h, w, 3), np.uint8), i) for i in range(n)]


def boxes(*objects: int, h: int = H, w: int = W, shift: int = 0) -> np.ndarray:
    """Each object a box of its own."""
    out = np.zeros((h, w), np.uint8)
    for i, o in enumerate(objects):
        y, x = (7 * i + shift) % (h - 6), (11 * i) % (w - 8)
        out[y : y + 6, x : x + 8] = o
    return out


def answers(session: AOTSession, frames: list[Frame], prompts: dict[int, Prompt]) -> list[np.ndarray]:
    out = []
    for t, frame in enumerate(frames):
        results = session.feed(frame, prompts.get(t))
        assert [r.index for r in results] == [frame.index]
        assert results[0].labels.shape == frame.rgb.shape[:2]
        assert set(np.unique(results[0].labels)) <= {0, *results[0].objects}
        out.append(results[0].labels)
    assert session.finish() == []
    return out


def test_the_first_answer_is_the_prompt(aott):
    given = boxes(3, 200)
    (result,) = aott.session().feed(video()[0], Prompt(given))
    assert (result.labels == given).all()
    assert result.objects == (3, 200)


def test_frames_before_the_first_prompt_are_empty(aott):
    session = aott.session()
    early = session.feed(video()[0])[0]
    assert not early.labels.any()
    assert early.objects == ()
    late = [session.feed(frame, Prompt(boxes(1)) if frame.index == 2 else None)[0] for frame in video()[1:]]
    assert [r.objects for r in late] == [(), (1,), (1,), (1,), (1,)]
    # what came before the prompt leaves no trace
    fresh = answers(aott.session(), video()[2:], {0: Prompt(boxes(1))})
    assert all((a.labels == b).all() for a, b in zip(late[1:], fresh))


def test_a_prompt_with_nothing_in_it_is_no_prompt(aott):
    session = aott.session()
    void = np.full((H, W), 255, np.uint8)
    assert session.feed(video()[0], Prompt(void))[0].objects == ()
    one = answers(aott.session(), video(), {0: Prompt(boxes(1))})
    other = answers(aott.session(), video(), {0: Prompt(boxes(1)), 2: Prompt(np.zeros((H, W), np.uint8)), 3: Prompt()})
    assert all((a == b).all() for a, b in zip(one, other))


def test_void_in_a_prompt_is_background(aott):
    given = boxes(1, 2)
    void = np.where(given == 0, 255, given).astype(np.uint8)
    one, other = (answers(aott.session(), video(), {0: Prompt(x)}) for x in (given, void))
    assert all((a == b).all() for a, b in zip(one, other))


def test_a_new_object_later_is_pasted_over_the_prediction(aost):
    frames, late = video(), boxes(0, 9)
    plain = answers(aost.session(), frames, {0: Prompt(boxes(1))})
    session = aost.session()
    got = answers(session, frames, {0: Prompt(boxes(1)), 3: Prompt(late)})
    assert all((a == b).all() for a, b in zip(plain[:3], got))
    assert (got[3] == np.where(late == 9, 9, plain[3])).all()
    assert session.objects == (1, 9)
    assert session.views[0].groups[0].long[0].given == [True, True]


def test_a_correction_is_exactly_what_was_given(aost):
    frames = video()
    session = aost.session()
    corrected = boxes(0, 0, 1)
    got = answers(session, frames, {0: Prompt(boxes(1, 2)), 3: Prompt(corrected)})
    assert ((got[3] == 1) == (corrected == 1)).all()
    assert session.objects == (1, 2)
    assert session.views[0].groups[0].slots == {1: 1, 2: 2}
    assert session.views[0].groups[0].long[0].given == [True, True]


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"scales": (1.0, 1.3)}])
def test_corrections_of_all_objects_leave_no_old_mask(aott, options):
    given = boxes(0, 1, 0, 2)
    got = answers(aott.session(**options), video(), {0: Prompt(boxes(1, 2)), 2: Prompt(given)})
    assert (got[2] == given).all()


def test_removal(aost):
    session = aost.session()
    got = answers(session, video(), {0: Prompt(boxes(1, 2)), 2: Prompt(remove=(1,)), 4: Prompt(remove=(2,))})
    assert all(1 not in x for x in got[2:])
    assert not got[4].any()
    assert not got[5].any()
    assert session.objects == ()
    assert session.views[0].groups == []
    # and something new may begin
    assert (session.feed(video(7)[6], Prompt(boxes(1)))[0].labels == boxes(1)).all()


def test_remove_and_give_again_is_a_new_identity(aott):
    session = aott.session()
    answers(session, video(3), {0: Prompt(boxes(1, 2)), 2: Prompt(boxes(0, 0, 1), remove=(1,))})
    assert session.views[0].groups[0].slots == {2: 2, 1: 3}


def test_removing_a_stranger_changes_nothing(aott):
    session = aott.session()
    session.feed(video()[0], Prompt(boxes(1, 2)))
    with pytest.raises(ValueError, match=r"object 5 is not being followed; those that are: \(1, 2\)"):
        session.feed(video()[1], Prompt(remove=(1, 5)))
    assert session.objects == (1, 2)


def test_thirteen_objects(aott):
    ids = list(range(20, 33))
    given = boxes(*ids, h=65, w=81)
    assert set(np.unique(given)) == {0, *ids}
    session = aott.session()
    answers(session, video(4, 65, 81), {0: Prompt(given)})
    assert [len(group.slots) for group in session.views[0].groups] == [10, 3]
    assert session.objects == tuple(ids)


def test_the_eleventh_object_comes_later(aott):
    session = aott.session()
    frames = video(4, 65, 81)
    answers(session, frames, {0: Prompt(boxes(*range(1, 11), h=65, w=81)), 2: Prompt(boxes(50, h=65, w=81))})
    assert [list(group.slots) for group in session.views[0].groups] == [list(range(1, 11)), [50]]
    assert session.feed(Frame(frames[0].rgb, 4))[0].objects == (*range(1, 11), 50)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 33), (16, 97), (50, 51)])
def test_odd_frame_sizes(aott, size):
    given = np.zeros(size, np.uint8)
    given[0, 0] = 1  # an object of one pixel
    got = answers(aott.session(), video(3, *size), {0: Prompt(given)})
    assert (got[0] == given).all()


def test_a_mask_of_another_size(aott):
    with pytest.raises(ValueError, match="mask is 62x44 but the frame is 62x45"):
        aott.session().feed(video()[0], Prompt(boxes(1)[:-1]))


def test_a_refused_prompt_leaves_the_session_as_it_was(aott):
    session = aott.session()
    session.feed(video()[0], Prompt(boxes(1)))
    with pytest.raises(ValueError, match="mask"):
        session.feed(video()[1], Prompt(boxes(1)[:-1], remove=(1,)))
    again = [session.feed(frame)[0].labels for frame in video()[1:]]
    plain = answers(aott.session(), video(), {0: Prompt(boxes(1))})[1:]
    assert all((a == b).all() for a, b in zip(again, plain))


def test_a_frame_of_another_size(aott):
    session = aott.session()
    session.feed(video()[0], Prompt(boxes(1)))
    with pytest.raises(ValueError, match="frame 1 is 40x45 but the video began as 62x45"):
        session.feed(video(2, H, 40)[1])


@pytest.mark.parametrize("options", [{"scales": ()}, {"scales": (1.0, 0.0)}, {"max_memory": 0}, {"depth": 2}])
def test_arguments_that_make_no_sense(aott, options):
    with pytest.raises(ValueError, match=r"must be|one depth"):
        aott.session(**options)


def test_two_sessions_share_a_model(aost):
    one, other = video(), video(seed=1)
    expected = [
        answers(aost.session(), one, {0: Prompt(boxes(1, 2))}),
        answers(aost.session(), other, {0: Prompt(boxes(5))}),
    ]
    a, b = aost.session(), aost.session()
    for t in range(6):
        left = a.feed(one[t], Prompt(boxes(1, 2)) if t == 0 else None)[0]
        right = b.feed(other[t], Prompt(boxes(5)) if t == 0 else None)[0]
        assert (left.labels == expected[0][t]).all()
        assert (right.labels == expected[1][t]).all()


def test_a_session_is_a_loop_over_its_group(aost):
    """Frames to the model's size, predict, argmax at the frame's own size, labels back to the model's size."""
    frames, gap = video(5), 2
    size = model_size(H, W)
    group = Group(aost, gap=gap, cap=10)
    group.assign(2)  # ascending ids get identities in order
    group.assign(4)
    with torch.inference_mode():
        encoded = [aost.encode_image(to_model(f.rgb, size)[None]) for f in frames]
        given = boxes(4, 2)
        group.refer(encoded[0], labels_to_model(given, size), 0)
        expected = [given]
        for t in range(1, 5):
            channels = argmax_to_frame(group.predict(encoded[t], 3), (H, W), align_corners=True)
            expected.append(np.array([0, 2, 4], np.uint8)[channels])
            group.memorize(labels_to_model(expected[-1], size), t)
    got = answers(aost.session(memory_gap=gap), frames, {0: Prompt(given)})
    assert all((a == b).all() for a, b in zip(got, expected))
    assert any(len(np.unique(x)) > 1 for x in expected[1:])


@pytest.mark.parametrize("cap", [1, 3])
def test_memory_is_bounded(aost, cap):
    session = aost.session(memory_gap=1, max_memory=cap)
    held = []
    for t, frame in enumerate(video(9, 17, 33)):
        session.feed(frame, Prompt(boxes(1, h=17, w=33)) if t == 0 else None)
        held.append([long.read().key.shape[1] for long in session.views[0].groups[0].long])
    tokens = 2 * 3
    assert held == [[min(t + 1, cap) * tokens] * 3 for t in range(9)]
    assert session.views[0].groups[0].long[0].given[0]


def test_unbounded_memory_is_the_papers(aost):
    session = aost.session(memory_gap=1, max_memory=None)
    answers(session, video(13, 17, 17), {0: Prompt(boxes(1, h=17, w=17))})
    assert len(session.views[0].groups[0].long[0].given) == 13


def test_memory_gap_of_a_session(aost, aott):
    assert aost.session().gap == 5
    assert aott.session().gap is None
    assert aott.session(memory_gap=2).gap == 2
    session = aost.session(memory_gap=None)
    answers(session, video(8, 17, 17), {0: Prompt(boxes(1, h=17, w=17))})
    assert session.views[0].groups[0].long[0].given == [True]


def test_depth_changes_between_frames(aost):
    session, frames = aost.session(memory_gap=2), video()
    plain = answers(aost.session(memory_gap=2), frames, {0: Prompt(boxes(1, 2))})
    session.feed(frames[0], Prompt(boxes(1, 2)))
    for frame, depth in zip(frames[1:], (3, 1, 3, 2, 3)):
        session.depth = depth
        result = session.feed(frame)[0]
        if frame.index == 1:
            assert (result.labels == plain[1]).all()
    with pytest.raises(ValueError, match=r"1\.\.3"):
        session.depth = 4
    assert session.depth == 3


def test_no_augmentation_is_plain(aott):
    plain = answers(aott.session(), video(), {0: Prompt(boxes(1, 2))})
    got = answers(aott.session(scales=(1.0,), flip=False), video(), {0: Prompt(boxes(1, 2))})
    assert all((a == b).all() for a, b in zip(plain, got))


def test_augmentation_runs_and_keeps_a_memory_per_view(aott):
    session = aott.session(scales=(0.8, 1.3), flip=True, memory_gap=2)
    answers(session, video(), {0: Prompt(boxes(1, 2)), 3: Prompt(boxes(0, 0, 7)), 4: Prompt(remove=(2,))})
    assert [(view.scale, view.flip) for view in session.views] == [(0.8, False), (0.8, True), (1.3, False), (1.3, True)]
    assert len({view.size for view in session.views}) == 2
    assert all(list(view.groups[0].slots) == [1, 7] for view in session.views)
    values = [view.groups[0].short[0].value for view in session.views]
    assert not torch.equal(values[0], values[1])


def test_augmentation_with_two_groups(aott):
    got = answers(aott.session(flip=True), video(3, 65, 81), {0: Prompt(boxes(*range(1, 14), h=65, w=81))})
    assert len(got) == 3


def test_two_equal_views_are_one(aott):
    """The mean of the same answer twice is that answer, and each view remembers it."""
    one = answers(aott.session(scales=(1.0,)), video(), {0: Prompt(boxes(1, 2))})
    two = answers(aott.session(scales=(1.0, 1.0)), video(), {0: Prompt(boxes(1, 2))})
    assert all((a == b).all() for a, b in zip(one, two))


def test_a_mirrored_video_gives_mirrored_views(aott):
    """The flipped view of a video is the plain view of the flipped video, at a size that needs no resizing."""
    given = boxes(1, 2, h=33, w=49)
    session = aott.session(flip=True)
    plain = aott.session()
    frames = video(2, 33, 49)
    session.feed(frames[0], Prompt(given))
    plain.feed(Frame(frames[0].rgb[:, ::-1].copy(), 0), Prompt(given[:, ::-1].copy()))
    a, b = session.views[1].groups[0], plain.views[0].groups[0]
    torch.testing.assert_close(a.short[0].value, b.short[0].value)


def test_determinism(aost):
    runs = [answers(aost.session(), video(), {0: Prompt(boxes(1, 2))}) for _ in range(2)]
    assert all((a == b).all() for a, b in zip(*runs))


@pytest.mark.parametrize("name", ["aot-t", "aost"])
def test_bf16_autocast(name, aott, aost):
    model = {"aot-t": aott, "aost": aost}[name]
    session = model.session(autocast=torch.bfloat16, memory_gap=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = answers(session, video(), {0: Prompt(boxes(1, 2)), 3: Prompt(boxes(0, 0, 3))})
    assert len(got) == 6
    assert session.views[0].groups[0].long[0].read().key.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_bf16_logits_are_close(aost):
    frames = video(2)
    sessions = [aost.session(autocast=a) for a in (None, torch.bfloat16)]
    logits = []
    with torch.inference_mode():
        for session in sessions:
            session.feed(frames[0], Prompt(boxes(1)))
            with precision(session.autocast, torch.device("cpu")):
                view = session.views[0]
                logits.append(view.predict(view.encode(frames[1].rgb, torch.device("cpu")), 3)[0])
    assert logits[1].dtype == torch.float32
    assert (logits[0] - logits[1]).abs().max() < 0.1 * logits[0].std() + 0.05


def test_paste():
    given, below = np.array([[0, 255, 3]], np.uint8), np.array([[1, 2, 4]], np.uint8)
    assert paste(given, below).tolist() == [[1, 2, 3]]


def test_the_callers_arrays_are_left_alone(aott):
    frame, given = video()[0], boxes(1)
    rgb, mask = frame.rgb.copy(), given.copy()
    session = aott.session()
    first = session.feed(frame, Prompt(given))[0].labels
    first[:] = 9
    session.feed(video()[1])
    assert (frame.rgb == rgb).all()
    assert (given == mask).all()
