"""Follow objects through a video from the mask of its first frame, and look at one frame of the answer.

python examples/follow_objects.py clip.mp4 first.png
"""

import sys

from PIL import Image

import tubelet
from tubelet.video.read import read
from tubelet.viz.draw import overlay


def main(video: str, mask: str, model: str = "dis-flow") -> None:
    session = tubelet.load(model).session()
    for frame, result in tubelet.follow(read(video), session, mask):
        covered = {i: int((result.labels == i).sum()) for i in result.objects}
        print(f"frame {frame.index}: pixels per object {covered}")
        picture = overlay(frame.rgb, result.labels, names={})
    Image.fromarray(picture).save("last_frame.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
