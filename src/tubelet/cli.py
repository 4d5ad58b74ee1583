"""The command `tubelet`. Nothing heavy is imported before a command has its arguments, so `--help` answers at once."""

import difflib
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import tubelet

if TYPE_CHECKING:
    from tubelet.data.validate import Findings
    from tubelet.metrics.jf import JFResult, YTVOSResult
    from tubelet.metrics.vis_ap import VISResult
    from tubelet.models.base import Session, TrackSession
    from tubelet.run import MaskFolder
    from tubelet.types import LabelFrame, Prompt

DEFAULT_MODEL = "dis-flow"
Positional = tyro.conf.Positional
Precision = Literal["float32", "bf16", "fp16"]
Classes = Literal["ytvis_2019", "ytvis_2021", "ytvis_2022", "ovis"]


@dataclass(frozen=True)
class Options:
    """Which model, and how it is opened."""

    model: str = DEFAULT_MODEL
    """A name of `tubelet list`."""
    weights: Path | None = None
    """Our safetensors or an official checkpoint (.pth, .pkl); by default what comes with the package. "random" to
    measure speed."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1 or mps."""
    precision: Precision = "float32"
    """bf16 is faster on recent CPUs and GPUs; see docs/measured.md for what it costs."""
    long_edge: int | None = None
    """Shrink frames to this many pixels for the model; masks still come out at full size."""
    depth: int | None = None
    """AOST: blocks to use, 1 to 3; fewer are faster."""
    memory: int | None = None
    """AOT family: frames to remember for the long term; 0 for no bound, as in the paper."""
    flip: bool = False
    """AOT family: also look at the mirrored video, and average."""
    scales: tuple[float, ...] = ()
    """AOT family: look at the video at these scales, and average; the paper's are 1.2 1.3 1.4."""
    short_edge: int | None = None
    """Models that find objects: the size at which they see a frame; 360 by default, 448 or 480 with Swin."""
    window: int | None = None
    """Models that find objects: frames they see together; by default as many as fit into 2 GB."""
    overlap: int | None = None
    """Models that find objects: frames that windows share, 2 by default."""
    top: int | None = None
    """Models that find objects: the most tracks to keep; 10 by default, as for YouTube-VIS; 20 for OVIS."""
    min_score: float | None = None
    """Models that find objects: leave out tracks below this score, 0 to 1."""
    classes: str | None = None
    """What the classes of the weights are called, if they do not say: ytvis_2019, ytvis_2021, ovis or coco."""
    only: tuple[str, ...] = ()
    """Models that find objects: only these classes."""


Flat = Annotated[Options, tyro.conf.arg(name="")]


def predict(
    video: Positional[str],
    out: Path,
    options: Flat = Options(),
    mask: Path | None = None,
    masks: Path | None = None,
    draw: bool = True,
    fps: float | None = None,
    on_error: Literal["raise", "stop", "skip"] = "raise",
    overwrite: bool = False,
) -> None:
    """Follow objects through a video from their masks in its first frame, or find and track them.

    Models that follow write OUT/masks/FRAME.png (one object id per pixel) and OUT/masks.json (COCO RLE); models that
    find objects write OUT/tracks.json (YouTube-VIS results). Both write OUT/overlay.mp4 and OUT/contact_sheet.png,
    frame by frame: a run that is stopped leaves the finished frames.

        tubelet predict clip.mp4 --mask first.png --out result
        tubelet predict clip.mp4 --model syncvis-r50 --weights FILE --out result

    Args:
        video: A video file, a folder of images, a quoted glob, a URL, or a camera's index.
        out: Folder for the results; it is created.
        mask: Mask of the first frame: a PNG whose pixel values are object ids 1, 2, ..., 0 where nothing is.
        masks: Folder of such masks for any frames, named like the frame or ending in its index. Later ones bring new
            objects or correct known ones.
        draw: Write the overlay and the contact sheet.
        fps: Frame rate of the overlay, if the source does not tell.
        on_error: What to do where the video is damaged.
        overwrite: Replace results that OUT already holds.
    """
    from tubelet.run import open_video, predict_tracks
    from tubelet.run import predict as follow
    from tubelet.weights import check_name, finds_objects

    if fps is not None and not 0 < fps < 1000:
        raise ValueError(f"--fps is {fps:g}; expected frames per second above 0")
    if finds_objects(check_name(options.model)):
        if mask is not None or masks is not None:
            raise ValueError(f"{options.model} finds objects by itself; leave out --mask and --masks")
        source = open_video(video, on_error=on_error)
        new_session, names = finder(options)
        session = new_session()
        prepare_output(out, overwrite=overwrite)  # last, so that no mistake costs earlier results
        summary, tracks = predict_tracks(source, session, names, out, draw=draw, fps=fps)
        for track in tracks:
            print(f"#{track.id:<4d} {track.score:.3f}  {names[track.category]}")
    else:
        prompts = given_masks(mask, masks)
        source, session = open_video(video, on_error=on_error), open_session(options)
        prepare_output(out, overwrite=overwrite)
        summary = follow(source, session, prompts, out, draw=draw, fps=fps)
    print(
        f"{summary.frames} frames, {len(summary.objects)} objects, {options.model}: "
        f"{summary.fps:.1f} frames per second ({summary.seconds:.1f} s with reading and writing)\n{out}"
    )


def given_masks(mask: Path | None, masks: Path | None) -> "dict[int, Prompt] | MaskFolder":
    """What the user says about the objects to follow."""
    from tubelet.run import MaskFolder, first_prompt

    if mask is not None and masks is None:
        return {0: first_prompt(mask)}
    if masks is not None and mask is None:
        return MaskFolder(masks)
    raise ValueError("give either --mask FIRST.png or --masks FOLDER: the objects to follow")


def score(
    benchmark: Positional[Literal["davis", "ytvos", "ytvis", "ovis"]],
    gt: Path,
    pred: Path,
    json: Path | None = None,
    sequences: Path | None = None,
    binary: bool = False,
    meta: Path | None = None,
    seen: Path | None = None,
    long: str | None = None,
    zip: Path | None = None,
    workers: int | None = None,
) -> None:
    """Score predictions against the truth; no model is involved.

    davis and ytvos take folders of masks, SEQUENCE/00000.png ... . DAVIS is the official semi-supervised protocol: J
    and F with mean, recall and decay, first and last frame not scored. ytvis and ovis take a truth and a result file
    (JSON, .gz or .zip) and give the official AP and AR.

        tubelet score davis --gt DAVIS/Annotations/480p --pred results --sequences DAVIS/ImageSets/2017/val.txt
        tubelet score ytvis --gt instances.json --pred results.json

    Args:
        benchmark: davis; ytvos (mean over seen and unseen categories; needs --meta and --seen); ytvis; ovis.
        gt: Folder of true masks, one folder per sequence; for ytvis and ovis a file.
        pred: Folder or file of predictions, likewise.
        json: Also write the numbers here.
        sequences: davis: text file with the names to score; by default every folder of GT.
        binary: davis: merge all objects into one (DAVIS 2016).
        meta: ytvos: meta.json of the scored split.
        seen: ytvos: meta.json of the train split, whose categories are the seen ones.
        long: ytvis, ovis: also score short and long videos apart. A number of frames from which a video is long, or a
            text file with the ids or names of the long ones.
        zip: ytvis, ovis: check the predictions and pack them for the server; GT may then be without annotations.
        workers: Processes; by default one, or all cores for a large ytvis or ovis file.
    """
    import json as json_

    if benchmark in ("ytvis", "ovis"):
        from tubelet.metrics.vis_ap import long_videos, pack, score_vis

        if zip is not None and not pack(zip, gt, pred):
            return
        lengthy = None if long is None else long_videos(long)
        result = score_vis(gt, pred, occlusion=benchmark == "ovis", long=lengthy, workers=workers)
    else:
        result = score_masks(benchmark, gt, pred, sequences, binary, meta, seen, workers or 1)
    print(result.table())
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_.dumps(result.to_json(), indent=1) + "\n")


def score_masks(
    benchmark: str,
    gt: Path,
    pred: Path,
    sequences: Path | None,
    binary: bool,
    meta: Path | None,
    seen: Path | None,
    workers: int,
) -> "JFResult | YTVOSResult":
    """`score` for folders of masks."""
    from tubelet.data.davis import read_split
    from tubelet.metrics.jf import score_folders, score_ytvos

    if benchmark == "ytvos":
        if meta is None or seen is None:
            raise ValueError("ytvos needs --meta META.json of the scored split and --seen META.json of the train split")
        return score_ytvos(gt, pred, meta, seen=seen, workers=workers)
    names = None if sequences is None else read_split(sequences)
    return score_folders(gt, pred, sequences=names, binary=binary, workers=workers)


def evaluate(
    benchmark: Positional[Literal["davis", "ytvos", "ytvis", "ovis"]],
    data: Path,
    out: Path,
    options: Flat = Options(),
    year: Literal[2016, 2017] = 2017,
    split: str | None = None,
    resolution: str = "480p",
    all_frames: bool = False,
    frames: Path | None = None,
    json: Path | None = None,
) -> None:
    """Predict a benchmark's videos, and score them.

        tubelet eval davis --data DAVIS --model aost --out runs/davis
        tubelet eval ytvis --data instances.json --frames JPEGImages --model syncvis-r50 --weights FILE --out runs/vis

    DAVIS and YouTube-VOS start from their first masks; masks go to OUT/SEQUENCE/FRAME.png. For ytvis and ovis tracks go
    to OUT/results.json. Where the truth is on a server, OUT/submission.zip is written.

    Args:
        benchmark: davis, ytvos, ytvis or ovis.
        data: Root of the data set (JPEGImages, Annotations, ImageSets; or valid/ with meta.json), or the file of
            ytvis and ovis.
        out: Folder for the results.
        year: DAVIS 2016 (one object) or 2017.
        split: A file of ImageSets/YEAR without .txt (davis: val), or a folder of YouTube-VOS (valid).
        resolution: DAVIS folder below JPEGImages and Annotations.
        all_frames: YouTube-VOS at 30 frames per second (valid_all_frames).
        frames: ytvis, ovis: the folder that the file names start from; by default JPEGImages beside the file.
        json: Also write the numbers here.
    """
    import json as json_

    from tubelet.weights import check_name, finds_objects

    finds = benchmark in ("ytvis", "ovis")
    if finds != finds_objects(check_name(options.model)):
        kind = "find objects, as mask2former-vis-r50 does" if finds else "follow given objects, as aost does"
        raise ValueError(f"{benchmark} is for models that {kind}; {options.model} does not")
    make_output(out)
    result = (
        evaluate_finding(benchmark, data, out, options, frames)
        if finds
        else evaluate_following(benchmark, data, out, options, year, split, resolution, all_frames)
    )
    if result is None:
        print(out / "submission.zip")
        return
    print(result.table())
    if json is not None:
        json.write_text(json_.dumps(result.to_json(), indent=1) + "\n")


def evaluate_following(
    benchmark: str,
    data: Path,
    out: Path,
    options: Options,
    year: Literal[2016, 2017],
    split: str | None,
    resolution: str,
    all_frames: bool,
) -> "JFResult | None":
    """`evaluate` for models that follow given objects; None if only the server can score."""
    from tubelet.data.davis import read_davis
    from tubelet.data.ytvos import read_ytvos, write_submission
    from tubelet.metrics.jf import score_folders
    from tubelet.run import predict_item
    from tubelet.viz.progress import progress

    if benchmark == "davis":
        videos = read_davis(data, year=year, split=split or "val", resolution=resolution)
    else:
        videos = read_ytvos(data, split=split or "valid", all_frames=all_frames)
    new_session = session_maker(options)
    count, seconds = 0, 0.0
    for item in progress(list(videos), unit="videos", description=options.model):
        summary = predict_item(item, new_session(), out / item.name)
        count, seconds = count + summary.frames, seconds + summary.model_seconds
    print(f"{count} frames of {len(videos)} videos, {count / max(seconds, 1e-9):.2f} frames per second in the model")
    if benchmark == "davis":
        return score_folders(data / "Annotations" / resolution, out, sequences=videos.names, binary=year == 2016)
    write_submission(out / "submission.zip", out, videos)
    return None


def evaluate_finding(
    benchmark: str, data: Path, out: Path, options: Options, frames: Path | None
) -> "VISResult | None":
    """`evaluate` for models that find objects; None if only the server can score."""
    from tubelet.data.ytvis import read_ytvis
    from tubelet.metrics.vis_ap import pack, score_vis
    from tubelet.run import predict_set
    from tubelet.types import Frame
    from tubelet.viz.progress import progress

    known = read_ytvis(data, frames=frames or data.parent / "JPEGImages")
    new_session, names = finder(options)
    if len(names) != len(known.categories):
        raise ValueError(f"{options.model} knows {len(names)} classes but {data} has {len(known.categories)}")
    videos = progress(list(known.videos.values()), unit="videos", description=options.model)
    clips = ((video.id, (Frame(video.load_frame(t), t) for t in range(video.length))) for video in videos)
    summary = predict_set(clips, new_session, out / "results.json", categories=sorted(known.categories))
    print(f"{summary.frames} frames of {len(known)} videos, {summary.fps:.2f} frames per second in the model")
    if not pack(out / "submission.zip", data, out / "results.json"):
        return None
    return score_vis(data, out / "results.json", occlusion=benchmark == "ovis")


def train(arguments: list[str]) -> None:
    """Train a recipe; the same command again goes on where it stopped.

    tubelet train aost-cpu --run.minutes 90
    """
    from tubelet.recipes import vis, vos

    recipes = {name: (recipe.about, recipe) for name, recipe in {**vos.RECIPES, **vis.RECIPES}.items()}
    if arguments and not arguments[0].startswith("-") and arguments[0] not in recipes:
        raise ValueError(f"there is no recipe {arguments[0]!r}; {nearest(arguments[0], list(recipes))}")
    description = inspect.cleandoc(train.__doc__ or "")
    recipe = tyro.extras.overridable_config_cli(recipes, args=arguments, prog="tubelet train", description=description)
    name = next(argument for argument in arguments if argument in recipes)
    folder = vis.run(name, recipe) if isinstance(recipe, vis.VisRecipe) else vos.run(name, recipe)
    print(f"weights in {folder / 'weights.safetensors'}")


def make_ytvis(
    source: Positional[Path],
    out: Path,
    masks: Path | None = None,
    names: str = "object",
    classes: Classes | None = None,
    overwrite: bool = False,
) -> None:
    """Make a YouTube-VIS file of folders of masks, a labelme export or a COCO file.

        tubelet make-ytvis JPEGImages --masks Annotations --names names.json --out instances.json
        tubelet make-ytvis labelled --out instances.json
        tubelet make-ytvis coco.json --classes ytvis_2021 --out instances.json

    `tubelet check FILE --as ytvis` says whether all is well with it.

    Args:
        source: With --masks a folder of frames, VIDEO/00000.jpg or those of one video; else a folder of labelme files
            (00000.json beside 00000.jpg; or one such folder per video), or a COCO or CocoVID file.
        out: The file to write. Frames stay where they are; what is printed says where its file names start from.
        masks: Folder of id masks (PNG) named like their frames. Only frames with a mask are listed.
        names: For --masks: the category of all objects, or a JSON file of {video: category} or
            {video: {id: category}}.
        classes: For a COCO file: rename its categories to those of this data set and leave out the others.
        overwrite: Replace OUT if it is there.
    """
    from tubelet.data.make_ytvis import from_coco, from_folders, from_labelme, read_names, write_ytvis

    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; expected frames, a labelme folder or a COCO file")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} already exists; choose another name or add --overwrite")
    if masks is None and names != "object":
        raise ValueError("--names is for --masks; labelme and COCO files name their categories themselves")
    if classes is not None and (masks is not None or source.is_dir()):
        raise ValueError("--classes is for a COCO file; the categories of masks are given by --names")
    make_output(out.parent)
    if masks is not None:
        content = from_folders(source, masks, names=read_names(names))
    elif source.is_dir():
        if not [*source.glob("*.json"), *source.glob("*/*.json")]:
            raise ValueError(f"{source} holds no labelme file; if it holds frames, say where their masks are: --masks")
        content = from_labelme(source)
    else:
        content = from_coco(source, dataset=classes)
    write_ytvis(out, content)
    videos, instances, kinds = (len(content[key]) for key in ("videos", "annotations", "categories"))
    first = content["videos"][0]["file_names"][0]
    print(f"{out}: {videos} videos, {instances} instances, {kinds} categories; its first frame is {first}")


def check(
    source: Positional[Path],
    kind: Annotated[Literal["ytvis", "ovis", "davis", "ytvos"], tyro.conf.arg(name="as")],
    frames: Path | None = None,
    split: str = "valid",
) -> None:
    """Say what is wrong with a data set, before hours are spent on it.

        tubelet check instances.json --as ytvis --frames JPEGImages
        tubelet check DAVIS --as davis

    Prints a sentence for each problem; the exit status is 1 if there is any. Masks are decoded, of frames only the
    header is read.

    Args:
        source: ytvis and ovis: the file (.json, .gz or .zip). davis: the folder that holds JPEGImages and Annotations,
            or one laid out like it. ytvos: the folder of a split, or the one above.
        kind: Which kind of data set it should be.
        frames: ytvis, ovis: the folder that the file names start from; by default JPEGImages beside the file. If
            there is none, frames are not looked at.
        split: ytvos: the split, if SOURCE is the folder above.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    if source.is_dir() == (kind in ("ytvis", "ovis")):
        wanted = "file, annotations as JSON" if source.is_dir() else "folder with JPEGImages and Annotations"
        raise ValueError(f"{source} is a {'folder' if source.is_dir() else 'file'}; {kind} needs a {wanted}")
    found, note = examine_as(kind, source, frames, split)
    for problem in found.problems:
        print(problem)
    if found.problems:
        sys.exit(1)
    print(f"nothing wrong: {found.videos} videos, {found.instances} instances{note}")


def examine_as(kind: str, source: Path, frames: Path | None, split: str) -> "tuple[Findings, str]":
    """`check` without printing: what was found, and what was not looked at."""
    from tubelet.data.validate import examine, examine_ytvos
    from tubelet.data.validate_ytvis import examine_ytvis

    if kind in ("ytvis", "ovis"):
        beside = source.parent / "JPEGImages"
        folder = frames or (beside if beside.is_dir() else None)
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder; --frames is where the file names start from")
        note = " (frames were not looked at; say where they are with --frames)" if folder is None else ""
        return examine_ytvis(source, frames=folder, occlusion=kind == "ovis"), note
    if frames is not None:
        raise ValueError(f"--frames is for ytvis and ovis; {kind} has its frames in JPEGImages")
    if kind == "davis":
        return examine(source), ""
    return examine_ytvos(source if (source / "JPEGImages").is_dir() else source / split), ""


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
    options: Flat = Options(),
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
    session = open_session(Options(model))
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
    old = [
        *out.glob("masks/*.png"),
        *(p for name in ("masks.json", "tracks.json", "overlay.mp4") if (p := out / name).exists()),
    ]
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


def open_model(options: Options) -> "tuple[Any, dict[str, Any]]":
    """A loaded model, and the keyword arguments for its sessions that were given.

    Raises `ValueError` for options that this model does not have."""
    import torch

    from tubelet.models.clips import ClipSession
    from tubelet.weights import finds_objects, load

    check_options(options)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load(options.model, None if options.weights is None else str(options.weights), device=device)
    dtype = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[options.precision]
    memory = None if options.memory is None else (options.memory or "no bound")
    flags = {
        "--precision": ("autocast", dtype),
        "--long-edge": ("long_edge", options.long_edge),
        "--depth": ("depth", options.depth),
        "--memory": ("max_memory", memory),
        "--flip": ("flip", options.flip or None),
        "--scales": ("scales", options.scales or None),
        "--short-edge": ("short_edge", options.short_edge),
        "--window": ("window", options.window),
        "--overlap": ("overlap", options.overlap),
        "--top": ("most", options.top),
        "--min-score": ("min_score", options.min_score),
        "--only": ("categories", options.only or None),
    }
    given = {flag: pair for flag, pair in flags.items() if pair[1] is not None}
    opened = ClipSession if finds_objects(options.model) else loaded.session
    known = inspect.signature(opened).parameters
    if strange := [flag for flag, (name, _) in given.items() if name not in known]:
        raise ValueError(f"{options.model} does not take {', '.join(strange)}")
    return loaded, {name: None if value == "no bound" else value for name, value in given.values()}


def check_options(options: Options) -> None:
    """Raises `ValueError` for a number without sense, before a model is loaded."""
    for name, least in (("long_edge", 1), ("short_edge", 1), ("window", 1), ("overlap", 0), ("top", 1), ("memory", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}")
    if options.min_score is not None and not 0 <= options.min_score <= 1:
        raise ValueError(f"--min-score is {options.min_score:g}; scores go from 0 to 1")


def session_maker(options: Options) -> "Callable[[], Session[LabelFrame]]":
    """Loads a model that follows objects; returns a function that opens a session of it."""
    loaded, given = open_model(options)
    return lambda: loaded.session(**given)


def open_session(options: Options) -> "Session[LabelFrame]":
    """One session of `session_maker`."""
    from tubelet.weights import check_name, finds_objects

    if finds_objects(check_name(options.model)):
        raise ValueError(f"{options.model} finds objects by itself; this needs a model that follows given ones")
    return session_maker(options)()


def finder(options: Options) -> "tuple[Callable[[], TrackSession], list[str]]":
    """Loads a model that finds objects; returns a function that opens a session of it, and the names of its classes."""
    loaded, given = open_model(options)
    count = getattr(loaded, "host", loaded).classes
    names = class_names(options, count)
    if unknown := [name for name in options.only if name not in names]:
        raise ValueError(f"there is no class {unknown[0]!r}; {nearest(unknown[0], names)}")
    if options.only:
        given["categories"] = tuple(names.index(name) for name in options.only)
    return lambda: loaded.session(**given), names


def class_names(options: Options, count: int) -> list[str]:
    """What the classes of the weights are called: as the file or the user says, or by their number.

    Raises `ValueError` if the names asked for are not as many."""
    from tubelet.data.classes import COCO, NAMES
    from tubelet.weights import read_metadata

    if options.classes is None and options.weights is not None and options.weights.suffix == ".safetensors":
        said = read_metadata(options.weights).get("classes", "").split()
        if len(said) == count:
            return said
    known = {**NAMES, "coco": [name.replace(" ", "_") for name in COCO.values()]}
    name = options.classes or {25: "ovis", 40: "ytvis_2021", 80: "coco"}.get(count)
    if name is None:
        return [f"class_{i}" for i in range(1, count + 1)]
    if name not in known:
        raise ValueError(f"there are no classes called {name!r}; {nearest(name, list(known))}")
    if len(known[name]) != count:
        raise ValueError(f"the weights have {count} classes, {name} has {len(known[name])}")
    if options.classes is None and count == 40:
        warnings.warn("the classes are called as in YouTube-VIS 2021; for 2019 say --classes ytvis_2019", stacklevel=2)
    return list(known[name])


COMMANDS: dict[str, Callable] = {
    "predict": predict,
    "score": score,
    "eval": evaluate,
    "train": train,
    "make-ytvis": make_ytvis,
    "check": check,
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
    lines += [f"  {name:10s}  {(f.__doc__ or '').splitlines()[0]}" for name, f in COMMANDS.items()]
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
