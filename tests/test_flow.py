"""The training-free baseline: it follows a moving thing, obeys prompts of all kinds, and survives odd sizes."""

import cv2
import numpy as np
import pytest

from tubelet.models import flow
from tubelet.models.flow import DisFlow
from tubelet.types import Frame, Prompt

H, W = 90, 122


def texture(seed: int, h: int = H, w: int = W) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def scene(t: int, speed: int = 3) -> tuple[Frame, np.ndarray]:
    """A reddish disk (1) that goes right and a bluish one (2) that goes left, over a still greenish ground."""
    rgb, labels = texture(0) // 2 + np.array([0, 90, 0], np.uint8), np.zeros((H, W), np.uint8)
    for i, x, y, tint in ((1, 25 + speed * t, 28, (110, 0, 0)), (2, 95 - speed * t, 62, (0, 0, 120))):
        disk = cv2.circle(np.zeros((H, W), np.uint8), (x, y), 13, 1, -1) > 0
        surface = np.roll(texture(i) // 2, speed * t * (1 if i == 1 else -1), 1) + np.array(tint, np.uint8)
        rgb[disk], labels[disk] = surface[disk], i
    return Frame(rgb, t), labels


def iou(a: np.ndarray | bool, b: np.ndarray | bool) -> float:
    return np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b))


def feed(session, frame: Frame, prompt: Prompt | None = None):
    (result,) = session.feed(frame, prompt)
    assert result.index == frame.index
    return result


def test_follows_two_things_to_the_end():
    session = DisFlow().session()
    for t in range(12):
        frame, truth = scene(t)
        result = feed(session, frame, Prompt(truth) if t == 0 else None)
        assert result.objects == (1, 2)
        for i in (1, 2):
            assert iou(result.labels == i, truth == i) > 0.85, (t, i)
    assert session.finish() == []


def test_before_the_first_prompt_there_is_nothing():
    session = DisFlow().session()
    result = feed(session, scene(0)[0])
    assert not result.labels.any()
    assert result.objects == ()
    frame, truth = scene(1)
    assert np.array_equal(feed(session, frame, Prompt(truth)).labels, truth)


def test_void_is_background():
    frame, truth = scene(0)
    given = truth.copy()
    given[:20] = 255
    session = DisFlow().session()
    result = feed(session, frame, Prompt(given))
    assert result.objects == (1, 2)
    assert np.array_equal(result.labels, np.where(given == 255, 0, given))
    session = DisFlow().session()
    assert feed(session, frame, Prompt(np.full((H, W), 255, np.uint8))).objects == ()


def test_a_new_object_is_pasted_over_the_prediction_and_followed():
    session = DisFlow().session()
    frame, truth = scene(0)
    feed(session, frame, Prompt(np.where(truth == 2, 2, 0).astype(np.uint8)))
    for t in range(1, 9):
        frame, truth = scene(t)
        late = Prompt(np.where(truth == 1, 1, 0).astype(np.uint8)) if t == 4 else None
        result = feed(session, frame, late)
        assert result.objects == ((1, 2) if t >= 4 else (2,))
        assert iou(result.labels == 2, truth == 2) > 0.85
        assert iou(result.labels == 1, truth == 1) > (0.85 if t >= 4 else -1)
        assert t >= 4 or not (result.labels == 1).any()


def test_a_correction_is_exact_and_lasts():
    session = DisFlow().session()
    frame, truth = scene(0)
    feed(session, frame, Prompt(np.where(truth > 0, 3 - truth, 0).astype(np.uint8)))  # 1 and 2 swapped by mistake
    for t in range(1, 8):
        frame, truth = scene(t)
        result = feed(session, frame, Prompt(truth) if t == 2 else None)
        if t == 2:
            assert np.array_equal(result.labels, truth)
        if t > 2:
            assert all(iou(result.labels == i, truth == i) > 0.85 for i in (1, 2))


def test_what_a_correction_gives_up_goes_to_what_remains():
    session = DisFlow().session()
    frame, truth = scene(0)
    feed(session, frame, Prompt(truth))
    small = np.zeros((H, W), np.uint8)
    small[25:31, 22:28] = 1
    result = feed(session, frame, Prompt(small))
    assert np.array_equal(result.labels == 1, small == 1)
    assert iou(result.labels == 2, truth == 2) > 0.9
    assert (result.labels == 0).sum() > (truth == 0).sum()


def test_removing_one_leaves_the_other():
    session = DisFlow().session()
    frame, truth = scene(0)
    feed(session, frame, Prompt(truth))
    frame, truth = scene(1)
    result = feed(session, frame, Prompt(remove=(1,)))
    assert result.objects == (2,)
    assert not (result.labels == 1).any()
    assert iou(result.labels == 2, truth == 2) > 0.85
    assert session.colours is not None
    assert session.colours.recent.keys() == session.colours.given.keys() == {0, 2}
    with pytest.raises(ValueError, match="object 1 is not being followed"):
        session.feed(frame, Prompt(remove=(1,)))
    assert feed(session, frame, Prompt(remove=(2,))).objects == ()
    assert np.array_equal(feed(session, frame, Prompt(truth)).labels, truth)


def test_what_has_vanished_stays_known():
    session = DisFlow().session()
    frame, truth = scene(0)
    feed(session, frame, Prompt(np.where(truth == 1, 1, 0).astype(np.uint8)))
    ground = Frame(texture(0) // 2 + np.array([0, 90, 0], np.uint8), 1)
    for _ in range(4):
        result = feed(session, ground)
    assert result.objects == (1,)
    assert not result.labels.any()


def test_sessions_of_one_model_do_not_touch_each_other():
    model, (first, truth), (second, _) = DisFlow(), scene(0), scene(1)
    alone, one, other = model.session(), model.session(), model.session()
    feed(alone, first, Prompt(truth))
    expected = feed(alone, second).labels
    feed(one, first, Prompt(truth))
    feed(other, second, Prompt((truth == 2).astype(np.uint8)))
    assert np.array_equal(feed(one, second).labels, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (17, 3), (33, 45), (1080, 61)])
def test_odd_sizes(size: tuple[int, int]):
    rng = np.random.default_rng(0)
    labels = np.zeros(size, np.uint8)
    labels[-1, -1] = 254
    session = DisFlow().session()
    for t in range(3):
        result = feed(session, Frame(rng.integers(0, 256, (*size, 3), np.uint8), t), Prompt(labels) if t == 0 else None)
        assert result.labels.shape == size
        assert result.objects == (254,)
        assert t > 0 or np.array_equal(result.labels, labels)


def test_a_plain_picture_keeps_its_mask():
    """No texture, one colour: nothing contradicts the mask."""
    labels = np.zeros((64, 64), np.uint8)
    labels[20:40, 20:40] = 7
    session = DisFlow().session()
    for t in range(3):
        result = feed(session, Frame(np.full((64, 64, 3), 99, np.uint8), t), Prompt(labels) if t == 0 else None)
    assert iou(result.labels == 7, labels == 7) > 0.9


def test_errors_are_sentences():
    frame, truth = scene(0)
    session = DisFlow().session()
    with pytest.raises(ValueError, match="give the mask at the frame's own size"):
        session.feed(frame, Prompt(truth[1:]))
    feed(session, frame, Prompt(truth))
    with pytest.raises(ValueError, match="122x89 but the video began as 122x90"):
        session.feed(Frame(frame.rgb[1:], 1))
    assert feed(session, scene(1)[0]).labels.any()  # the session goes on
    with pytest.raises(ValueError, match="long_edge must be at least 32"):
        DisFlow().session(long_edge=8)


def test_flow_tells_what_colours_cannot():
    """A camera that pans over one texture, of which a box is the object."""
    wide, session = texture(0, H, W + 60), DisFlow().session()
    for t in range(10):
        truth = np.zeros((H, W), np.uint8)
        truth[30:60, 70 - 3 * t : 110 - 3 * t] = 1
        rgb = np.ascontiguousarray(wide[:, 3 * t : 3 * t + W])
        labels = feed(session, Frame(rgb, t), Prompt(truth) if t == 0 else None).labels
    assert iou(labels == 1, truth == 1) > 0.75


def test_a_prompt_over_another_object_hides_it():
    labels = np.zeros((H, W), np.uint8)
    labels[20:70, 20:90] = 1
    inner = np.zeros_like(labels)
    inner[35:55, 40:70] = 2
    session = DisFlow().session()
    feed(session, Frame(texture(0), 0), Prompt(labels))
    feed(session, Frame(texture(0), 1), Prompt(inner))
    result = feed(session, Frame(texture(0), 2))
    assert iou(result.labels == 2, inner == 2) > 0.9
    assert iou(result.labels == 1, (labels == 1) & (inner == 0)) > 0.9


def test_recent_colours_move_with_the_flow():
    lab = texture(0, 50, 80)
    colours = flow.LocalColours(lab)
    there = np.zeros((50, 80), np.float32)
    there[20:30, 20:30] = 1
    colours.remember(lab, {1: there}, said=there)
    before = colours.recent[1].sum(2)
    backward = np.full((50, 80, 2), (-2.0 * flow.CELL, 0.0), np.float32)  # the thing came from two cells to the left
    colours.move(backward)
    assert np.allclose(colours.recent[1].sum(2)[1:4, 3:7], before[1:4, 1:5], atol=0.1)
    assert np.array_equal(colours.given[1].sum(2), before)


def test_memory_does_not_grow():
    session = DisFlow().session()
    sizes = set()
    for t in range(6):
        frame, truth = scene(t)
        feed(session, frame, Prompt(truth) if t % 2 == 0 else None)
        assert session.colours is not None
        sizes.add(sum(x.nbytes for d in (session.colours.recent, session.colours.given) for x in d.values()))
    assert len(sizes) == 1


def test_bilinear_reads_between_cells():
    grid = np.zeros((3, 3, 2), np.float32)
    grid[1, 1] = 4, 8
    y, x = np.array([[0.5]], np.float32), np.array([[1.25]], np.float32)
    assert flow.bilinear(grid, y, x).tolist() == [[[1.5, 3.0]]]
    assert flow.bilinear(grid, y, x, np.array([[1]])).tolist() == [[3.0]]


def test_the_palette_finds_the_nearest_colour():
    lab = np.zeros((40, 40, 3), np.uint8)
    lab[:, 20:] = 200, 128, 60
    palette = flow.Palette(lab)
    assert np.abs(palette.colours[palette.index(lab)] - lab).max() <= 4
