from dataclasses import replace

import numpy as np
import pytest

from tubelet.data.scene import Part, Scene, Thing, Wave, arrange, film, trace
from tubelet.data.synthetic import MIN_VISIBLE, draw_body, draw_outline, draw_scene, look_alike, make_clip
from tubelet.data.texture import BANK_SIZE, draw_palette, draw_texture, pattern

STILL = Wave(0.0)


def square(side: int, value: int) -> Part:
    rgb = np.full((side, side, 3), value, np.uint8)
    return Part(rgb, np.full((side, side), 255, np.uint8), np.zeros(2), np.zeros(2), STILL)


def thing(label: int, part: Part, x: Wave = STILL, bend: float = 0.0) -> Thing:
    ripple = (Wave(0.0, bend, 0.1), Wave(0.0, bend, 0.2))
    return Thing(label, (part,), x, STILL, STILL, STILL, STILL, 0.0, ripple, 20.0)


def scene(*things: Thing, shutter: float = 0.0) -> Scene:
    backdrop = np.zeros((61, 61, 3), np.uint8)
    plain = (Wave(1.0), Wave(1.0), STILL)
    return Scene((41, 41), backdrop, things, (STILL, STILL, STILL, STILL), plain, shutter, 0.0, 0.0, 0.0, 0)


def shoot(scene: Scene, t: float):
    return film(scene, t, np.random.default_rng(0))


def test_same_seed_same_bytes_and_another_seed_another_clip():
    first, again, other = (make_clip(s, frames=3, size=(64, 80)) for s in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("size", [(16, 16), (16, 200), (65, 33), (193, 193)])
@pytest.mark.parametrize("count", [1, 4, 10])
def test_every_object_shows_in_the_first_frame(size, count):
    for seed in range(3):
        rgb, ids = make_clip(seed, frames=2, size=size, objects=(count, count))
        assert rgb.shape == (2, *size, 3)
        pixels = np.bincount(ids[0].ravel(), minlength=count + 1)
        assert len(pixels) == count + 1
        assert pixels[1:].min() >= max(1, MIN_VISIBLE * min(size) ** 2)


def test_one_frame_is_the_first_of_many():
    one, many = (make_clip(3, frames=n, size=(48, 48)) for n in (1, 4))
    assert np.array_equal(one[0][0], many[0][0])
    assert np.array_equal(one[1][0], many[1][0])


def test_things_move_and_pace_makes_them_move_more():
    def change(**pace):
        clips = [make_clip(seed, frames=2, size=(64, 64), **pace)[1] for seed in range(8)]
        return np.mean([(ids[0] != ids[1]).mean() for ids in clips])

    assert 0 < change(pace=1.0) < change(pace=8.0)
    assert change(max_pace=1.0) == change(pace=1.0) < change(max_pace=3.0) < change() == change(max_pace=8.0)


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"size": (8, 64)}, {"objects": (0, 2)}, {"objects": (3, 11)}])
def test_impossible_clips_are_refused(wrong):
    with pytest.raises(ValueError, match="got frames="):
        make_clip(0, **{"frames": 2, **wrong})
    with pytest.raises(ValueError, match=r"max_pace cannot be 0\.5"):
        make_clip(0, frames=2, max_pace=0.5)


@pytest.mark.parametrize("bend", [0.0, 1e-7])
def test_the_truth_is_where_the_picture_is(bend):
    """At time 10 the square has moved exactly 6 pixels to the right, by the affine and by the bending warp."""
    moving = thing(3, square(11, 200), x=Wave(0.0, 6.0, np.pi / 20), bend=bend)
    for t, left in ((0.0, 15), (10.0, 21)):
        rgb, ids = shoot(scene(moving), t)
        expected = np.zeros((41, 41), bool)
        expected[15:26, left : left + 11] = True
        assert np.array_equal(ids == 3, expected)
        assert np.array_equal(rgb[..., 0] > 100, expected)


def test_a_pixel_belongs_to_what_covers_at_least_half_of_it():
    rgb, ids = shoot(scene(thing(1, square(11, 200), x=Wave(0.3))), 0.0)
    assert np.flatnonzero(ids[20]).tolist() == list(range(15, 26))
    assert 0 < rgb[20, 26, 0] < 100  # the picture's edge is soft


def test_nearer_things_hide_farther_ones_and_unlabelled_ones_hide_without_a_trace():
    far, near = thing(1, square(21, 90)), thing(0, square(11, 250))
    rgb, ids = shoot(scene(far, near), 0.0)
    assert (ids == 1).sum() == 21**2 - 11**2
    assert (rgb[15:26, 15:26] == 250).all()


def test_a_thing_outside_the_frame_leaves_nothing():
    rgb, ids = shoot(scene(thing(1, square(11, 200), x=Wave(500.0))), 0.0)
    assert not rgb.any()
    assert not ids.any()


def test_the_open_shutter_smears_the_picture_along_the_motion_but_not_the_truth():
    moving = thing(1, square(11, 200), x=Wave(0.0, 100.0, 0.06))
    (sharp, ids), (smeared, same) = (shoot(scene(moving, shutter=s), 0.0) for s in (0.0, 1.0))
    assert np.array_equal(ids, same)
    grey = (smeared[..., 0] > 5) & (smeared[..., 0] < 195)
    assert not ((sharp[..., 0] > 5) & (sharp[..., 0] < 195)).any()
    assert grey[20].sum() >= 8
    assert not grey[:, 20].any()


def test_a_limb_turns_about_its_joint():
    limb = replace(square(21, 200), pivot=np.array([-10.0, 0]))
    swung = replace(limb, turn=Wave(np.pi))
    right, left = (trace(arrange(scene(thing(1, p)), 0.0), (41, 41)) for p in (limb, swung))
    assert right[20, 20:41].all()
    assert not right[20, :19].any()
    assert np.array_equal(left, right[:, ::-1])


def test_some_things_without_a_label_look_like_an_object():
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng, (48, 48), 1) for _ in range(12)]
    textures = [{s.things[i].parts[-1].rgb.tobytes() for i in range(len(s.things))} for s in scenes]
    assert any(len(t) < len(s.things) for s, t in zip(scenes, textures, strict=True))


def test_a_look_alike_has_the_stuff_but_not_the_outline():
    rng = np.random.default_rng(1)
    body = draw_scene(rng, (64, 64), 1).things[0].parts
    for _ in range(8):
        twin = look_alike(rng, body)[-1]
        assert sorted(twin.rgb.sum(2).ravel()) == sorted(body[-1].rgb.sum(2).ravel())
        assert not np.array_equal(twin.alpha, body[-1].alpha)


def test_outlines_fill_their_box_and_stay_inside():
    rng = np.random.default_rng(2)
    for h, w in [(6, 6), (7, 40), (60, 50)] * 10:
        alpha = draw_outline(rng, h, w)
        assert alpha[[0, -1]].max() < 128
        assert alpha[:, [0, -1]].max() < 128
        assert (alpha > 127).mean() > 0.08


def test_patterns_use_the_whole_range_of_grey():
    for index in range(BANK_SIZE):
        low, high = np.percentile(pattern(index), (2, 98))
        assert high - low > 60, index


def test_a_texture_paints_any_shape_the_same_way():
    texture = draw_texture(np.random.default_rng(3), 64)
    large = texture.paint(40, 50)
    assert np.array_equal(texture.paint(7, 9), large[:7, :9])
    to_the_right = np.array([[1.0, 0, 5], [0, 1, 3], [0, 0, 1]])
    assert np.abs(texture.paint(30, 40, to_the_right).astype(int) - large[3:33, 5:45]).max() <= 2


def test_palettes_are_mostly_of_muted_colours():
    rng = np.random.default_rng(4)
    palettes = np.concatenate([draw_palette(rng)[0] for _ in range(200)]).astype(float)
    saturation = (palettes.max(1) - palettes.min(1)) / np.maximum(palettes.max(1), 1)
    assert 0.2 < saturation.mean() < 0.5


def test_most_objects_have_parts_of_other_stuff():
    """Five in seven have parts; three in four of these are painted with something else than the trunk."""
    rng = np.random.default_rng(0)
    bodies = [draw_body(rng, 96, 0.5) for _ in range(120)]
    assert 0.6 < np.mean([len(body) > 1 for body in bodies]) < 0.82
    assert {len(body) for body in bodies} == {1, 2, 3, 4, 5}
    for *limbs, trunk in bodies:
        assert not trunk.joint.any()
        assert all(limb.joint.any() and max(limb.alpha.shape) <= max(trunk.alpha.shape) for limb in limbs)
    colours = [[part.rgb[part.alpha > 127].mean(0) for part in body] for body in bodies]
    apart = [np.abs(limb - trunk).max() for *limbs, trunk in colours for limb in limbs]
    assert np.median(apart) > 40
