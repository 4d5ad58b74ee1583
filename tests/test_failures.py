"""The failure study: the causes it measures, its bins, and the whole of it on two small clips."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tubelet.data.scene import Part, Scene, Thing, Wave
from tubelet.data.synthetic import draw_scene, look_alike, make_clip

PATH = Path(__file__).parents[1] / "benchmarks/failures.py"
if not PATH.is_file():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
SPEC = importlib.util.spec_from_file_location("failures", PATH)
assert SPEC is not None
assert SPEC.loader is not None
failures = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(failures)

STILL = Wave(0.0)


def square(side: int) -> Part:
    rgb = np.full((side, side, 3), side, np.uint8)
    return Part(rgb, np.full((side, side), 255, np.uint8), np.zeros(2), np.zeros(2), STILL)


def thing(label: int, side: int, *, x: Wave = STILL, y: float = 0.0) -> Thing:
    return Thing(label, (square(side),), x, Wave(y), STILL, STILL, STILL, 0.0, (STILL, STILL), 20.0)


def stage(*things: Thing) -> Scene:
    """41 x 61 pixels seen by a camera at rest."""
    backdrop = np.zeros((61, 91, 3), np.uint8)
    plain = (Wave(1.0), Wave(1.0), STILL)
    return Scene((41, 61), backdrop, things, (STILL, STILL, STILL, STILL), plain, 0.0, 0.0, 0.0, 0.0, 0)


def test_the_clips_are_those_of_make_clip():
    clip = failures.make(3, (40, 64), 4, failures.NO_PHOTOS)
    rgb, ids = make_clip([failures.SEED, 3], frames=4, size=(40, 64), objects=failures.OBJECTS, pace=failures.PACE)
    assert np.array_equal(clip.rgb, rgb)
    assert np.array_equal(clip.ids, ids)
    pixels = [[np.count_nonzero(frame == i) for frame in ids] for i in range(1, int(ids.max()) + 1)]
    assert np.allclose((clip.causes["size"] / 100 * 40) ** 2, pixels)


def test_size_speed_and_occlusion_of_a_square_that_goes_behind_another():
    # 11 wide; at x = -20, -10, 0 its centre is off, at the rim of, and behind a post of 11 x 11
    passing = thing(1, 11, x=Wave(-10.0, 10.0, np.pi / 2, -np.pi / 2))
    causes = failures.measure(stage(passing, thing(0, 11)), [0.0, 1.0, 2.0])
    assert np.allclose(causes["size"], [[100 * 11 / 41, 100 * np.sqrt(110) / 41, 0]])
    assert np.allclose(causes["speed"], [[0, 1000 / 41, 1000 / 41]])
    assert np.allclose(causes["occlusion"], [[0, 100 / 11, 100]])
    assert causes["length"].tolist() == [[0, 1, 2]]


def test_the_edge_of_the_frame_and_what_lies_behind_hide_nothing():
    half_out = thing(1, 11, x=Wave(30.0))
    causes = failures.measure(stage(thing(0, 21, y=5.0), half_out, thing(2, 11, x=Wave(100.0))), [0.0])
    assert np.allclose(causes["size"][:, 0], [100 * np.sqrt(66) / 41, 0])
    assert causes["occlusion"][0, 0] == 0


def test_look_alikes_are_known_by_their_stuff():
    rng = np.random.default_rng(0)
    body, stranger = (draw_scene(rng, (48, 48), 1).things[0] for _ in range(2))
    copies = [replace(body, label=0, parts=look_alike(rng, body.parts)) for _ in range(6)]
    copies += [replace(body, label=0, parts=look_alike(rng, copy.parts)) for copy in copies]
    body, stranger = replace(body, label=1), replace(stranger, label=2)
    causes = failures.measure(replace(stage(), things=(stranger, *copies, body)), [0.0, 1.0])
    assert causes["look-alikes"].tolist() == [[12, 12], [0, 0]]


def test_bins_hold_every_object_frame_that_counts_once():
    causes = failures.causes_of(6)
    rng = np.random.default_rng(0)
    values = {
        "size": rng.uniform(1, 90, (4, 6)),
        "speed": rng.uniform(0, 9, (4, 6)),
        "occlusion": rng.uniform(0, 99, (4, 6)),
        "look-alikes": rng.integers(0, 5, (4, 6)),
        "length": np.tile(np.arange(6), (4, 1)),
    }
    values["size"][1, 3] = 0
    for bins, _ in failures.sort_in(causes, values).values():
        times = np.sum(bins, axis=0)
        assert times[:, 0].max() == 0
        assert times[1, 3] == 0
        assert times.sum() == 4 * 5 - 1
    _, benign = failures.sort_in(causes, values)["size"]
    calm = (values["speed"] < 2) & (values["occlusion"] < 10) & (values["look-alikes"] == 0)
    assert np.array_equal(benign[:, 1:3], calm[:, 1:3])


@pytest.mark.parametrize("frames", [2, 3, 40])
def test_the_bins_of_length_reach_the_last_frame(frames):
    cause = failures.causes_of(frames)["length"]
    assert cause.edges[0] == 1
    assert cause.edges[-1] == frames
    assert len(cause.labels()) == min(5, frames - 1)


def test_failures_come_from_the_worst_bin_and_from_different_clips():
    j = np.array([[1, 0.9, 0.9], [1, 0.3, 0.1], [1, 0.2, 0.2], [1, 0.5, 0.4]])
    bins = [np.zeros((4, 3), bool) for _ in range(3)]
    bins[0][0, 1:] = True
    bins[2][1:, 1:] = True
    worst, found = failures.typical(bins, j, [0, 1, 1, 2])
    assert worst == 2
    assert found == [(1, 2), (3, 2)]
    assert failures.typical(bins, j, [0, 1, 2, 3])[1] == [(1, 2), (2, 1), (3, 2)]


def test_the_part_around_a_mask_has_the_frame_s_proportions_and_stays_inside():
    mask = np.zeros((90, 160), bool)
    mask[88, 158] = True
    assert failures.around(mask) == (slice(60, 90), slice(107, 160))
    assert failures.around(np.ones((90, 160), bool)) == (slice(0, 90), slice(0, 160))


def test_the_whole_study_of_two_models(tmp_path, monkeypatch, capsys):
    command = f"failures.py dis-flow aost@1 --clips 2 --frames 3 --size 48 64 --out {tmp_path / 'out'}"
    monkeypatch.setattr("sys.argv", command.split())
    failures.main()
    causes = json.loads((tmp_path / "out/bins.json").read_text())["causes"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"bins.json", *(f"{name}.jpg" for name in causes)}
    counted = [sum(entry["all"]["object_frames"] for entry in bins) for bins in causes.values()]
    assert len(counted) == 5
    assert len(set(counted)) == 1
    means = causes["length"][0]["all"]["J"]
    assert set(means) == {"dis-flow", "aost@1"}
    assert all(0.2 < mean < 1 for mean in means.values())
    assert f"{means['dis-flow']:.3f}" in capsys.readouterr().out


def test_models_that_cannot_be_told_apart_and_clips_without_a_scored_frame(monkeypatch, capsys):
    for wrong, said in (("dis-flow dis-flow", "the same title"), ("dis-flow --frames 1", "two frames")):
        monkeypatch.setattr("sys.argv", ["failures.py", *wrong.split()])
        with pytest.raises(SystemExit):
            failures.main()
        assert said in capsys.readouterr().err
