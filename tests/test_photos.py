"""Photographs as surfaces, backgrounds and cut-outs of synthetic clips."""

import numpy as np
import pytest
from PIL import Image

from tubelet.data.loader import synthetic_source
from tubelet.data.photos import Photo, load_cutout, load_picture, read_photos
from tubelet.data.synthetic import make_clip


@pytest.fixture
def folder(tmp_path):
    """One picture, all of a blue that no palette has, and one cut-out: a green disc in a wide transparent margin."""
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (1600, 900), (0, 0, 250)).save(tmp_path / "deep/sky.png")
    y, x = np.mgrid[-60:60, -50:50]
    disc = np.zeros((120, 100, 4), np.uint8)
    disc[y**2 + x**2 < 40**2] = 0, 200, 0, 255
    Image.fromarray(disc).save(tmp_path / "disc.png")
    Image.new("RGBA", (20, 20)).save(tmp_path / "too_small.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_pictures_and_cutouts_are_told_apart(folder):
    photos = read_photos(folder)
    assert [path.name for path in photos.pictures] == ["sky.png"]
    assert [path.name for path in photos.cutouts] == ["disc.png"]
    assert load_picture(photos.pictures[0]).shape == (432, 768, 3)
    assert load_cutout(photos.cutouts[0]).shape == (79, 79, 4)


def test_a_picture_with_a_palette_is_shrunk_smoothly(tmp_path):
    """Its indices cannot be averaged: stripes of black and white, one pixel each, become grey."""
    indices = np.tile(np.array([0, 1], np.uint8), (1536, 768))
    image = Image.fromarray(indices)
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "stripes.png")
    rgb = load_picture(tmp_path / "stripes.png")
    assert rgb.shape == (768, 768, 3)
    assert ((rgb > 100) & (rgb < 155)).all()


def test_no_photographs_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no photographs under"):
        read_photos(tmp_path)
    with pytest.raises(FileNotFoundError, match="no photographs under"):
        read_photos(tmp_path / "nowhere")


def test_a_surface_is_the_picture_where_it_lies():
    rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    lie = np.array([[1.0, 0, 5], [0, 1, 7]])
    assert np.array_equal(Photo(rgb, lie).paint(10, 12), rgb[7:17, 5:17])
    further = np.array([[1.0, 0, 2], [0, 1, 1], [0, 0, 1]])
    assert np.array_equal(Photo(rgb, lie).paint(10, 12, further), rgb[8:18, 7:19])


def test_a_view_shows_no_more_than_the_picture(folder):
    """A ramp from black to white, nowhere mirrored: it rises along every row."""
    ramp = np.repeat(np.linspace(40, 200, 400).astype(np.uint8)[None, :, None], 300, 0).repeat(3, 2)
    Image.fromarray(ramp).save(folder / "deep/sky.png")
    photos = read_photos(folder)
    for seed in range(8):
        view = photos.draw_view(np.random.default_rng(seed), 60, 90)
        assert view.shape == (60, 90, 3)
        assert (np.diff(view[30, :, 0].astype(int)) >= 0).all()
        assert view[30, -1, 0] > view[30, 0, 0]


def test_a_cutout_keeps_its_shape(folder):
    part = read_photos(folder).draw_part(np.random.default_rng(2), 50.0)
    assert part.rgb.shape == (50, 50, 3)
    assert abs((part.alpha > 127).mean() - np.pi / 4) < 0.03


def test_clips_show_them(folder):
    """Two thirds of the backgrounds are of one colour channel, and some objects of the other."""
    photos = read_photos(folder)
    clips = [make_clip(seed, frames=2, size=(64, 80), photos=photos) for seed in range(30)]
    objects = [rgb[0][ids[0] == i] for rgb, ids in clips for i in range(1, ids[0].max() + 1)]
    greens = [(pixels.argmax(1) == 1).mean() > 0.5 for pixels in objects]  # parts of one may be of other stuff
    assert 0.2 < np.mean(greens) < 0.95
    again = make_clip(4, frames=2, size=(64, 80), photos=photos)
    assert all(np.array_equal(a, b) for a, b in zip(clips[4], again, strict=True))
    plain = make_clip(4, frames=2, size=(64, 80))
    assert not np.array_equal(plain[0], again[0])


@pytest.mark.parametrize("kept", ["pictures", "cutouts"])
def test_either_kind_may_be_missing(folder, kept):
    photos = read_photos(folder / "deep" if kept == "pictures" else folder)
    assert bool(photos.cutouts) == (kept == "cutouts")
    rgb, ids = synthetic_source((33, 33), 2, photos=photos)(np.random.default_rng(0))
    assert rgb.shape == (2, 33, 33, 3)
    assert ids.max() > 0
