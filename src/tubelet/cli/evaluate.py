"""`tubelet eval`: predict the videos of a benchmark, and score them."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from tubelet.cli.options import DEFAULTS, Flat, Options, finder, session_maker
from tubelet.cli.output import make_output

if TYPE_CHECKING:
    from tubelet.metrics.jf import JFResult
    from tubelet.metrics.vis_ap import VISResult


def evaluate(
    benchmark: Positional[Literal["davis", "ytvos", "ytvis", "ovis"]],
    data: Path,
    out: Path,
    options: Flat = DEFAULTS,
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
