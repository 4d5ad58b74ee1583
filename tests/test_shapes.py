import json
from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
import pytest

from tubelet.data.make_ytvis import write_ytvis
from tubelet.data.scene import arrange, trace
from tubelet.data.shapes import (
    CLASSES,
    DECOYS,
    OUTLINES,
    draw_classes,
    draw_part,
    draw_shapes,
    held_out,
    make_tubes,
    shown,
    to_ytvis,
    write_held_out,
)
from tubelet.data.texture import draw_texture
from tubelet.data.ytvis import read_ytvis
from tubelet.metrics.vis_ap import score_vis

CLIPS = 40


@pytest.fixture(scope="module")
def clips():
    return [make_tubes(seed, frames=6, size=(64, 72)) for seed in range(CLIPS)]


@pytest.fixture(scope="module")
def scenes():
    """Scenes of four objects, with the times at which they are filmed."""
    times = np.arange(6) * 2.0
    return [(*draw_shapes(np.random.default_rng(s), (64, 64), 4, times, 0.75), times) for s in range(CLIPS)]


def silhouettes(kind: str, side: int = 64) -> list[np.ndarray]:
    """Some pictures of one outline, as alpha."""
    rngs = [np.random.default_rng(seed) for seed in range(6)]
    outline = {**OUTLINES, **DECOYS}[kind]
    return [draw_part(rng, float(side), draw_texture(rng, side), outline(rng)).alpha > 127 for rng in rngs]


def test_same_seed_same_bytes_and_another_seed_another_clip():
    first, again, other = (make_tubes(s, frames=3, objects=(2, 2)) for s in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("size", [(16, 16), (16, 120), (65, 33), (97, 96)])
@pytest.mark.parametrize("count", [1, 4, 10])
@pytest.mark.parametrize("frames", [1, 3])
def test_any_size_and_number_and_every_object_shows(size, count, frames):
    for seed in range(3):
        rgb, masks, classes = make_tubes(seed, frames=frames, size=size, objects=(count, count))
        assert rgb.shape == (frames, *size, 3)
        assert masks.shape == (count, frames, *size)
        assert classes.shape == (count,)
        assert (rgb.dtype, masks.dtype, classes.dtype) == (np.uint8, bool, np.int64)
        assert masks.any((1, 2, 3)).all()
        assert masks.sum(0).max() == 1


def test_the_number_of_objects_is_drawn_between_the_two(clips):
    assert {len(classes) for _, _, classes in clips} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    "wrong", [{"frames": 0}, {"size": (8, 64)}, {"objects": (0, 2)}, {"objects": (3, 11)}, {"calm": 1.5}]
)
def test_impossible_clips_are_refused(wrong):
    with pytest.raises(ValueError, match="got frames="):
        make_tubes(0, **{"frames": 2, **wrong})


def test_a_clip_that_stands_still_is_a_clip_too():
    rgb, masks, _ = make_tubes(1, frames=3, size=(48, 48), pace=0.0)
    assert rgb.shape[0] == 3
    assert np.array_equal(masks[:, 0], masks[:, 2])


def test_things_move_and_pace_makes_them_move_more():
    def change(pace):
        tubes = [make_tubes(seed, frames=2, size=(64, 64), pace=pace)[1] for seed in range(12)]
        return np.mean([(masks[:, 0] != masks[:, 1]).mean() for masks in tubes])

    assert 0 < change(1.0) < change(8.0)


def test_classes_are_balanced():
    rng = np.random.default_rng(0)
    classes = np.concatenate([draw_classes(rng, 4)[0] for _ in range(1000)])
    assert all(0.17 < share < 0.23 for share in np.bincount(classes, minlength=len(CLASSES)) / len(classes))


def test_at_least_half_of_each_object_shows_in_its_best_frame(scenes):
    shares = np.concatenate([shown(scene, 4, times) for scene, _, times in scenes])
    assert (shares >= 0.5).mean() > 0.95
    assert shares.max() < 1.1


def test_things_enter_and_leave(clips):
    """Of all objects, a tenth or more is not there from the start, and as many are gone at the end."""
    there = np.concatenate([masks.any((2, 3)) for _, masks, _ in clips])
    for end in (0, -1):
        assert 0.1 < (~there[:, end]).mean() < 0.5


def test_things_hide_each_other_and_are_hidden_by_what_has_no_label(scenes):
    """Seen alone, an object shows more pixels than among the others, and than among the things without a label."""

    def pixels(scene, label, keep, t):
        things = tuple(thing for thing in scene.things if thing.label == label or keep(thing.label))
        return (trace(arrange(replace(scene, things=things), t), scene.size) == label).sum()

    by_objects, by_decoys = [], []
    for scene, _, times in scenes:
        for label in range(1, 5):
            alone = pixels(scene, label, lambda _: False, times[3])
            by_objects.append(pixels(scene, label, lambda other: other > 0, times[3]) < 0.9 * alone)
            by_decoys.append(pixels(scene, label, lambda other: other == 0, times[3]) < 0.9 * alone)
    assert 0.1 < np.mean(by_objects) < 0.6
    assert 0.03 < np.mean(by_decoys) < 0.4


def test_twins_have_the_same_class_and_the_same_stuff_and_others_of_a_class_have_not(scenes):
    """And twins have ways of their own."""
    twins, others = 0, 0
    for scene, classes, times in scenes:
        objects = {thing.label: thing for thing in scene.things if thing.label}
        for a, b in combinations(sorted(objects), 2):
            one, other = objects[a], objects[b]
            if one.parts[0] is other.parts[0]:
                twins += 1
                assert classes[a - 1] == classes[b - 1]
                assert not np.allclose(one.at(times[-1]), other.at(times[-1]))
            elif classes[a - 1] == classes[b - 1]:
                others += 1
                side = min(min(thing.parts[0].alpha.shape) for thing in (one, other))
                assert np.abs(one.parts[0].rgb[:side, :side].astype(int) - other.parts[0].rgb[:side, :side]).mean() > 5
    assert twins > 0.5 * CLIPS
    assert others > 0.2 * CLIPS


def test_outlines_are_told_apart_by_how_round_they_are():
    """Measured, not looked at: holes, the share of the convex hull that is filled, and corners of the hull."""
    for kind in (*CLASSES, *DECOYS):
        for mask in silhouettes(kind):
            rims, levels = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            rim = max(rims, key=cv2.contourArea)
            hull = cv2.convexHull(rim)
            filled = mask.sum() / cv2.contourArea(hull)
            around = 4 * np.pi * cv2.contourArea(hull) / cv2.arcLength(hull, True) ** 2
            assert (levels[0, :, 3] >= 0).any() == (kind == "ring")
            assert (filled > 0.9) == (kind in ("disc", "square", "triangle", "bar")), kind
            assert (around > 0.96) == (kind in ("disc", "ring")), kind


def test_calm_takes_contrast_from_surfaces():
    def drawn(calm):
        return draw_shapes(np.random.default_rng(7), (64, 64), 2, np.zeros(1), calm)[0]

    plain, half, none = (drawn(calm) for calm in (1.0, 0.5, 0.0))
    assert plain.backdrop.std((0, 1)).max() == 0
    assert half.backdrop.std((0, 1)) == pytest.approx(none.backdrop.std((0, 1)) / 2, rel=0.1)
    few, many = (scene.things[0].parts[0].rgb.std((0, 1)).mean() for scene in (plain, none))
    assert 0 < few < many


# ---- the held-out set


def predict(truth: dict) -> list[dict]:
    keys = ("video_id", "category_id", "segmentations")
    return [{**{key: a[key] for key in keys}, "score": 0.5} for a in truth["annotations"]]


def test_the_held_out_set_is_fixed_and_its_truth_is_a_youtube_vis_file(tmp_path):
    options = {"frames": 4, "size": (33, 48), "objects": (2, 4)}
    videos, truth = held_out(3, **options)
    more, larger = held_out(5, **options)
    assert all(np.array_equal(a, b) for a, b in zip(videos, more, strict=False))
    assert not np.array_equal(videos[0], held_out(1, **options, seed=1)[0][0])
    assert [v["id"] for v in larger["videos"]] == [1, 2, 3, 4, 5]
    assert larger["annotations"][: len(truth["annotations"])] == truth["annotations"]
    assert [a["id"] for a in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    assert [c["name"] for c in truth["categories"]] == list(CLASSES)
    write_ytvis(tmp_path / "truth.json", truth)
    data = read_ytvis(tmp_path / "truth.json")
    assert [v.size for v in data.videos.values()] == [(33, 48)] * 3
    assert [v.length for v in data.videos.values()] == [4] * 3


def test_the_truth_is_that_of_the_clips(tmp_path, clips):
    truth = to_ytvis(clips[:5])
    write_ytvis(tmp_path / "truth.json", truth)
    data = read_ytvis(tmp_path / "truth.json")
    for number, (_, masks, classes) in enumerate(clips[:5], start=1):
        instances = data.instances[number]
        assert [i.category_id for i in instances] == (classes + 1).tolist()
        for instance, tube in zip(instances, masks, strict=True):
            assert all(np.array_equal(instance.mask(t), mask) for t, mask in enumerate(tube))
            assert [instance.visible(t) for t in range(6)] == tube.any((1, 2)).tolist()
            assert [area or 0 for area in instance.areas] == tube.sum((1, 2)).tolist()


def test_the_truth_scores_one_against_itself_and_less_with_classes_exchanged(tmp_path):
    _, truth = held_out(8, frames=3, size=(32, 32))
    write_ytvis(tmp_path / "truth.json", truth)
    right, wrong = predict(truth), predict(truth)
    for entry in wrong:
        entry["category_id"] = entry["category_id"] % len(CLASSES) + 1
    for name, entries, expected in (("right", right, 1.0), ("wrong", wrong, 0.0)):
        (tmp_path / name).write_text(json.dumps(entries))
        assert score_vis(tmp_path / "truth.json", tmp_path / name).ap == pytest.approx(expected, abs=0.2)
    assert score_vis(tmp_path / "truth.json", tmp_path / "right").ap == pytest.approx(1.0)


def test_a_written_set_is_read_back(tmp_path):
    videos, truth = held_out(2, frames=2, size=(17, 20))
    write_held_out(tmp_path, videos, truth)
    data = read_ytvis(tmp_path / "instances.json", frames=tmp_path / "JPEGImages")
    assert np.array_equal(data.videos[2].load_frame(1), videos[1][1])
