"""`tubelet bench` and `tubelet demo`: a model on generated clips, without data."""

import warnings
from dataclasses import replace
from pathlib import Path

from tubelet.cli.options import DEFAULT_MODEL, DEFAULTS, Flat, Options, finder, open_session
from tubelet.cli.output import prepare_output


def bench(
    options: Flat = DEFAULTS,
    size: str = "480x854",
    objects: int = 3,
    frames: int = 10,
) -> None:
    """Measure frames per second and peak memory of a model on a generated clip.

        tubelet bench --model aot-t --size 480x854 --objects 3

    The first frame, whose masks are given, is not timed; reading and writing are not part of it. Speed does not depend
    on the weights, so a model without any is measured with random ones.

    Args:
        size: Height x width of the frames.
        objects: How many objects are followed, 1 to 254; models that find objects take no notice.
        frames: Frames to time.
    """
    from tubelet.metrics.speed import measure, measure_finding, parse_size
    from tubelet.weights import check_name, finds_objects, shipped

    height, width = parse_size(size)
    if options.weights is None and check_name(options.model) != "dis-flow" and shipped(options.model) is None:
        options = replace(options, weights=Path("random"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if finds_objects(options.model):
            speed, what = measure_finding(finder(options)[0](), (height, width), frames), "its own objects"
        else:
            speed, what = measure(open_session(options), (height, width), objects, frames), f"{objects} objects"
    print(f"{options.model}, {height}x{width}, {what}, {options.precision}\n{speed}")


def demo(
    out: Path = Path("demo"),
    model: str = DEFAULT_MODEL,
    frames: int = 60,
    size: str = "270x480",
    objects: int = 3,
    seed: int = 11,
) -> None:
    """Make a clip with known truth, follow its objects, and score the result: no data, no download.

    Writes OUT/clip.mp4, OUT/truth, and what `predict` writes.

        tubelet demo --out demo

    Args:
        out: Folder for everything; what an earlier demo left there is replaced.
        model: A name of `tubelet list`.
        frames: Length of the clip.
        size: Height x width of the clip.
        objects: How many objects the clip has, 1 to 10.
        seed: Another number makes another clip.
    """
    from tubelet.metrics.jf import score_folders
    from tubelet.metrics.speed import parse_size
    from tubelet.run import first_prompt
    from tubelet.run import predict as run
    from tubelet.video.read import read

    if frames < 3:
        raise ValueError(f"the demo needs at least 3 frames (the first and the last are not scored), got {frames}")
    prepare_output(out, overwrite=True)
    write_clip(out, seed, frames, parse_size(size), objects)
    session = open_session(Options(model))
    prompts = {0: first_prompt(out / "truth" / "masks" / "00000.png")}
    summary = run(read(out / "clip.mp4"), session, prompts, out)
    result = score_folders(out / "truth", out, sequences=["masks"])
    print(
        f"{model} on {frames} frames of {size} with {objects} objects: J&F {result.jf_mean:.3f} "
        f"(J {result.j.mean:.3f}, F {result.f.mean:.3f}), {summary.fps:.1f} frames per second\n"
        f"look at {out / 'contact_sheet.png'} and {out / 'overlay.mp4'}"
    )


def write_clip(out: Path, seed: int, frames: int, size: tuple[int, int], objects: int) -> None:
    """Makes the clip of `demo`: OUT/clip.mp4, and its true masks in OUT/truth/masks."""
    from tubelet.data.synthetic import make_clip
    from tubelet.video.write import LabelPngs, Mp4
    from tubelet.viz.palette import VOC

    rgb, ids = make_clip(seed, frames=frames, size=size, objects=(objects, objects), pace=1.0)
    with Mp4(out / "clip.mp4", 24, crf=12) as clip, LabelPngs(out / "truth" / "masks", VOC) as truth:
        for t in range(frames):
            clip.write(rgb[t])
            truth.write(ids[t], f"{t:05d}")
