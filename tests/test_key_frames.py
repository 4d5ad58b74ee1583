import cv2
import numpy as np
import pytest
import torch

from tubelet.models import mpvss
from tubelet.models.key_frames import can_win, dis_flow, label_map, relevant
from tubelet.models.mpvss import MPVSS, class_scores, picture
from tubelet.nn.warp import warp
from tubelet.types import Frame, LabelFrame, Prompt
from tubelet.video.resize import logits_to_frame


def tiny(motion: str = "query", classes: int = 5) -> MPVSS:
    """A model whose masks and classes differ from place to place, and whose flow is not constant."""
    torch.manual_seed(0)
    model = mpvss.build("mpvss-tiny", classes, motion=motion)
    heads = model.segmentor.decoder.heads
    torch.nn.init.normal_(heads.class_embed.weight, std=0.5)
    torch.nn.init.normal_(heads.mask_embed[2].weight, std=1.0)  # type: ignore[arg-type]
    return model.eval()


def frames(n: int = 8, size: tuple[int, int] = (64, 96), pace: int = 2) -> list[Frame]:
    """A texture that moves to the left."""
    rng = np.random.default_rng(0)
    wide = cv2.resize(rng.integers(0, 255, (9, 30, 3), np.uint8), (size[1] + pace * n, size[0]))
    return [Frame(np.ascontiguousarray(wide[:, pace * t : pace * t + size[1]]), t) for t in range(n)]


def run(model: MPVSS, video: list[Frame], **options) -> tuple[list[np.ndarray], int]:
    session = model.session(**{"short_edge": 64, "long_edge": 96, **options})
    out = [result for frame in video for result in session.feed(frame)]
    assert session.finish() == []
    assert [result.index for result in out] == [frame.index for frame in video]
    return [result.labels for result in out], session.keys


@pytest.mark.parametrize("size", [(1, 1), (37, 50), (64, 96)])
def test_every_frame_is_answered_at_its_own_size(size):
    labels, keys = run(tiny(), frames(6, size))
    assert keys == 2
    assert {x.shape for x in labels} == {size}
    assert all(x.dtype == np.uint8 and x.max() < 5 for x in labels)


def test_key_frames_are_those_of_the_model_alone_and_interval_one_is_per_frame():
    model, video = tiny(), frames(7)
    alone, keys = run(model, video, interval=1)
    assert keys == 7
    assert len({x.tobytes() for x in alone}) > 1
    third, keys = run(model, video, interval=3)
    assert keys == 3
    for t in (0, 3, 6):
        assert np.array_equal(third[t], alone[t])
    single = [run(model, [frame], interval=1)[0][0] for frame in video]
    assert all(np.array_equal(a, b) for a, b in zip(single, alone, strict=True))


def test_a_segmentor_alone_sees_every_frame_unless_masks_are_carried_without_it():
    assert run(tiny("none"), frames(3))[1] == 3
    assert run(tiny("none"), frames(6), carry="copy")[1] == 2
    assert run(tiny(), frames(6))[1] == 2


def test_an_interval_longer_than_the_video_has_one_key_frame():
    assert run(tiny(), frames(3), interval=100)[1] == 1


def test_copies_repeat_the_key_frame():
    labels, _ = run(tiny(), frames(6), carry="copy", interval=3)
    for t in (1, 2):
        assert np.array_equal(labels[t], labels[0])
        assert np.array_equal(labels[3 + t], labels[3])
    assert not np.array_equal(labels[0], labels[3])


def test_classical_flow_follows_what_moves():
    """The picture moves by 2 pixels a frame, and so do the labels of the key frame."""
    labels, _ = run(tiny(), frames(3), carry="dis", interval=3)
    there = labels[2][8:-8, 12:-12]
    moved, still = labels[0][8:-8, 16:-8], labels[0][8:-8, 12:-12]
    assert (there == moved).mean() > 0.99 > (there == still).mean()


@torch.inference_mode()
def test_dis_flow_leads_back():
    now, then = (
        picture(torch.from_numpy(f.rgb.copy()).permute(2, 0, 1)[None] / 255) for f in reversed(frames(2, pace=4))
    )
    flow = dis_flow(now, then)
    assert flow[0, 0, 8:-8, 8:-8].mean() == pytest.approx(2, abs=0.3)  # 4 pixels at half size, to the right
    assert (warp(then, flow) - now).abs()[..., 4:-4, 4:-4].mean() < 0.3 * (then - now).abs()[..., 4:-4, 4:-4].mean()
    small = torch.rand(1, 3, 4, 6)
    assert dis_flow(small, small).shape == (1, 2, 4, 6)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(61, 91), (37, 50), (100, 151), (128, 192)])
def test_the_label_map_in_bands_is_that_of_all_scores_at_once(size, monkeypatch):
    """Enlarged by four, scored, cut, brought to the frame's size, then the best: as written plainly."""
    logits, masks = 3 * torch.randn(6, 5), 4 * torch.randn(6, 16, 32)
    model_size = (61, 91)
    enlarged = logits_to_frame(masks, (64, 128), align_corners=False)
    scores = class_scores(logits, enlarged)[:, :61, :91]
    plain = logits_to_frame(scores, size, align_corners=False)
    for rows, few in ((1000, 1), (64, 8), (7, 2)):
        monkeypatch.setattr("tubelet.models.key_frames.BAND", rows)
        monkeypatch.setattr("tubelet.models.key_frames.FEW", few)
        found = torch.from_numpy(label_map(logits, masks, model_size, size)).long()
        lost = plain.amax(0) - plain.gather(0, found[None])[0]
        assert lost.max() < 1e-5  # another class only where two are equally good


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 9), (2, 2), (9, 12)])
def test_classes_that_cannot_win_never_do(size):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        scores = torch.rand(12, *size, generator=generator) * torch.rand(12, 1, 1, generator=generator) ** 4
        winners = logits_to_frame(scores, (41, 57), align_corners=False).argmax(0).unique()
        few = can_win(scores)
        assert set(winners.tolist()) <= set(few.tolist())
    if size == (9, 12):
        scores[0] += 1
        assert can_win(scores).tolist() == [0]


@torch.inference_mode()
def test_what_is_left_out_cannot_matter():
    model = tiny()
    key = model.segment(torch.rand(1, 3, 64, 96))
    logits, masks = key.prediction.class_logits[0], key.prediction.mask_logits[0, :, 0]
    sure = logits.clone()
    sure[3:, -1] += 12  # all but three queries say "no object"
    key = key._replace(prediction=key.prediction._replace(class_logits=sure[None]))
    choice = relevant(key, 0.01)
    assert len(choice) < len(logits)
    change = class_scores(sure, masks) - class_scores(sure[choice], masks[choice])
    assert 0 <= float(change.min()) <= float(change.max()) <= 0.01
    assert relevant(key, 0.0).tolist() == list(range(len(logits)))
    nothing = key._replace(prediction=key.prediction._replace(class_logits=torch.tensor([[[-99.0] * 5 + [99.0]] * 20])))
    assert len(relevant(nothing, 0.01)) == 1


def test_leaving_masks_out_changes_almost_nothing():
    model, video = tiny(), frames(4)
    pruned, all_ = (run(model, video, tolerance=x)[0] for x in (0.01, 0.0))
    same = np.mean([(a == b).mean() for a, b in zip(pruned, all_, strict=True)])
    assert same > 0.98


def test_doubt_takes_key_frames_where_the_picture_is_not_explained():
    """A cut in the middle: the key frame comes there, not at the interval; on a still video none is spent."""
    model = tiny("none")
    still = [Frame(frames(1)[0].rgb, t) for t in range(10)]
    cut = [*still, *(Frame(255 - still[0].rgb, 10 + t) for t in range(6))]
    _, keys = run(model, still, carry="dis", interval=4, doubt=0.2)
    assert keys == 1
    session = model.session(short_edge=64, long_edge=96, carry="dis", interval=4, doubt=0.2)
    taken = []
    for frame in cut:
        before = session.keys
        session.feed(frame)
        taken += [frame.index] if session.keys > before else []
    assert taken == [0, 10]


def test_doubt_keeps_to_its_budget_and_to_the_longest_wait():
    model = tiny("none")
    rng = np.random.default_rng(0)
    noise = [Frame(rng.integers(0, 255, (64, 96, 3), np.uint8), t) for t in range(24)]
    _, keys = run(model, noise, carry="dis", interval=4, doubt=0.0)
    assert keys == 24 // 4  # each frame is in doubt
    still = [Frame(noise[0].rgb, t) for t in range(24)]
    assert run(model, still, carry="dis", interval=4, doubt=1.0)[1] == 2  # frame 16 at the latest


@pytest.mark.parametrize("motion", ["query", "query-for-pf"])
def test_doubt_with_flow_of_the_model(motion):
    labels, keys = run(tiny(motion), frames(9), interval=2, doubt=0.05)
    assert len(labels) == 9
    assert 1 <= keys <= 5


def test_two_sessions_share_a_model():
    model, video = tiny(), frames(5)
    expected = [run(model, x)[0] for x in (video, video[::-1])]
    sessions = [model.session(short_edge=64, long_edge=96) for _ in range(2)]
    for t in range(5):
        for session, x, labels in zip(sessions, (video, video[::-1]), expected, strict=True):
            (result,) = session.feed(x[t])
            assert isinstance(result, LabelFrame)
            assert np.array_equal(result.labels, labels[t])


def test_bad_input():
    model = tiny()
    session = model.session(short_edge=64)
    session.feed(frames(1)[0])
    with pytest.raises(ValueError, match="frame 1 is 50x64 but the video began as 96x64"):
        session.feed(Frame(np.zeros((64, 50, 3), np.uint8), 1))
    with pytest.raises(ValueError, match="labels every pixel by itself"):
        session.feed(frames(2)[1], Prompt(np.ones((64, 96), np.uint8)))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        model.session(interval=0)
    with pytest.raises(ValueError, match="one of flow, copy, dis, got 'flo'"):
        model.session(carry="flo")
    with pytest.raises(ValueError, match="estimates no flow"):
        tiny("none").session(interval=2)
    with pytest.raises(ValueError, match="a share of the picture"):
        model.session(doubt=2.0)
    with pytest.raises(ValueError, match="training mode"):
        model.train().session()


def test_bf16():
    labels, _ = run(tiny(), frames(3), autocast=torch.bfloat16)
    exact, _ = run(tiny(), frames(3))
    assert np.mean([(a == b).mean() for a, b in zip(labels, exact, strict=True)]) > 0.9
