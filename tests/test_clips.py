"""Sessions of clip models: windows, what links them, and that one window is the model itself."""

# pyright: reportArgumentType=false, reportCallIssue=false

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.models.clips import ClipSession, best_pairs, join, masks_to_frame
from tubelet.models.mask2former import Encoded
from tubelet.nn.mask_decoder import Choice, Prediction
from tubelet.types import Frame, Prompt, TrackFrame, decode_rle
from tubelet.video.resize import padded, short_edge_size

RED, GREEN, BLUE = 0, 1, 2


class Colours(nn.Module):
    """Finds what is bright red, green or blue: three queries of three classes, in another order in every window."""

    def __init__(self, *, forgetful: bool = False):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self.forgetful = forgetful  # embeddings say nothing
        self.windows: list[int] = []

    def encode(self, images: Tensor) -> Encoded:
        small = F.avg_pool2d(images.flatten(0, 1), 4).unflatten(0, images.shape[:2])
        return Encoded(small, small[:, :, :0], [])

    def decode_last(self, clip: Encoded, choose: Choice | None = None) -> Prediction:
        self.windows.append(clip.mask_features.shape[1])
        order = torch.tensor([RED, GREEN, BLUE]).roll(len(self.windows))
        masks = clip.mask_features[:, :, order].transpose(1, 2)  # 1, 3, T, h, w
        seen = (masks > 0).flatten(2).any(2)
        logits = torch.full((1, 3, 4), -10.0)
        for query, colour in enumerate(order.tolist()):
            logits[0, query, colour if seen[0, query] else 3] = float(colour)
        embeddings = torch.zeros(1, 3, 3) if self.forgetful else torch.eye(3)[order][None]
        wanted = torch.arange(3) if choose is None else choose(logits)
        return Prediction(logits[:, wanted], masks[:, wanted], embeddings[:, wanted])


def frame(t: int, *things: tuple[int, int, int], size: tuple[int, int] = (64, 96)) -> Frame:
    """Black with 16 x 16 squares: (colour, row, column)."""
    rgb = np.zeros((*size, 3), np.uint8)
    for colour, y, x in things:
        rgb[y : y + 16, x : x + 16, colour] = 255
    return Frame(rgb, t)


def session(model: nn.Module | None = None, **options) -> ClipSession:
    return ClipSession((model or Colours()).eval(), **{"short_edge": 64, "window": 4, **options})


def play(live: ClipSession, frames: list[Frame]) -> tuple[list[TrackFrame], list[int]]:
    """All results, and how many came with each frame and at the end."""
    bursts = [live.feed(f) for f in frames] + [live.finish()]
    return [result for burst in bursts for result in burst], [len(burst) for burst in bursts]


def moving(count: int) -> list[Frame]:
    """Red goes right, blue stays; green is there from frame 5 on."""
    return [
        frame(t, (RED, 8, 2 * t), (BLUE, 40, 64), *([(GREEN, 40, 8)] if t >= 5 else []))
        for t in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("window", [3, 4, 7, 12, 40])
@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_every_frame_once_in_order_and_ids_that_stay(window, overlap):
    live = session(window=window, overlap=overlap)
    frames = moving(12)
    results, bursts = play(live, frames)
    assert [r.index for r in results] == list(range(12))
    assert max(bursts) <= window
    ids: dict[int, set[int]] = {}
    for f, r in zip(frames, results):
        for i, rle in r.masks.items():
            mask = decode_rle(rle)
            colour = next(c for c in (RED, GREEN, BLUE) if f.rgb[mask][:, c].any())
            assert (mask == (f.rgb[..., colour] > 127)).mean() > 0.98
            ids.setdefault(colour, set()).add(i)
        assert [track.id for track in r.tracks] == sorted(r.masks, key=lambda i: -score(r, i))
    assert all(len(found) == 1 for found in ids.values())
    assert len(set().union(*ids.values())) == 3
    best = {track.id: track.category for track in reversed(live.tracks())}
    assert all(best[next(iter(found))] == colour for colour, found in ids.items())


def score(result: TrackFrame, i: int) -> float:
    return next(track.score for track in result.tracks if track.id == i)


def test_a_short_video_is_seen_at_once():
    model = Colours()
    results, bursts = play(session(model, window=40), moving(6))
    assert model.windows == [6]
    assert bursts == [0] * 6 + [6]
    assert len(results) == 6


def test_windows_share_frames_and_none_is_decoded_for_nothing():
    model = Colours()
    _, bursts = play(session(model, window=4, overlap=2), moving(8))
    assert model.windows == [4, 4, 4]
    assert bursts == [0, 0, 0, 2, 0, 2, 0, 2, 2]  # the last two come from a window that was decoded already


def test_masks_alone_link_where_embeddings_say_nothing():
    results, _ = play(session(Colours(forgetful=True), window=4, overlap=2), moving(12))
    assert len({i for r in results for i in r.masks}) == 3
    apart, _ = play(session(Colours(forgetful=True), window=4, overlap=0), moving(12))
    assert len({i for r in apart for i in r.masks}) > 3


def test_what_was_gone_too_long_is_somebody_new():
    def video() -> list[Frame]:
        return [frame(t, *([(RED, 8, 8)] if not 4 <= t < 16 else [])) for t in range(20)]

    short, _ = play(session(window=2, overlap=0, patience=2, min_score=0.2), video())
    long, _ = play(session(window=2, overlap=0, patience=9, min_score=0.2), video())
    assert len({i for r in short for i in r.masks}) == 2
    assert len({i for r in long for i in r.masks}) == 1


def test_scores_classes_and_limits():
    live = session(window=40)
    play(live, moving(8))
    tracks = live.tracks()
    assert tracks == sorted(tracks, key=lambda track: -track.score)
    assert len(tracks) == 9  # three queries of three classes
    few = session(window=40, most=2)
    results, _ = play(few, moving(8))
    assert [(t.category, t.score) for t in few.tracks()] == [(t.category, t.score) for t in tracks[:2]]
    assert {i for r in results for i in r.masks} == {track.id for track in few.tracks()}
    only = session(window=40, categories=(GREEN,))
    play(only, moving(8))
    assert {track.category for track in only.tracks()} == {GREEN}
    assert session(window=40, min_score=0.99).tracks() == []


@pytest.mark.parametrize("size", [(64, 96), (37, 53), (200, 91)])
def test_odd_sizes_come_back(size):
    results, _ = play(session(window=3), [frame(t, (RED, 8, 8), size=size) for t in range(4)])
    for r in results:
        (mask,) = [decode_rle(rle) for rle in r.masks.values()]
        assert mask.shape == r.size == size
        ys, xs = np.nonzero(mask)
        assert abs(ys.mean() - 15.5) < 1.5
        assert abs(xs.mean() - 15.5) < 1.5


def test_one_frame_and_none():
    results, _ = play(session(), [frame(0, (BLUE, 0, 0))])
    assert [len(r.masks) for r in results] == [1]
    assert session().finish() == []
    assert session().tracks() == []


def test_nothing_to_see():
    results, _ = play(session(), [frame(t) for t in range(6)])
    assert [r.masks for r in results] == [{}] * 6


def test_memory_is_that_of_a_window_and_of_few_tracks():
    live = session(window=4, overlap=1, patience=1, most=3)
    for t in range(60):
        live.feed(frame(t, (RED if t % 8 < 4 else GREEN, 8, 8)))
        assert len(live.clip) < 4
        assert len(live.active) + len(live.past) <= 12


def test_the_budget_decides_the_window():
    # The maps of a frame: 3 x 16 x 24 floats.
    live = session(window=None, memory_budget=5 * 3 * 16 * 24 * 4)
    play(live, moving(7))
    assert live.window == 5
    tight = session(window=None, memory_budget=1, overlap=2)
    play(tight, moving(3))
    assert tight.window == 3


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="a window of 2 frames with an overlap of 2 does not move on"):
        session(window=2, overlap=2)
    with pytest.raises(ValueError, match="training mode"):
        ClipSession(Colours().train())
    live = session()
    live.feed(frame(0))
    with pytest.raises(ValueError, match="frame 1 is 30x20 but the video began as 96x64"):
        live.feed(frame(1, size=(20, 30)))
    with pytest.raises(ValueError, match="finds objects by itself"):
        live.feed(frame(1), Prompt(np.ones((64, 96), np.uint8)))


def test_best_pairs():
    table = torch.tensor([[0.1, 0.9], [0.5, 0.0]])
    assert best_pairs(table, 2) == [(0, 1, pytest.approx(0.9)), (1, 0, pytest.approx(0.5))]
    assert len(best_pairs(table, 99)) == 3  # nothing is worth nothing
    assert best_pairs(table, 3, 0.3) == best_pairs(table, 2)


def test_join_puts_frames_side_by_side():
    nothing, level = torch.zeros(1, 1, 2, 4, 4), torch.zeros(1, 1, 2, 2, 2)
    parts = [Encoded(torch.full((1, 1, 2, 4, 4), float(t)), nothing, [level] * 3) for t in range(3)]
    whole = join(parts)
    assert not parts  # what is joined is not held twice
    assert whole.mask_features[0, :, 0, 0, 0].tolist() == [0, 1, 2]
    assert [x.shape for x in whole.levels] == [(1, 3, 2, 2, 2)] * 3


def test_masks_to_frame_undoes_the_padding():
    """A model size of 48 x 80 in a padded 64 x 96: what lies in the padding does not show."""
    logits = torch.full((1, 16, 24), -1.0)
    logits[:, 12:] = logits[:, :, 20:] = 5.0
    assert not masks_to_frame(logits, (64, 96), (46, 78), (120, 200)).any()
    logits[:, :6] = 1.0
    mask = masks_to_frame(logits, (64, 96), (48, 80), (120, 200))[0]
    assert mask[:58].all()
    assert not mask[62:110, :190].any()


def test_sizes_of_the_reference():
    assert short_edge_size(720, 1280, short_edge=360) == (360, 640)
    assert short_edge_size(1280, 720, short_edge=360) == (640, 360)
    assert short_edge_size(100, 1000, short_edge=360) == (133, 1333)
    assert short_edge_size(300, 401, short_edge=360) == (360, 481)
    x = padded(np.full((10, 20, 3), 255, np.uint8), (20, 40))
    assert x.shape == (3, 32, 64)
    assert x[:, :20, :40].min() > 2
    assert not x[:, 20:].any()
    assert not x[:, :, 40:].any()
