"""A session frame by frame, for a camera or any iterator of frames: masks may come, change and go at any time.

python examples/camera.py 0            # the first camera; an rtsp:// address or a file works as well
"""

import sys
from itertools import islice

import numpy as np

import tubelet
from tubelet.types import Prompt
from tubelet.video.read import read


def main(source: str) -> None:
    session = tubelet.load("dis-flow").session()
    frames = read(int(source) if source.isdigit() else source)
    for frame in islice(frames, 300):
        prompt = None
        if frame.index == 0:  # whatever is in the middle of the first frame is object 1
            height, width = frame.rgb.shape[:2]
            labels = np.zeros((height, width), np.uint8)
            labels[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 1
            prompt = Prompt(labels)
        if frame.index == 200:
            prompt = Prompt(remove=(1,))
        for result in session.feed(frame, prompt):
            print(f"frame {result.index}: {(result.labels == 1).mean():.1%} of the picture is object 1")


if __name__ == "__main__":
    main(sys.argv[1])
