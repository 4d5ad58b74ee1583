"""`tubelet predict`: one video."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from tubelet.cli.options import DEFAULTS, Flat, finder, labeller, open_session
from tubelet.cli.output import prepare_output

if TYPE_CHECKING:
    from tubelet.run import MaskFolder
    from tubelet.types import Prompt


def predict(
    video: Positional[str],
    out: Path,
    options: Flat = DEFAULTS,
    mask: Path | None = None,
    masks: Path | None = None,
    draw: bool = True,
    fps: float | None = None,
    on_error: Literal["raise", "stop", "skip"] = "raise",
    overwrite: bool = False,
) -> None:
    """Follow objects through a video from their masks in its first frame; or find and track them; or label all pixels.

    Models that follow write OUT/masks/FRAME.png (one object id per pixel) and OUT/masks.json (COCO RLE); models that
    find objects write OUT/tracks.json (YouTube-VIS results); models that label pixels write OUT/classes/FRAME.png (a
    class per pixel). All write OUT/overlay.mp4 and OUT/contact_sheet.png, frame by frame: a run that is stopped leaves
    the finished frames.

        tubelet predict clip.mp4 --mask first.png --out result
        tubelet predict clip.mp4 --model syncvis-r50 --weights FILE --out result
        tubelet predict clip.mp4 --model mpvss-r50 --weights FILE --out result

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
    from tubelet.run import open_video, predict_classes, predict_tracks
    from tubelet.run import predict as follow
    from tubelet.weights import check_name, finds_objects, knows_classes

    if fps is not None and not 0 < fps < 1000:
        raise ValueError(f"--fps is {fps:g}; expected frames per second above 0")
    if knows_classes(check_name(options.model)) and (mask is not None or masks is not None):
        raise ValueError(f"{options.model} finds objects by itself; leave out --mask and --masks")
    if not knows_classes(options.model):
        prompts = given_masks(mask, masks)
        source, session = open_video(video, on_error=on_error), open_session(options)
        prepare_output(out, overwrite=overwrite)  # last, so that no mistake costs earlier results
        summary, what = follow(source, session, prompts, out, draw=draw, fps=fps), "objects"
    elif finds_objects(options.model):
        source, (new_session, names) = open_video(video, on_error=on_error), finder(options)
        session = new_session()
        prepare_output(out, overwrite=overwrite)
        summary, tracks = predict_tracks(source, session, names, out, draw=draw, fps=fps)
        what = "objects"
        for track in tracks:
            print(f"#{track.id:<4d} {track.score:.3f}  {names[track.category]}")
    else:
        source, (new_session, names, colours) = open_video(video, on_error=on_error), labeller(options)
        session = new_session()
        prepare_output(out, overwrite=overwrite)
        summary, what = predict_classes(source, session, names, colours, out, draw=draw, fps=fps), "classes"
        print(", ".join(names[k] for k in summary.objects))
    print(
        f"{summary.frames} frames, {len(summary.objects)} {what}, {options.model}: "
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
