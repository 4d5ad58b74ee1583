"""Clips with instances: picture and masks move together, one draw per clip, what is left out, what is refused."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from tubelet.data import vis_clips
from tubelet.data.classes import COCO, COCO_TO, NAMES
from tubelet.data.loader import ClipStream, collate_tubes, load
from tubelet.data.vis_clips import Shots, coco_source, draw_shots, draw_windows, sample_frames, ytvis_source
from tubelet.data.ytvis import read_ytvis
from tubelet.types import encode_rle

SIZE = (61, 93)
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))  # of the three instances in a picture
WHOLE = {"short_edges": (61,), "long_edge": 1000, "crop": None, "flip": 0.0}


def generator(*seed):
    return np.random.default_rng(seed)


def rle(mask) -> dict:
    return encode_rle(mask)


def uncompressed(mask) -> dict:
    flat = np.concatenate([[False], mask.T.ravel(), [not mask[-1, -1]]])
    return {"size": list(mask.shape), "counts": np.diff(np.flatnonzero(flat[1:] != flat[:-1]), prepend=0).tolist()}


def box(top, left, bottom, right, size=SIZE):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def polygon(top, left, bottom, right) -> list:
    return [[left, top, right, top, right, bottom, left, bottom]]


def paint(path, masks, size=SIZE):
    """A dark picture with each mask in its colour."""
    rgb = np.full((*size, 3), 20, np.uint8)
    for mask, colour in zip(masks, COLOURS):
        rgb[mask] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)


def overlap(rgb, mask, colour=0) -> float:
    """The IoU of a mask with what has its colour."""
    seen = (np.abs(rgb.astype(int) - COLOURS[colour]) < 110).all(-1)
    return (seen & mask).sum() / max(1, (seen | mask).sum())


def make_videos(root, tubes, size=SIZE, categories=(7,)):
    """A YouTube-VIS file whose videos hold `tubes`: of each video a list of instances, each a list of masks or None."""
    content = {"videos": [], "annotations": [], "categories": [{"id": i, "name": f"c{i}"} for i in (9, 2, 7)]}
    for v, instances in enumerate(tubes, start=1):
        length = len(instances[0]) if instances else 3
        names = [f"v{v}/{t:03d}.png" for t in range(length)]
        content["videos"].append({"id": v, "height": size[0], "width": size[1], "length": length, "file_names": names})
        for t, name in enumerate(names):
            shown = [np.zeros(size, bool) if masks[t] is None else masks[t] for masks in instances]
            paint(root / name, shown, size)
        for i, masks in enumerate(instances):
            texts = [None if m is None else rle(m) for m in masks]
            category = categories[i % len(categories)]
            annotation = {"video_id": v, "category_id": category, "segmentations": texts, "iscrowd": 0}
            content["annotations"].append({"id": len(content["annotations"]) + 1, **annotation})
    return content


def read(root, content):
    (root / "instances.json").write_text(json.dumps(content))
    return read_ytvis(root / "instances.json", frames=root)


def moving(length=9):
    return [box(20, 3 + 7 * t, 45, 25 + 7 * t) for t in range(length)]


@pytest.fixture
def videos(tmp_path):
    return read(tmp_path, make_videos(tmp_path, [[moving()]]))


@pytest.fixture
def coco(tmp_path):
    """Three instances as polygon, RLE and uncompressed RLE; a crowd; one that YouTube-VIS 2019 lacks (a bottle)."""
    boxes = [(10, 10, 40, 40), (20, 50, 50, 70), (5, 72, 30, 90)]
    masks = [box(*b) for b in boxes]
    forms = [polygon(*boxes[0]), rle(masks[1]), uncompressed(masks[2])]
    annotations = [
        {"id": i + 1, "image_id": 4, "category_id": c, "iscrowd": 0, "segmentation": form}
        for i, (c, form) in enumerate(zip((1, 2, 43), forms))
    ]
    annotations.append({"id": 8, "image_id": 4, "category_id": 1, "iscrowd": 1, "segmentation": uncompressed(masks[0])})
    annotations.append({"id": 9, "image_id": 4, "category_id": 44, "iscrowd": 0, "segmentation": polygon(0, 0, 9, 9)})
    annotations.append({"id": 10, "image_id": 5, "category_id": 44, "iscrowd": 0, "segmentation": polygon(0, 0, 9, 9)})
    annotations.append({"id": 11, "image_id": 5, "category_id": 1, "iscrowd": 0, "segmentation": []})
    images = [
        {"id": 4, "height": SIZE[0], "width": SIZE[1], "file_name": "4.png"},
        {"id": 5, "height": SIZE[0], "width": SIZE[1], "file_name": "5.png"},
    ]
    paint(tmp_path / "4.png", masks)
    paint(tmp_path / "5.png", [])
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in COCO.items()],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return tmp_path / "coco.json", content


# ---- frames


def test_frames_lie_around_one_of_them_and_are_sorted():
    spread, first = set(), set()
    for seed in range(300):
        chosen = sample_frames(generator(seed), 50, 4, reach=5)
        assert chosen == sorted(chosen)
        assert len(chosen) == 4
        assert 0 <= chosen[0] <= chosen[-1] <= 49
        assert any(all(abs(t - r) <= 5 for t in chosen) and chosen.count(r) == 1 for r in chosen)
        spread.add(chosen[-1] - chosen[0])
        first.add(chosen[0])
    assert max(spread) > 7
    assert len(first) > 40


def test_others_are_drawn_with_replacement_but_never_the_reference():
    assert {tuple(sample_frames(generator(s), 2, 3, reach=20)) for s in range(30)} == {(0, 0, 1), (0, 1, 1)}
    assert any(len(set(sample_frames(generator(s), 30, 8, reach=20))) < 8 for s in range(20))


def test_short_videos_and_single_frames():
    assert sample_frames(generator(0), 1, 5, reach=20) == [0] * 5
    assert len(set(sample_frames(generator(0), 9, 4, reach=0))) == 1
    assert len(sample_frames(generator(0), 9, 1, reach=3)) == 1
    assert len(sample_frames(generator(0), 3, 12, reach=20)) == 12


@pytest.mark.parametrize("wrong", [{"length": 0}, {"frames": 0}, {"reach": -1}])
def test_numbers_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="a clip needs"):
        sample_frames(generator(0), **{"length": 5, "frames": 2, "reach": 3, **wrong})


# ---- shots


@pytest.mark.parametrize("size", [(480, 853), (853, 480), (37, 41), (1, 1), (100, 3000)])
def test_windows_drift_one_way_inside_the_frame(size):
    for seed in range(40):
        windows = np.array(draw_windows(generator(seed), size, 6))
        assert len({tuple(w[2:]) for w in windows}) == 1
        assert (windows[:, :2] >= 0).all()
        assert (windows[:, 2:] >= 1).all()
        assert (windows[:, :2] + windows[:, 2:] <= size).all()
        for corner in (windows[:, 0], windows[:, 1]):
            steps = np.diff(corner)
            assert (steps >= 0).all() or (steps <= 0).all()


def test_the_sides_of_a_window_are_those_of_a_frame_of_the_given_size():
    shapes = np.array([draw_windows(generator(s), (1000, 1000), 2)[0][2:] for s in range(200)]) / 1000
    # least: 384 of 600; a frame of 400 has room for 384..400
    assert shapes.min() >= 0.64
    assert shapes.min() < 0.7
    assert shapes.max() == 1


def test_one_draw_holds_for_the_clip():
    shots = [draw_shots(generator(s), (480, 853), 5, turn=15.0) for s in range(200)]
    assert {len(s.windows) for s in shots} == {len(s.turns) for s in shots} == {5}
    assert 60 < sum(s.mirrored for s in shots) < 140
    cropped = [s for s in shots if s.windows[0][2:] != (480, 853)]
    assert 60 < len(cropped) < 140
    assert {min(s.size) for s in shots if s not in cropped} <= {288, 320, 352, 384, 416, 432}  # 768 wide: 432
    assert max(max(s.size) for s in shots) <= 768


def test_angles_of_turns_go_one_way_in_both_directions():
    ways = set()
    for seed in range(60):
        turns = np.array(draw_shots(generator(seed), (200, 300), 6, turn=15.0).turns)
        angles = np.rad2deg(np.arctan2(turns[:, 0, 1], turns[:, 0, 0]))
        assert np.abs(angles).max() <= 15
        ways.add(int(np.sign(np.diff(angles)).sum()))
    assert ways == {-5, 5}


def test_turns_have_one_centre_in_the_middle_fifth():
    for seed in range(30):
        shots = draw_shots(generator(seed), (200, 300), 4, turn=15.0, short_edges=(200,), crop=None)
        centres = [np.linalg.solve(np.eye(2) - turn[:, :2], turn[:, 2]) for turn in shots.turns]
        assert np.allclose(centres, centres[0])
        assert 0.4 <= (centres[0][0] + 0.5) / 300 <= 0.6
        assert 0.4 <= (centres[0][1] + 0.5) / 200 <= 0.6


@pytest.mark.parametrize("turn", [0.0, 15.0])
@pytest.mark.parametrize("short_edge", [33, 61, 150])
def test_picture_and_masks_move_together(turn, short_edge):
    masks = [box(20, 5 + 10 * t, 45, 30 + 10 * t) for t in range(5)]
    frames = [np.where(mask[..., None], 255, 0).astype(np.uint8).repeat(3, -1) for mask in masks]
    for seed in range(12):
        shots = draw_shots(generator(seed), SIZE, 5, turn=turn, short_edges=(short_edge,))
        rgb, tube = shots.pictures(frames.__getitem__, range(5)), shots.masks(masks.__getitem__, range(5))
        white = (rgb > 127).all(-1)
        assert rgb.shape == (*tube.shape, 3)
        both, either = (white & tube).sum((1, 2)), (white | tube).sum((1, 2))
        assert (both > 0.85 * either - 20).all()
        assert both.sum() > 0.9 * either.sum()


def test_a_half_covered_picture_stays_half_covered_at_twice_the_size():
    """A mask that is off by half a pixel would be caught here."""
    mask = box(0, 0, 10, 10, (10, 20))
    shots = draw_shots(generator(0), (10, 20), 1, short_edges=(25,), crop=None, flip=1.0)
    assert shots.masks(lambda _: mask, [0])[0].sum(1).tolist() == [25] * 25


def test_each_copy_of_a_frame_is_seen_through_its_own_window():
    rgb = generator(0).integers(0, 256, (20, 30, 3), np.uint8)
    shots = Shots(((0, 0, 8, 9), (5, 7, 8, 9), (5, 7, 8, 9)), (8, 9))
    expected = [rgb[:8, :9], rgb[5:13, 7:16], rgb[5:13, 7:16]]
    assert np.array_equal(shots.pictures(lambda _: rgb, [0, 0, 0]), expected)
    assert np.array_equal(shots.masks(lambda _: rgb[..., 0] > 99, [0, 0, 0]), np.stack(expected)[..., 0] > 99)


def test_what_a_turn_brings_in_is_no_instance():
    shots = draw_shots(generator(3), (60, 60), 2, short_edges=(60,), crop=None, turn=15.0)
    rgb = shots.pictures(lambda _: np.full((60, 60, 3), 255, np.uint8), [0, 0])
    masks = shots.masks(lambda _: np.ones((60, 60), bool), [0, 0])
    outside = (rgb < 140).all(-1)
    assert outside.any()
    assert not (masks & outside).any()


# ---- videos


def test_a_clip_of_a_video(videos):
    source = ytvis_source(videos, 6, reach=20, short_edges=(64, 96), long_edge=200)
    sizes, lefts = set(), set()
    for seed in range(30):
        rgb, masks, classes = source(generator(seed))
        assert rgb.dtype == np.uint8
        assert masks.dtype == bool
        assert classes.dtype == np.int64
        assert masks.shape == (len(classes), *rgb.shape[:3])
        assert rgb.shape[0] == 6
        assert min(rgb.shape[1:3]) in (64, 96)
        sizes.add(rgb.shape[1:3])
        for picture, mask in zip(rgb, masks[0] if len(masks) else []):
            assert overlap(picture, mask) > 0.8 or mask.sum() < 60
        order = [np.flatnonzero(m.any(0)).mean() for m in (masks[0] if len(masks) else []) if m.any()]
        lefts.add(order == sorted(order))
    assert len(sizes) > 5
    assert lefts == {True, False}  # things that go to the right, and mirrored


def test_the_generator_decides_everything(videos):
    source = ytvis_source(videos, 4, reach=20)
    first, again, other = (source(generator(s)) for s in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first[0], other[0])


def test_a_video_comes_through_unchanged_at_its_own_size(videos):
    rgb, masks, classes = ytvis_source(videos, 40, reach=20, **WHOLE)(generator(0))
    video, (instance,) = videos.videos[1], videos.instances[1]
    given = [(video.load_frame(t), instance.mask(t)) for t in range(9)]
    where = [next(i for i, (_, m) in enumerate(given) if np.array_equal(m, mask)) for mask in masks[0]]
    assert where == sorted(where)
    assert len(set(where)) > 6
    assert all(np.array_equal(picture, given[i][0]) for picture, i in zip(rgb, where))
    assert classes.tolist() == [1]  # category 7 of 2, 7, 9


def test_classes_are_positions_among_the_ids_of_the_file(tmp_path):
    tubes = [[[box(0, 0, 9, 9)], [box(20, 20, 40, 40)], [box(50, 50, 60, 90)]]]
    data = read(tmp_path, make_videos(tmp_path, tubes, categories=(9, 2, 7)))
    assert ytvis_source(data, 2, reach=3, **WHOLE)(generator(0))[2].tolist() == [2, 0, 1]


def test_a_video_of_one_frame_and_more_frames_than_the_video(tmp_path):
    data = read(tmp_path, make_videos(tmp_path, [[[box(10, 10, 40, 40)]]]))
    rgb, masks, _ = ytvis_source(data, 5, reach=20, **WHOLE)(generator(0))
    assert rgb.shape == (5, *SIZE, 3)
    assert (rgb == rgb[0]).all()
    assert (masks == box(10, 10, 40, 40)).all()


def test_absent_frames_are_empty_and_instances_never_seen_are_left_out(tmp_path):
    here, there = box(5, 5, 30, 30), box(35, 50, 60, 90)
    tubes = [[[here] * 20, [there] + [None] * 19, [None] * 10 + [here] * 10]]
    data = read(tmp_path, make_videos(tmp_path, tubes, categories=(2, 7, 9)))
    counts, partly = set(), 0
    for seed in range(40):
        _, masks, classes = ytvis_source(data, 3, reach=2, **WHOLE)(generator(seed))
        assert 0 in classes
        assert len(classes) == len(masks)
        assert masks.any((1, 2, 3)).all()
        counts.add(tuple(classes.tolist()))
        partly += not masks.any((2, 3)).all()
    assert counts >= {(0,), (0, 1), (0, 2)}
    assert partly


def test_an_empty_mask_is_no_instance(tmp_path):
    data = read(tmp_path, make_videos(tmp_path, [[[box(5, 5, 30, 30)] * 3, [np.zeros(SIZE, bool)] * 3]]))
    assert len(ytvis_source(data, 2, reach=3, **WHOLE)(generator(0))[2]) == 1


def test_crowds_are_left_out(tmp_path):
    content = make_videos(tmp_path, [[[box(5, 5, 30, 30)] * 3, [box(35, 50, 60, 90)] * 3]])
    content["annotations"][0]["iscrowd"] = 1
    masks = ytvis_source(read(tmp_path, content), 2, reach=3, **WHOLE)(generator(0))[1]
    assert (masks == box(35, 50, 60, 90)).all()
    assert len(masks) == 1


def corners(tmp_path):
    """A wide video of two instances, at its two ends: a crop that drifts may meet both, and often meets none."""
    size = (60, 400)
    tubes = [[[box(0, 0, 9, 90, size)] * 2, [box(40, 310, 60, 400, size)] * 2]]
    return read(tmp_path, make_videos(tmp_path, tubes, size, categories=(2, 7)))


def test_an_instance_lost_by_the_crop_is_left_out(tmp_path, monkeypatch):
    source = ytvis_source(corners(tmp_path), 2, reach=3, crop_probability=1.0, short_edges=(60,))
    assert {tuple(source(generator(seed))[2].tolist()) for seed in range(40)} == {(0,), (1,), (0, 1)}
    monkeypatch.setattr(vis_clips, "REDRAWS", 0)
    assert {tuple(source(generator(seed))[2].tolist()) for seed in range(40)} >= {(), (0,), (1,)}
    rgb, masks, _ = next(c for c in map(source, map(generator, range(40))) if not len(c[2]))
    assert masks.shape == (0, *rgb.shape[:3])


def test_a_clip_that_lost_everything_is_drawn_again_but_not_for_ever(tmp_path, monkeypatch):
    data = corners(tmp_path)
    draws, loads = [], []

    def load(video, t):
        loads.append(t)
        return np.zeros((*video.size, 3), np.uint8)

    def draw(rng, size, frames, **camera):
        draws.append(int(rng.integers(1000)))
        return Shots(((20, 100, 20, 100),) * frames, (20, 100))  # between the two

    monkeypatch.setattr(vis_clips, "draw_shots", draw)
    monkeypatch.setattr(
        type(data.videos[1]), "load_frame", lambda self, t: loads.append(t) or np.zeros((60, 400, 3), "u1")
    )
    source = ytvis_source(data, 1, reach=3)
    rgb, masks, classes = source(generator(0))
    assert len(draws) == 11
    assert len(set(draws)) > 1  # the generator goes on
    assert len(loads) == 1  # only the last draw is looked at
    assert (rgb.shape, masks.shape, len(classes)) == ((1, 20, 100, 3), (0, 1, 20, 100), 0)
    first = draws.copy()
    source(generator(0))
    assert draws[11:] == first


def test_nothing_to_lose_is_not_drawn_again(tmp_path, monkeypatch):
    draws = []
    monkeypatch.setattr(vis_clips, "draw_shots", lambda *a, **k: draws.append(1) or draw_shots(*a, **k))
    source = ytvis_source(read(tmp_path, make_videos(tmp_path, [[], [moving(3)]])), 2, reach=3, drop_empty=False)
    empty = sum(not len(source(generator(seed))[2]) for seed in range(10))
    assert empty
    assert len(draws) == 10


def test_videos_without_instances_are_left_out_if_asked(tmp_path):
    data = read(tmp_path, make_videos(tmp_path, [[], [[box(5, 5, 30, 30)] * 3], []]))
    found = {len(ytvis_source(data, 2, reach=3)(generator(s))[2]) for s in range(20)}
    kept = {len(ytvis_source(data, 2, reach=3, drop_empty=False)(generator(s))[2]) for s in range(20)}
    assert found == {1}
    assert kept == {0, 1}


def test_files_and_numbers_that_give_no_clip_are_refused(tmp_path, videos):
    with pytest.raises(ValueError, match="none of the 1 videos"):
        ytvis_source(read(tmp_path, make_videos(tmp_path, [[]])), 2, reach=3)
    content = make_videos(tmp_path, [[moving(3)]])
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="give `frames`"):
        ytvis_source(read_ytvis(tmp_path / "instances.json"), 2, reach=3)
    content["videos"][0]["file_names"] = []
    with pytest.raises(ValueError, match="no file_names"):
        ytvis_source(read(tmp_path, content), 2, reach=3)
    for wrong in ({"frames": 0}, {"reach": -1}, {"crop": (5, 4)}, {"short_edges": ()}, {"flip": 2.0}, {"long_edge": 0}):
        with pytest.raises(ValueError, match=r"clip|crop|probabilities"):
            ytvis_source(videos, **{"frames": 2, "reach": 3, **wrong})


# ---- COCO


def test_a_clip_of_an_image(coco, tmp_path):
    source = coco_source(coco[0], tmp_path, 5, short_edges=(97, 120))
    complete = 0
    for seed in range(30):
        rgb, masks, classes = source(generator(seed))
        assert masks.shape == (len(classes), *rgb.shape[:3])
        assert rgb.shape[0] == 5
        assert not (rgb[0] == rgb[-1]).all()
        for c, tube in zip(classes.tolist(), masks):
            colour = [0, 20, 39].index(c)  # person, motorbike (a bicycle), tennis_racket
            assert all(overlap(p, m, colour) > 0.7 or m.sum() < 150 for p, m in zip(rgb, tube))
        complete += len(classes) == 3
    assert complete > 15


def test_polygons_and_both_kinds_of_rle_give_the_same_masks(coco, tmp_path):
    still = {**WHOLE, "turn": 0.0}
    rgb, masks, _ = coco_source(coco[0], tmp_path, 3, **still)(generator(0))
    expected = [box(10, 10, 40, 40), box(20, 50, 50, 70), box(5, 72, 30, 90)]
    assert (masks == np.stack(expected)[:, None]).all()
    assert (rgb == rgb[0]).all()


def test_categories_are_those_of_the_file(coco, tmp_path):
    own = coco_source(coco[0], tmp_path, 1, dataset=None, **WHOLE, turn=0.0)
    found = {tuple(own(generator(s))[2].tolist()) for s in range(20)}
    assert found == {(0, 1, 38, 39), (39,)}  # the gaps of COCO's ids are closed


@pytest.mark.parametrize("dataset", NAMES)
def test_every_category_of_coco_goes_where_the_papers_send_it(dataset, coco, tmp_path):
    path, content = coco
    shape = polygon(5, 5, 30, 30)
    content["annotations"] = [
        {"id": i, "image_id": 4, "category_id": i, "iscrowd": 0, "segmentation": shape} for i in COCO
    ]
    path.write_text(json.dumps(content))
    classes = coco_source(path, tmp_path, 1, dataset=dataset, **WHOLE)(generator(0))[2]
    assert classes.tolist() == [COCO_TO[dataset][i] - 1 for i in sorted(COCO_TO[dataset])]


def test_the_order_of_a_coco_file_is_free(coco, tmp_path):
    path, content = coco
    still = {**WHOLE, "turn": 0.0}
    before = coco_source(path, tmp_path, 2, **still)(generator(0))
    for order in (("annotations", "categories", "images"), ("categories", "annotations", "images")):
        path.write_text(json.dumps({key: content[key] for key in order}))
        after = coco_source(path, tmp_path, 2, **still)(generator(0))
        assert all(np.array_equal(a, b) for a, b in zip(before, after))


def test_a_coco_file_without_instances_is_refused(coco, tmp_path):
    path, content = coco
    path.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(ValueError, match="none of the 2 videos"):
        coco_source(path, tmp_path, 2)


# ---- streams


def test_sources_travel_and_mix_in_a_stream(videos, coco, tmp_path):
    clips = ytvis_source(videos, 3, reach=20, short_edges=(40,))
    stills = coco_source(coco[0], tmp_path, 3, short_edges=(48,))
    for source in (clips, stills):
        moved = pickle.loads(pickle.dumps(source))
        assert all(np.array_equal(a, b) for a, b in zip(source(generator(1)), moved(generator(1))))
    stream = ClipStream([(stills, 1.0), (clips, 0.75)], batch=3, collate=collate_tubes)
    shapes = set()
    for clip, labels in load(stream, stop=5):
        assert clip.images.shape[:3] == (3, 3, 3)
        assert [m.shape[1:] for m in labels.masks] == [(3, *clip.images.shape[3:])] * 3
        shapes.add(tuple(clip.images.shape[3:]))
    assert len(shapes) > 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_spawned_workers_draw_the_same_clips(videos):
    from torch.utils.data import DataLoader

    stream = ClipStream([(ytvis_source(videos, 2, reach=20), 1.0)], batch=1, collate=collate_tubes)
    loader = DataLoader(stream, batch_size=None, sampler=range(2), num_workers=1, multiprocessing_context="spawn")
    for (there, _), (here, _) in zip(loader, load(stream, stop=2), strict=True):
        assert (there.images == here.images).all()
