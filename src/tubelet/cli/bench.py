"""`tubelet bench` and `tubelet demo`: a model on generated clips, without data."""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

from tubelet.cli.options import (
    DEFAULT_MODEL,
    DEFAULTS,
    Flat,
    Options,
    check_options,
    finder,
    known_classes,
    labeller,
    open_session,
)
from tubelet.cli.output import prepare_output


def bench(
    options: Flat = DEFAULTS,
    size: str = "480x854",
    objects: int = 3,
    frames: int = 10,
    flops: bool = False,
) -> None:
    """Measure frames per second and peak memory of a model on a generated clip, or count its operations.

        tubelet bench --model aot-t --size 480x854 --objects 3
        tubelet bench --model mpvss-r50 --size 480x853 --flops

    The first frame, whose masks are given, is not timed; reading and writing are not part of it. Of models with key
    frames, those and the frames between are timed apart. Speed does not depend on the weights, so a model without any
    is measured with random ones.

    Args:
        size: Height x width of the frames.
        objects: How many objects are followed, 1 to 254; models that find objects or label pixels take no notice.
        frames: Frames to time.
        flops: MPVSS: count operations instead (a multiplication and its addition are one), of a key frame, of a frame
            between, and on average over 15 frames, with --size as the model sees a frame. Needs tubelet[flops].
    """
    from tubelet.metrics.speed import measure, measure_finding, measure_labelling, parse_size
    from tubelet.weights import check_name, finds_objects, labels_pixels, shipped

    height, width = parse_size(size)
    if flops:
        print(flops_table(options, (height, width)))
        return
    if options.weights is None and check_name(options.model) != "dis-flow" and shipped(options.model) is None:
        options = replace(options, weights=Path("random"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if finds_objects(options.model):
            speed, what = measure_finding(finder(options)[0](), (height, width), frames), "its own objects"
        elif labels_pixels(options.model):
            opened, names, _ = labeller(options)
            speed, what = measure_labelling(opened, (height, width), frames), f"{len(names)} classes"
        else:
            speed, what = measure(open_session(options), (height, width), objects, frames), f"{objects} objects"
    print(f"{options.model}, {height}x{width}, {what}, {options.precision}\n{speed}")


def flops_table(options: Options, size: tuple[int, int]) -> str:
    """What `bench --flops` prints: the operations of MPVSS as the paper counts them, and as they are done here.

    Raises `ValueError` for another model, or for options under which frames between key frames cost something else."""
    from tubelet.metrics.flops import hollow, mpvss_flops
    from tubelet.weights import build, check_name, labels_pixels

    check_options(options)
    if not labels_pixels(check_name(options.model)):
        raise ValueError(f"--flops is for MPVSS, whose frames do not all cost the same; {options.model} is not of it")
    if options.carry not in (None, "flow") or options.doubt is not None:
        raise ValueError("--flops counts masks carried along flow at fixed intervals; leave out --carry and --doubt")
    interval = options.interval or 5
    classes, motion = classes_and_motion(options)
    # The paper counts the batch norms, which are folded into the convolutions here; frozen ones have no parameters.
    make = partial(build, options.model, classes, motion=motion)
    theirs, ours = hollow(partial(make, frozen_norm=False)), hollow(make)
    rows = [("as the paper counts", mpvss_flops(theirs, size)), ("as done here", mpvss_flops(ours, size, plain=False))]
    parameters = sum(x.numel() for x in theirs.parameters()) / 1e6
    lines = [
        f"{options.model}, {size[0]}x{size[1]}, {theirs.classes} classes, {parameters:.1f} M parameters",
        f"{'billions of operations':23s}{'key frame':>12s}{'between':>12s}{f'average at {interval}':>16s}",
    ]
    for title, flops in rows:
        key, other, average = (n / 1e9 for n in (flops.key.total, flops.other.total, flops.average(interval)))
        lines.append(f"{title:23s}{key:12.1f}{other:12.1f}{average:16.1f}")
    return "\n".join(lines)


def classes_and_motion(options: Options) -> tuple[int | None, str]:
    """How many classes an MPVSS has (None: as many as the variant), and what it estimates flow with: as the weights
    say if there are any, or else `--classes`."""
    from tubelet.models.mpvss import motion_of
    from tubelet.weights import classes_of, our_state, read_state

    if options.weights is not None and not options.random:
        state = read_state(options.weights)
        return classes_of(state), motion_of(our_state(state))
    return None if options.classes is None else len(known_classes(options.classes)), "query"


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
