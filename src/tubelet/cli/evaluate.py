"""`tubelet eval`: predict the videos of a benchmark, and score them."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from tubelet.cli.options import DEFAULTS, Flat, Options, finder, labeller, session_maker
from tubelet.cli.output import make_output

if TYPE_CHECKING:
    from tubelet.data.semantic import SemanticVideo
    from tubelet.metrics.jf import JFResult
    from tubelet.metrics.semantic import SemanticScore
    from tubelet.metrics.vis_ap import VISResult


def evaluate(
    benchmark: Positional[Literal["davis", "ytvos", "ytvis", "ovis", "vspw", "cityscapes", "camvid"]],
    data: Path,
    out: Path,
    options: Flat = DEFAULTS,
    year: Literal[2016, 2017] = 2017,
    split: str | None = None,
    resolution: str = "480p",
    all_frames: bool = False,
    frames: Path | None = None,
    length: int | None = None,
    json: Path | None = None,
) -> None:
    """Predict a benchmark's videos, and score them.

        tubelet eval davis --data DAVIS --model aost --out runs/davis
        tubelet eval ytvis --data instances.json --frames JPEGImages --model syncvis-r50 --weights FILE --out runs/vis
        tubelet eval vspw --data VSPW_480p --model mpvss-r50 --weights FILE --out runs/vspw

    DAVIS and YouTube-VOS start from their first masks; masks go to OUT/SEQUENCE/FRAME.png. For ytvis and ovis tracks go
    to OUT/results.json. Where their truth is on a server, OUT/submission.zip is written. For vspw, cityscapes and
    camvid class maps go to OUT/VIDEO/FRAME.png, OUT/FRAME.png; of cityscapes the labelled frame alone, which is the
    last of its clip.

    Args:
        benchmark: davis, ytvos, ytvis, ovis, vspw, cityscapes or camvid.
        data: Root of the data set (JPEGImages, Annotations, ImageSets; or valid/ with meta.json; or what `tubelet
            check` takes), or the file of ytvis and ovis.
        out: Folder for the results.
        year: DAVIS 2016 (one object) or 2017.
        split: A file of ImageSets/YEAR without .txt (davis: val), a folder of YouTube-VOS (valid), or a split of vspw,
            cityscapes or camvid (val); the test split of vspw has no labels and is not scored.
        resolution: DAVIS folder below JPEGImages and Annotations.
        all_frames: YouTube-VOS at 30 frames per second (valid_all_frames).
        frames: ytvis, ovis: the folder that the file names start from; by default JPEGImages beside the file.
        length: cityscapes: frames of a clip, 1 to 20, the last one labelled; by default 20, or 1 if there are no
            others. With key frames every 5, the labelled one is (length - 1) % 5 frames after its key frame.
        json: Also write the numbers here.
    """
    import json as json_

    from tubelet.weights import check_name, finds_objects, labels_pixels

    name = check_name(options.model)
    finds, labels = benchmark in ("ytvis", "ovis"), benchmark in ("vspw", "cityscapes", "camvid")
    if (finds, labels) != (finds_objects(name), labels_pixels(name)):
        kinds = {
            (False, False): "follow given objects, as aost does",
            (True, False): "find objects, as mask2former-vis-r50 does",
            (False, True): "label pixels, as mpvss-r50 does",
        }
        raise ValueError(f"{benchmark} is for models that {kinds[finds, labels]}; {name} does not")
    make_output(out)
    if finds:
        result = evaluate_finding(benchmark, data, out, options, frames)
    elif labels:
        result = evaluate_labelling(benchmark, data, out, options, split, length)
    else:
        result = evaluate_following(benchmark, data, out, options, year, split, resolution, all_frames)
    if result is None:
        print(out if labels else out / "submission.zip")
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


def evaluate_labelling(
    benchmark: str, data: Path, out: Path, options: Options, split: str | None, length: int | None
) -> "SemanticScore | None":
    """`evaluate` for models that label pixels; None if there are no labels to score with."""
    from tubelet.data.semantic_classes import NAMES
    from tubelet.metrics.semantic import score_camvid, score_cityscapes, score_vspw
    from tubelet.run import label_item
    from tubelet.viz.progress import progress

    split = split or "val"
    videos = labelled_videos(benchmark, data, split, length)
    if options.random:
        options = replace(options, classes=options.classes or benchmark)
    new_session, names, colours = labeller(options)
    if len(names) != len(NAMES[benchmark]):
        raise ValueError(f"{options.model} knows {len(names)} classes but {benchmark} has {len(NAMES[benchmark])}")
    count, seconds = 0, 0.0
    for video in progress(videos, unit="videos", description=options.model):
        folder = out / video.name if benchmark == "vspw" else out
        summary = label_item(video, new_session(), folder, colours, labelled_only=benchmark == "cityscapes")
        count, seconds = count + summary.frames, seconds + summary.model_seconds
    print(f"{count} frames of {len(videos)} videos, {count / max(seconds, 1e-9):.2f} frames per second in the model")
    if not any(video.labels for video in videos):
        return None
    if benchmark == "vspw":
        return score_vspw(data, out, videos=[video.name for video in videos], workers=None)
    if benchmark == "camvid":
        return score_camvid(next(iter(videos[0].labels.values())).parent, out, workers=None)
    return score_cityscapes(data / "gtFine" / split, out, workers=None)


def labelled_videos(benchmark: str, data: Path, split: str, length: int | None) -> "list[SemanticVideo]":
    """The videos of a split."""
    from tubelet.data.camvid import read_camvid
    from tubelet.data.cityscapes import read_cityscapes
    from tubelet.data.vspw import read_vspw

    if length is not None and benchmark != "cityscapes":
        raise ValueError(f"--length is for cityscapes; the videos of {benchmark} are taken whole")
    if benchmark == "vspw":
        return read_vspw(data, split, labelled="none" if split == "test" else "all")
    if benchmark == "camvid":
        return read_camvid(data, split)
    return read_cityscapes(data, split, length=length)
