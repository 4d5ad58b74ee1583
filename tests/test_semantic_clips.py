"""Clips with classes: picture and classes move together, one draw per clip, pairs end on a labelled frame."""

import pickle
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tubelet.data.camvid import read_camvid
from tubelet.data.loader import ClipStream, collate_flow, collate_semantic, load
from tubelet.data.semantic import SemanticVideo
from tubelet.data.semantic_clips import (
    SHORT_EDGES,
    Colours,
    Shot,
    draw_colours,
    draw_pair,
    draw_shot,
    flow_source,
    semantic_source,
)

REAL = Path(__file__).parents[2] / "shared/data/vss_camvid"
PLAIN = {"colour": False, "flip": 0.0}


def generator(*seed):
    return np.random.default_rng(seed)


def pairs_of(video, times, **options) -> Counter:
    found = [draw_pair(generator(seed), video, **options) for seed in range(times)]
    return Counter(pair for pair in found if pair is not None)


def paper(length, labelled=None, numbers=()):
    """A video of which no file is ever read."""
    files = tuple(Path(f"{t}.png") for t in range(length))
    shown = range(length) if labelled is None else labelled
    return SemanticVideo("v", files, {t: files[t] for t in shown}, (0, 1), numbers=numbers)


def make(root, length=4, size=(61, 93), labelled=None, name="v"):
    """Frames half of red, the class 1, and half of blue, the class 0; their line moves by 4 pixels per frame."""
    folder = root / name
    folder.mkdir()
    labels = {}
    for t in range(length):
        right = np.broadcast_to(np.arange(size[1]) >= 30 + 4 * t, size)
        Image.fromarray(np.where(right[..., None], [255, 0, 0], [0, 0, 255]).astype(np.uint8)).save(folder / f"{t}.png")
        if labelled is None or t in labelled:
            labels[t] = folder / f"map{t}.png"
            Image.fromarray(right.astype(np.uint8)).save(labels[t])
    return SemanticVideo(name, tuple(folder / f"{t}.png" for t in range(length)), labels, (0, 1))


# ---- which frames


def test_pairs_of_a_labelled_video():
    pairs = pairs_of(paper(30), 3000, reach=10)
    assert pairs.total() == 3000
    assert all(0 <= key < current < 30 and current - key <= 10 for key, current in pairs)
    assert {current - key for key, current in pairs} == set(range(1, 11))
    ends = Counter(t for pair, count in pairs.items() for t in pair for _ in range(count))
    assert min(ends.values()) > 100  # 200 on average; fewer at the rims, where a frame is less often the other one


def test_a_frame_is_as_likely_as_another_to_be_drawn_first():
    # 3 frames, reach 1: (0, 1) of 0, of 1 half of the time; (1, 2) likewise
    counts = pairs_of(paper(3), 1000, reach=1)
    assert set(counts) == {(0, 1), (1, 2)}
    # 3 frames, reach 2: each pair 1/3
    counts = pairs_of(paper(3), 1500, reach=2)
    assert all(400 < n < 600 for n in counts.values())
    assert len(counts) == 3


def test_the_later_frame_of_a_pair_is_labelled():
    one = paper(20, labelled=[19])
    counts = pairs_of(one, 1000, reach=10)
    assert set(counts) == {(key, 19) for key in range(9, 19)}
    assert min(counts.values()) > 60
    assert {draw_pair(generator(s), paper(9, labelled=[0, 4]), reach=2) for s in range(60)} == {(2, 4), (3, 4)}


def test_videos_without_a_pair():
    for video in (paper(1), paper(9, labelled=[]), paper(9, labelled=[0])):
        assert draw_pair(generator(0), video, reach=10) is None
    far = paper(3, numbers=(0, 30, 330))
    assert draw_pair(generator(0), far, reach=10, span=29) is None
    assert {draw_pair(generator(s), far, reach=10, span=30) for s in range(20)} == {(0, 1)}
    assert len({draw_pair(generator(s), far, reach=10) for s in range(40)}) == 3


# ---- how they are seen


def test_sizes_of_the_paper():
    assert tuple(range(480, 1921, 96)) == SHORT_EDGES
    shots = [draw_shot(generator(s), (480, 853), (480, 480)) for s in range(200)]
    assert {shot.scaled for shot in shots} == {(480, 853), (540, 960)}
    assert {shot.window[2:] for shot in shots} == {(480, 480)}
    tops = [shot.window[0] for shot in shots if shot.scaled[0] == 540]
    assert (min(tops), max(tops)) == (0, 60)
    assert min(shot.window[1] for shot in shots) < 10
    assert 60 < sum(shot.mirrored for shot in shots) < 140


def test_a_crop_larger_than_the_frame_is_padded():
    shot = draw_shot(generator(0), (37, 50), (60, 41), short_edges=(37,), **PLAIN)
    assert shot.window[2:] == (37, 41)
    rgb = shot.picture(np.full((37, 50, 3), 200, np.uint8))
    classes = shot.classes(np.full((37, 50), 3, np.uint8))
    assert rgb.shape == (60, 41, 3)
    assert (rgb[:37] == 200).all()
    assert not rgb[37:].any()
    assert (classes[:37] == 3).all()
    assert (classes[37:] == 255).all()


@pytest.mark.parametrize("scaled", [(90, 131), (41, 60), (61, 89)])
def test_a_window_is_what_resizing_all_of_it_gives(scaled):
    rng = generator(1)
    rgb = cv2.GaussianBlur(rng.integers(0, 256, (61, 89, 3), dtype=np.uint8), (0, 0), 1.5)
    classes = rng.integers(0, 9, (61, 89), dtype=np.uint8)
    shot = Shot(scaled, (7, 11, 30, 33), (30, 33))
    inside = slice(7, 37), slice(11, 44)
    whole = np.asarray(Image.fromarray(rgb).resize(scaled[::-1], Image.Resampling.BILINEAR))[inside]
    assert np.abs(shot.picture(rgb).astype(int) - whole)[3:-3, 3:-3].max() <= 1
    nearest = np.asarray(Image.fromarray(classes).resize(scaled[::-1], Image.Resampling.NEAREST))[inside]
    assert (shot.classes(classes) == nearest).all()


@pytest.mark.parametrize("frame", [(1, 1), (5, 300), (479, 853), (1080, 1921)])
def test_any_size_gives_the_size_asked_for(frame):
    for seed in range(8):
        shot = draw_shot(generator(seed), frame, (33, 47), short_edges=(20, 33, 64), long_edge=130)
        assert shot.picture(np.zeros((*frame, 3), np.uint8)).shape == (33, 47, 3)
        assert shot.classes(np.zeros(frame, np.uint8)).shape == (33, 47)


def test_colours():
    rgb = np.array([[[250, 10, 40], [100, 100, 100]]], np.uint8)
    assert (Colours().change(rgb) == rgb).all()
    assert Colours(brightness=20.0).change(rgb).tolist() == [[[255, 30, 60], [120, 120, 120]]]
    assert Colours(contrast=0.5).change(rgb).tolist() == [[[125, 5, 20], [50, 50, 50]]]
    assert np.ptp(Colours(saturation=0.5).change(rgb)[0, 0].astype(int)) == pytest.approx(120, abs=3)
    turned = Colours(hue=60).change(rgb)  # a third of the circle: red becomes green
    assert turned[0, 0].argmax() == 1
    assert (turned[0, 1] == 100).all()
    late, early = (Colours(contrast=1.5, saturation=0.5, contrast_first=f).change(rgb) for f in (False, True))
    assert (late != early).any()
    assert (late[0, 1] == 150).all()
    assert (early[0, 1] == 150).all()


def test_ranges_of_colours():
    drawn = [draw_colours(generator(s)) for s in range(400)]
    for name, plain, low, high in (
        ("brightness", 0, -32, 32), ("contrast", 1, 0.5, 1.5), ("saturation", 1, 0.5, 1.5), ("hue", 0, -18, 18),
    ):  # fmt: skip
        values = np.array([getattr(c, name) for c in drawn])
        assert 140 < (values == plain).sum() < 260
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high >= values.max() > high - 0.1 * (high - low)
    assert 140 < sum(c.contrast_first for c in drawn) < 260


# ---- sources


def test_pictures_and_classes_move_together(tmp_path):
    source = semantic_source([make(tmp_path)], size=(40, 57), short_edges=(45, 61, 97), colour=False)
    mirrored = set()
    for seed in range(20):
        rgb, classes = source(generator(seed))
        assert rgb.shape == (2, 40, 57, 3)
        inside = classes != 255
        red = rgb[..., 0] > rgb[..., 2]
        assert (red == (classes == 1))[inside].mean() > 0.96
        assert not rgb[~inside].any()
        if 0 < red[1].mean() < 1:
            mirrored.add(bool(red[1, 0, 0]))
        assert (classes[0] == 1).sum() >= (classes[1] == 1).sum()  # the red part only shrinks: the key frame is first
    assert mirrored == {True, False}


def test_one_draw_for_both_frames(tmp_path):
    video = make(tmp_path)
    same = SemanticVideo("v", (video.frames[0],) * 2, dict.fromkeys(range(2), video.labels[0]), (0, 1))
    for seed in range(6):
        rgb, classes = semantic_source([same], size=(40, 57), short_edges=(61,))(generator(seed))
        assert (rgb[0] == rgb[1]).all()
        assert (classes[0] == classes[1]).all()


def test_labels_that_the_key_frame_lacks(tmp_path):
    source = semantic_source([make(tmp_path, labelled=[3])], size=(61, 93), short_edges=(61,), **PLAIN)
    _, classes = source(generator(0))
    assert (classes[0] == 255).all()
    assert set(np.unique(classes[1])) == {0, 1}


def test_single_frames(tmp_path):
    video = make(tmp_path, labelled=[1])
    source = semantic_source([video], frames=1, size=(61, 93), short_edges=(61,), **PLAIN)
    rgb, classes = source(generator(3))
    assert (rgb == video.rgb(1)).all()
    assert (classes == video.classes(1)).all()


def test_videos_that_are_left_out(tmp_path):
    still, bare = make(tmp_path, 1, name="still"), make(tmp_path, 3, labelled=[], name="bare")
    with pytest.raises(ValueError, match="none of the 2 videos has a labelled frame that another comes before"):
        semantic_source([still, bare])
    with pytest.raises(ValueError, match="none of the 1 videos has a labelled frame, so"):
        semantic_source([bare], frames=1)
    usable = [still, bare, make(tmp_path, 2, name="two")]
    options = {"size": (61, 93), "short_edges": (61,), **PLAIN}
    for frames in (1, 2):
        source = semantic_source(usable, frames=frames, **options)
        assert {source(generator(s))[0].shape[0] for s in range(5)} == {frames}


def test_videos_are_drawn_equally_or_by_their_frames(tmp_path):
    short, long = make(tmp_path, 1, (9, 9), name="a"), make(tmp_path, 9, (9, 90), name="b")
    options = {"frames": 1, "size": (9, 90), "short_edges": (9,), **PLAIN}

    def shorts(**more):
        source = semantic_source([short, long], **options, **more)
        return sum((source(generator(s))[1] == 255).any() for s in range(200))

    assert 70 < shorts() < 130
    assert 5 < shorts(by_frames=True) < 40


@pytest.mark.parametrize(
    "wrong", [{"frames": 3}, {"reach": 0}, {"size": (0, 4)}, {"short_edges": (0,)}, {"long_edge": 0}, {"flip": 1.5}]
)
def test_numbers_without_sense(tmp_path, wrong):
    with pytest.raises(ValueError, match="a clip needs frames 1 or 2"):
        semantic_source([make(tmp_path)], **wrong)


def test_sizes_that_differ(tmp_path):
    video = make(tmp_path, 2)
    Image.fromarray(np.zeros((61, 94), np.uint8)).save(video.labels[1])
    with pytest.raises(ValueError, match=r"0.png and 1.png of v and their labels must have one size, .* 94x61"):
        semantic_source([video])(generator(0))
    Image.fromarray(np.zeros((60, 93, 3), np.uint8)).save(video.frames[0])
    with pytest.raises(ValueError, match="but they are 93x60, 93x61"):
        semantic_source([video])(generator(0))


def test_a_pair_from_one_frame(tmp_path):
    """The second frame is another; the first, and what of the second was in it, is as in the video."""
    video = make(tmp_path, labelled=[3])
    source = semantic_source([video], size=(61, 93), short_edges=(61,), still=1.0, **PLAIN)
    rgb, classes = source(generator(1))
    np.testing.assert_array_equal(rgb[0], video.rgb(3))
    np.testing.assert_array_equal(classes[0], video.classes(3))
    assert (rgb[1] != rgb[0]).any()
    red, blue = rgb[1][..., 0] > 200, rgb[1][..., 2] > 200
    assert (classes[1][red & (classes[1] != 255)] == 1).all()
    assert (classes[1][blue & (classes[1] != 255)] == 0).all()


def test_a_moved_frame_is_padded_after_the_motion(tmp_path):
    video = make(tmp_path, labelled=[3])
    for seed in range(5):
        options = {"size": (64, 128), "short_edges": (30,), **PLAIN}
        rgb, classes = semantic_source([video], still=1.0, **options)(generator(seed))
        pair, flow = flow_source([video], **options)(generator(seed))
        for pictures in (rgb, pair):
            assert not pictures[:, 30:].any()
            assert not pictures[:, :, 46:].any()
            assert pictures[:, :30, :45].any(3).mean() > 0.95
        assert (classes[:, 30:] == 255).all()
        assert np.isnan(flow[30:]).all()
        assert np.isnan(flow[:, 46:]).all()


def test_flow_between_a_frame_and_itself_moved(tmp_path):
    video, bare = make(tmp_path), make(tmp_path, 2, labelled=[], name="bare")
    source = flow_source([video, bare], size=(40, 56), short_edges=(61,), **PLAIN)
    drawn = set()
    for seed in range(40):
        (key, later), flow = source(generator(seed))
        drawn.add(key.tobytes())
        seen = ~np.isnan(flow).any(2)
        y, x = np.nonzero(seen)
        far = np.rint(np.stack((x, y), 1) + flow[seen]).astype(int)
        difference = np.abs(key[far[:, 1], far[:, 0]].astype(int) - later[seen]).max(1)
        assert (difference > 10).mean() < 0.1  # but along the line between the halves
    assert len(drawn) > 20
    stream = ClipStream([(source, 1.0)], batch=2, seed=5, collate=collate_flow)
    clip, truth = stream[3]
    assert clip.images.shape == (2, 2, 3, 40, 56)
    _, flow = stream.clip(7)
    np.testing.assert_array_equal(truth.flow[1].permute(1, 2, 0).numpy(), flow)
    with pytest.raises(ValueError, match="no frames to make pairs of"):
        flow_source([])


def test_streams(tmp_path):
    source = semantic_source([make(tmp_path)], size=(32, 40), short_edges=(40, 61))
    assert pickle.loads(pickle.dumps(source)).keywords["size"] == (32, 40)
    stream = ClipStream([(source, 1.0)], batch=2, seed=5, collate=collate_semantic)
    (first, truth), *_ = batches = list(load(stream, stop=3))
    assert first.images.shape == (2, 2, 3, 32, 40)
    assert 0 <= first.images.min() <= first.images.max() <= 1
    for i in range(2):
        _, maps = stream.clip(i)
        shown = sorted({*maps.ravel().tolist()} - {255})
        assert truth.classes[i].tolist() == shown
        assert torch.equal(truth.masks[i], torch.stack([torch.from_numpy(maps == k) for k in shown]))
    assert first.numbers is not None
    assert first.numbers.tolist() == [0, 1]
    ((again, same),) = list(load(stream, start=2, stop=3))
    assert torch.equal(again.images, batches[2][0].images)
    assert all(torch.equal(a, b) for a, b in zip(same.masks, batches[2][1].masks, strict=True))
    with pytest.raises(ValueError, match="must agree in frames and size"):
        collate_semantic([source(generator(0)), (np.zeros((2, 3, 4, 3), np.uint8), np.zeros((2, 3, 4), np.uint8))])


@pytest.mark.skipif(not REAL.is_dir(), reason="CamVid is not here")
def test_real_pairs():
    videos = read_camvid(REAL, "val")
    edges = {"size": (288, 352), "short_edges": (180, 360, 720), "long_edge": 2000}
    rgb, classes = semantic_source(videos, reach=5, **edges)(generator(2))
    assert rgb.shape == (2, 288, 352, 3)
    assert set(np.unique(classes)) <= {*range(11), 255}
    with pytest.raises(ValueError, match="none of the 3 videos"):
        semantic_source(read_camvid(REAL), span=28)  # one frame a second is 29 to 31 apart
