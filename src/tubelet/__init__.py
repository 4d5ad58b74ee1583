"""Tubelet: segment, track and label what moves in a video."""

__version__ = "0.1.0"
