"""The command `tubelet`. Nothing heavy is imported before a command has its arguments, so `--help` answers at once."""

import difflib
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

import tubelet

if TYPE_CHECKING:
    from tubelet.models.base import Session
    from tubelet.types import LabelFrame

DEFAULT_MODEL = "dis-flow"
Positional = tyro.conf.Positional
Precision = Literal["float32", "bf16", "fp16"]


def predict(
    video: Positional[str],
    out: Path,
    model: str = DEFAULT_MODEL,
    weights: Path | None = None,
    mask: Path | None = None,
    masks: Path | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    depth: int | None = None,
    long_edge: int | None = None,
    memory: int | None = None,
    flip: bool = False,
    scales: tuple[float, ...] = (),
    draw: bool = True,
    fps: float | None = None,
    on_error: Literal["raise", "stop", "skip"] = "raise",
    overwrite: bool = False,
) -> None:
    """Follow objects through a video, from their masks in its first frame.

    Writes OUT/masks/FRAME.png (one object id per pixel), OUT/masks.json (COCO RLE), OUT/overlay.mp4 and
    OUT/contact_sheet.png, frame by frame: a run that is stopped leaves the finished frames.

        tubelet predict clip.mp4 --mask first.png --out result

    Args:
        video: A video file, a folder of images, a quoted glob, a URL, or a camera's index.
        out: Folder for the results; it is created.
        model: A name of `tubelet list`.
        weights: Our safetensors or an official checkpoint (.pth); by default what comes with the package.
        mask: Mask of the first frame: a PNG whose pixel values are object ids 1, 2, ..., 0 where nothing is.
        masks: Folder of such masks for any frames, named like the frame or ending in its index. Later ones bring new
            objects or correct known ones.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
        precision: bf16 is faster on recent CPUs and GPUs; see docs/measured.md for what it costs.
        depth: Blocks to use, 1 to 3 (AOST only): fewer are faster.
        long_edge: Shrink frames to this many pixels for the model; masks still come out at full size.
        memory: Frames to remember for the long term (AOT family); 0 for no bound, as in the paper.
        flip: Also look at the mirrored video, and average (AOT family).
        scales: Look at the video at these scales, and average (AOT family); the paper's are 1.2 1.3 1.4.
        draw: Write the overlay and the contact sheet.
        fps: Frame rate of the overlay, if the source does not tell.
        on_error: What to do where the video is damaged.
        overwrite: Replace results that OUT already holds.
    """
    from tubelet.run import MaskFolder, first_prompt, open_video
    from tubelet.run import predict as run

    if (mask is None) == (masks is None):
        raise ValueError("give either --mask FIRST.png or --masks FOLDER: the objects to follow")
    source = open_video(video, on_error=on_error)
    prompts = {0: first_prompt(mask)} if mask is not None else MaskFolder(masks)  # pyright: ignore[reportArgumentType]
    prepare_output(out, overwrite=overwrite)
    session = open_session(
        model, weights, device, precision, depth=depth, long_edge=long_edge, memory=memory, flip=flip, scales=scales
    )
    summary = run(source, session, prompts, out, draw=draw, fps=fps)
    print(
        f"{summary.frames} frames, {len(summary.objects)} objects, {model}: {summary.fps:.1f} frames per second "
        f"({summary.seconds:.1f} s with reading and writing)\n{out}"
    )


def score(
    benchmark: Positional[Literal["davis", "ytvos"]],
    gt: Path,
    pred: Path,
    json: Path | None = None,
    sequences: Path | None = None,
    binary: bool = False,
    meta: Path | None = None,
    seen: Path | None = None,
    workers: int = 1,
) -> None:
    """Score predicted masks against the truth; no model is involved.

    Each folder holds SEQUENCE/00000.png ... . DAVIS is the official semi-supervised protocol: J and F with mean, recall
    and decay, first and last frame not scored.

        tubelet score davis --gt DAVIS/Annotations/480p --pred results --sequences DAVIS/ImageSets/2017/val.txt

    Args:
        benchmark: davis, or ytvos (mean over seen and unseen categories; needs --meta and --seen).
        gt: Folder of true masks, one folder per sequence.
        pred: Folder of predicted masks, likewise.
        json: Also write the numbers here.
        sequences: Text file with the names to score; by default every folder of GT.
        binary: Merge all objects into one (DAVIS 2016).
        meta: ytvos: meta.json of the scored split.
        seen: ytvos: meta.json of the train split, whose categories are the seen ones.
        workers: Processes; more than one pays from about a thousand frames on.
    """
    import json as json_

    from tubelet.data.davis import read_split
    from tubelet.metrics.jf import score_folders, score_ytvos

    if benchmark == "ytvos":
        if meta is None or seen is None:
            raise ValueError("ytvos needs --meta META.json of the scored split and --seen META.json of the train split")
        result = score_ytvos(gt, pred, meta, seen=seen, workers=workers)
    else:
        names = None if sequences is None else read_split(sequences)
        result = score_folders(gt, pred, sequences=names, binary=binary, workers=workers)
    print(result.table())
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_.dumps(result.to_json(), indent=1) + "\n")


def evaluate(
    benchmark: Positional[Literal["davis", "ytvos"]],
    data: Path,
    out: Path,
    model: str = DEFAULT_MODEL,
    weights: Path | None = None,
    year: Literal[2016, 2017] = 2017,
    split: str | None = None,
    resolution: str = "480p",
    all_frames: bool = False,
    device: str = "auto",
    precision: Precision = "float32",
    depth: int | None = None,
    long_edge: int | None = None,
    memory: int | None = None,
    flip: bool = False,
    scales: tuple[float, ...] = (),
    json: Path | None = None,
) -> None:
    """Predict a benchmark's videos from their first masks, and score them.

        tubelet eval davis --data DAVIS --model aost --out runs/davis

    Masks go to OUT/SEQUENCE/FRAME.png. DAVIS is scored at once. For YouTube-VOS, whose truth is on its server,
    OUT/submission.zip is written.

    Args:
        benchmark: davis or ytvos.
        data: Root of the data set (JPEGImages, Annotations, ImageSets; or valid/ with meta.json).
        out: Folder for the masks.
        model: A name of `tubelet list`.
        weights: Our safetensors or an official checkpoint (.pth); by default what comes with the package.
        year: DAVIS 2016 (one object) or 2017.
        split: A file of ImageSets/YEAR without .txt (davis: val), or a folder of YouTube-VOS (valid).
        resolution: DAVIS folder below JPEGImages and Annotations.
        all_frames: YouTube-VOS at 30 frames per second (valid_all_frames).
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: float32, bf16 or fp16.
        depth: Blocks to use, 1 to 3 (AOST only).
        long_edge: Shrink frames to this many pixels for the model.
        memory: Frames to remember for the long term (AOT family); 0 for no bound, as in the paper.
        flip: Also look at the mirrored video, and average (AOT family).
        scales: Look at the video at these scales, and average (AOT family).
        json: Also write the numbers here.
    """
    import json as json_

    from tubelet.data.davis import read_davis
    from tubelet.data.ytvos import read_ytvos, write_submission
    from tubelet.metrics.jf import score_folders
    from tubelet.run import predict_item
    from tubelet.viz.progress import progress

    if benchmark == "davis":
        videos = read_davis(data, year=year, split=split or "val", resolution=resolution)
    else:
        videos = read_ytvos(data, split=split or "valid", all_frames=all_frames)
    make_output(out)
    new_session = session_maker(
        model, weights, device, precision, depth=depth, long_edge=long_edge, memory=memory, flip=flip, scales=scales
    )
    frames, seconds = 0, 0.0
    for item in progress(list(videos), unit="videos", description=model):
        summary = predict_item(item, new_session(), out / item.name)
        frames, seconds = frames + summary.frames, seconds + summary.model_seconds
    print(f"{frames} frames of {len(videos)} videos, {frames / max(seconds, 1e-9):.2f} frames per second in the model")
    if benchmark == "ytvos":
        write_submission(out / "submission.zip", out, videos)
        print(out / "submission.zip")
        return
    result = score_folders(data / "Annotations" / resolution, out, sequences=videos.names, binary=year == 2016)
    print(result.table())
    if json is not None:
        json.write_text(json_.dumps(result.to_json(), indent=1) + "\n")


def train(arguments: list[str]) -> None:
    """Train a recipe; the same command again goes on where it stopped.

    tubelet train aost-cpu --run.minutes 90
    """
    from tubelet.recipes.vos import RECIPES, run

    recipes = {name: (recipe.about, recipe) for name, recipe in RECIPES.items()}
    if arguments and not arguments[0].startswith("-") and arguments[0] not in recipes:
        raise ValueError(f"there is no recipe {arguments[0]!r}; {nearest(arguments[0], list(recipes))}")
    description = inspect.cleandoc(train.__doc__ or "")
    recipe = tyro.extras.overridable_config_cli(recipes, args=arguments, prog="tubelet train", description=description)
    name = next(argument for argument in arguments if argument in recipes)
    print(f"weights in {run(name, recipe) / 'weights.safetensors'}")


def convert(source: Positional[Path], out: Path, model: str, half: bool = False) -> None:
    """Convert an official checkpoint into safetensors, strictly: every key is used and none is missing.

        tubelet convert R50_AOTL_PRE_YTB_DAV.pth --model r50-aot-l --out r50-aot-l.safetensors

    Args:
        source: The authors' .pth file.
        out: The safetensors file to write.
        model: A name of `tubelet list`.
        half: Store half precision (the file is half as large).
    """
    from tubelet.weights import convert as run

    print(f"{run(source, model, out, half=half):,} parameters in {out}")


def bench(
    model: str = DEFAULT_MODEL,
    weights: Path | None = None,
    size: str = "480x854",
    objects: int = 3,
    frames: int = 10,
    device: str = "auto",
    precision: Precision = "float32",
    depth: int | None = None,
    long_edge: int | None = None,
    memory: int | None = None,
) -> None:
    """Measure frames per second and peak memory of a model on a generated clip.

        tubelet bench --model aot-t --size 480x854 --objects 3

    The first frame, whose masks are given, is not timed; reading and writing are not part of it. Speed does not depend
    on the weights, so a model without any is measured with random ones.

    Args:
        model: A name of `tubelet list`.
        weights: A weights file; not needed.
        size: Height x width of the frames.
        objects: How many objects are followed, 1 to 254.
        frames: Frames to time.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: float32, bf16 or fp16.
        depth: Blocks to use, 1 to 3 (AOST only).
        long_edge: Shrink frames to this many pixels for the model.
        memory: Frames to remember for the long term (AOT family); 0 for no bound.
    """
    from tubelet.metrics.speed import measure, parse_size
    from tubelet.weights import shipped

    height, width = parse_size(size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = weights or (Path("random") if model != "dis-flow" and shipped(model) is None else None)
        session = open_session(model, weights, device, precision, depth=depth, long_edge=long_edge, memory=memory)
    speed = measure(session, (height, width), objects, frames)
    print(f"{model}, {height}x{width}, {objects} objects, {precision}\n{speed}")


def list_models() -> None:
    """List the models: which have weights in the package, and where those come from."""
    from tubelet.weights import names, read_metadata, shipped

    for name in names():
        path = shipped(name)
        if name == "dis-flow":
            about = "training-free, needs no weights"
        elif path is None:
            about = "needs --weights (an official checkpoint or your own)"
        else:
            about = "weights in the package: " + read_metadata(path).get("about", "")
        default = "  (default)" if name == DEFAULT_MODEL else ""
        print(f"{name:14s}  {about}{default}")


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
    from tubelet.data.synthetic import make_clip
    from tubelet.metrics.jf import score_folders
    from tubelet.metrics.speed import parse_size
    from tubelet.run import first_prompt
    from tubelet.run import predict as run
    from tubelet.video.read import read
    from tubelet.video.write import LabelPngs, Mp4
    from tubelet.viz.palette import VOC

    if frames < 3:
        raise ValueError(f"the demo needs at least 3 frames (the first and the last are not scored), got {frames}")
    prepare_output(out, overwrite=True)
    rgb, ids = make_clip(seed, frames=frames, size=parse_size(size), objects=(objects, objects), pace=1.0)
    with Mp4(out / "clip.mp4", 24, crf=12) as clip, LabelPngs(out / "truth" / "masks", VOC) as truth:
        for t in range(frames):
            clip.write(rgb[t])
            truth.write(ids[t], f"{t:05d}")
    session = open_session(model, None, "auto", "float32")
    prompts = {0: first_prompt(out / "truth" / "masks" / "00000.png")}
    summary = run(read(out / "clip.mp4"), session, prompts, out)
    result = score_folders(out / "truth", out, sequences=["masks"])
    print(
        f"{model} on {frames} frames of {size} with {objects} objects: J&F {result.jf_mean:.3f} "
        f"(J {result.j.mean:.3f}, F {result.f.mean:.3f}), {summary.fps:.1f} frames per second\n"
        f"look at {out / 'contact_sheet.png'} and {out / 'overlay.mp4'}"
    )


def prepare_output(out: Path, *, overwrite: bool) -> None:
    """`make_output`, and empty of results of an earlier run. Raises `FileExistsError` if it holds some that would be
    mixed with the new ones."""
    old = [*out.glob("masks/*.png"), *(p for name in ("masks.json", "overlay.mp4") if (p := out / name).exists())]
    if old and not overwrite:
        raise FileExistsError(f"{out} already holds results; choose another folder or add --overwrite")
    make_output(out)
    for path in old:
        path.unlink()


def make_output(out: Path) -> None:
    """Creates the output folder before any work is done. Raises `OSError` if it cannot be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".writable").touch()
        (out / ".writable").unlink()
    except OSError as error:
        raise OSError(f"cannot write to {out}: {error.strerror or error}; choose another output folder") from None


def session_maker(
    model: str,
    weights: Path | None,
    device: str,
    precision: str,
    *,
    depth: int | None = None,
    long_edge: int | None = None,
    memory: int | None = None,
    flip: bool = False,
    scales: tuple[float, ...] = (),
) -> "Callable[[], Session[LabelFrame]]":
    """Loads a model; returns a function that opens a session of it with the options that were given."""
    import torch

    from tubelet.weights import load

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    options = {"depth": depth, "long_edge": long_edge, "autocast": dtype}
    options |= {"flip": flip or None, "scales": scales or None}
    given = {name: value for name, value in options.items() if value is not None}
    if memory is not None:
        given["max_memory"] = memory or None
    loaded = load(model, weights if weights is None else str(weights), device=device)
    known = inspect.signature(loaded.session).parameters
    if strange := [name for name in given if name not in known]:
        flags = {"autocast": "--precision", "max_memory": "--memory"}
        raise ValueError(
            f"{model} does not take {', '.join(flags.get(n, '--' + n.replace('_', '-')) for n in strange)}"
        )
    return lambda: loaded.session(**given)


def open_session(*args, **options) -> "Session[LabelFrame]":
    """One session of `session_maker`."""
    return session_maker(*args, **options)()


COMMANDS: dict[str, Callable] = {
    "predict": predict,
    "score": score,
    "eval": evaluate,
    "train": train,
    "convert": convert,
    "bench": bench,
    "list": list_models,
    "demo": demo,
}


def nearest(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, 1, 0.4)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(words)}"


def usage() -> str:
    """The page of `tubelet --help`."""
    lines = [
        f"tubelet {tubelet.__version__}: segment, track and label what moves in a video.",
        "",
        "usage: tubelet COMMAND [OPTIONS]",
        "",
    ]
    lines += [f"  {name:8s}  {(f.__doc__ or '').splitlines()[0]}" for name, f in COMMANDS.items()]
    return "\n".join([*lines, "", "`tubelet COMMAND --help` says everything about one of them."])


def dispatch(arguments: list[str]) -> None:
    """Runs one command line. Raises what the command raises."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        print(tubelet.__version__)
    elif name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}; {nearest(name, list(COMMANDS))}")
    elif name == "train":
        train(rest)
    else:
        tyro.cli(COMMANDS[name], args=rest, prog=f"tubelet {name}")


def main() -> None:
    """Entry point: errors of the user are one sentence on stderr and exit status 1 (2 for a misspelt option).

    `TUBELET_DEBUG=1` shows the traceback instead."""
    warnings.showwarning = lambda message, *rest: print(f"tubelet: note: {message}", file=sys.stderr)
    try:
        dispatch(sys.argv[1:])
    except BrokenPipeError:  # `tubelet ... | head`
        sys.stderr.close()
    except KeyboardInterrupt:
        print("tubelet: stopped; what was finished is kept", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError, MemoryError, RuntimeError) as error:
        if os.environ.get("TUBELET_DEBUG"):
            raise
        print(f"tubelet: {str(error) or type(error).__name__}", file=sys.stderr)
        sys.exit(1)
