"""The same work on many files, spread over processes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import cv2


def spread(function: Callable, jobs: Sequence, workers: int, *, chunk: int = 1) -> Iterator:
    """What `function` makes of each job, in order, as it is done, by so many processes (up to 1: by this one).

    `chunk`: how many jobs a process takes at a time."""
    if workers <= 1:
        yield from map(function, jobs)
        return
    # Processes, because decoding PNG holds the interpreter's lock. Spawned, because a fork would inherit the threads
    # of torch and OpenCV in an unknown state.
    with ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        yield from pool.map(function, jobs, chunksize=chunk)
