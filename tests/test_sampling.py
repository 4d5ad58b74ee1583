from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from tubelet.data.dataset import VideoItem
from tubelet.data.sampling import renumber, sample_clip, sample_reference, sample_walk
from tubelet.types import VOID


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def make_video(tmp_path):
    """Writes masks (and grey frames whose value is 10 times their index) and gives the video; None: no mask."""

    def make(masks, **kwargs) -> VideoItem:
        shape = next(m.shape for m in masks if m is not None)
        frames, mask_paths = [], {}
        for t, mask in enumerate(masks):
            frames.append(tmp_path / f"{t:05d}.png")
            Image.fromarray(np.full((*shape, 3), 10 * t, np.uint8)).save(frames[-1])
            if mask is not None:
                mask_paths[t] = tmp_path / f"mask{t:05d}.png"
                image = Image.fromarray(mask)
                image.putpalette(list(range(256)) * 3)
                image.save(mask_paths[t])
        return VideoItem("made", frames, mask_paths, **kwargs)

    return make


def filled(*objects: int, shape=(20, 30)) -> np.ndarray:
    """Object k fills the columns 5k .. 5k + 4."""
    mask = np.zeros(shape, np.uint8)
    for k in objects:
        mask[:, 5 * k : 5 * k + 5] = k
    return mask


@pytest.mark.parametrize("length", [1, 2, 7, 60])
@pytest.mark.parametrize("max_gap", [1, 3, 12])
def test_a_walk_stays_in_the_video_and_keeps_its_gaps(rng, length, max_gap):
    for start in {0, length // 2, length - 1}:
        walk = sample_walk(rng, length, 9, max_gap=max_gap, start=start)
        assert walk[0] == start
        assert len(walk) == 9
        assert all(0 <= i < length for i in walk)
        assert max(abs(a - b) for a, b in pairwise(walk)) <= max_gap


def test_a_walk_turns_round_at_the_end_and_goes_backwards_half_of_the_time(rng):
    walks = {tuple(sample_walk(rng, 4, 6, max_gap=1, start=2)) for _ in range(50)}
    assert walks == {(2, 3, 2, 1, 0, 1), (2, 1, 0, 1, 2, 3)}


def test_a_walk_uses_every_gap(rng):
    walks = [sample_walk(rng, 100, 2, max_gap=3, start=50)[1] - 50 for _ in range(300)]
    assert set(walks) == {-3, -2, -1, 1, 2, 3}


def test_the_reference_shows_enough(rng, make_video):
    masks = [filled(), filled(1, shape=(4, 30)), filled(2)]
    masks[1] = np.pad(masks[1], ((0, 16), (0, 0)))  # 20 pixels
    video = make_video(masks)
    assert {sample_reference(rng, video, min_foreground=50) for _ in range(20)} == {2}
    assert {sample_reference(rng, video, min_foreground=5, tries=50) for _ in range(50)} == {1, 2}


def test_without_a_good_reference_the_fullest_serves_and_void_does_not_count(rng, make_video):
    void = np.full((20, 30), VOID, np.uint8)
    void[0, 0] = 1
    assert sample_reference(rng, make_video([void, filled(3), void]), min_foreground=10**6) == 1


def test_a_clip_shows_only_the_objects_of_its_first_frame(rng, make_video):
    """Object 2 enters in frame 1: a clip from frame 0 on never labels it, however often it is drawn again."""
    video = make_video([filled(1), *[filled(1, 2)] * 5])
    for _ in range(20):
        rgb, ids = sample_clip(rng, video, 4, max_gap=2)
        assert rgb.shape == (4, 20, 30, 3)
        values = set(np.unique(ids))
        assert values == ({0, 1} if rgb[0, 0, 0, 0] == 0 else {0, 1, 2})


def test_a_clip_skips_frames_without_masks(rng, make_video):
    video = make_video([filled(1), None, filled(1), None, filled(1)])
    seen = {int(v) for _ in range(20) for v in sample_clip(rng, video, 3, max_gap=1)[0][:, 0, 0, 0]}
    assert seen == {0, 20, 40}


def test_a_video_of_one_frame_makes_a_clip_that_stands_still(rng, make_video):
    rgb, ids = sample_clip(rng, make_video([filled(4)]), 5, max_gap=12)
    assert (ids == ids[0]).all()
    assert set(np.unique(ids)) == {0, 1}
    assert not rgb.any()


def test_renumber_shuffles_keeps_void_and_drops_what_is_small_or_late(rng):
    ids = np.stack([filled(1, 2, 4), filled(1, 2, 3, 4)])
    ids[0, :, 20:25] = 0
    ids[0, 0, 20] = 4  # one pixel
    ids[:, -1, -1] = VOID
    tables = set()
    for _ in range(20):
        out = renumber(rng, ids, min_pixels=1)
        assert out[0, 0, 20] == 0
        assert not out[:, 1:-1, 15:25].any()
        assert (out[:, -1, -1] == VOID).all()
        tables.add((int(out[1, 0, 5]), int(out[1, 0, 10])))
    assert tables == {(1, 2), (2, 1)}


def test_renumber_keeps_a_random_ten_of_many(rng):
    ids = np.repeat(np.arange(1, 13, dtype=np.int64)[None, None] * 40, 2, 0)
    out = [renumber(rng, ids) for _ in range(30)]
    assert all(sorted(o[0, 0])[2:] == list(range(1, 11)) for o in out)
    assert len({tuple(np.flatnonzero(o[0, 0])) for o in out}) > 5


def test_renumber_of_nothing_is_nothing(rng):
    assert not renumber(rng, np.zeros((2, 3, 4), np.uint8)).any()
