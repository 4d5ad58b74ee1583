import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tubelet.video import resize
from tubelet.video.resize import argmax_to_frame, labels_to_model, logits_to_frame, model_size, to_model


@pytest.mark.parametrize(
    ("frame", "conv", "swin"),
    [
        ((480, 854), (481, 849), (480, 848)),
        ((720, 1280), (577, 1041), (592, 1040)),
        ((1080, 1920), (577, 1041), (592, 1040)),
        ((1920, 1080), (1041, 577), (1040, 592)),
        ((1, 1), (17, 17), (16, 16)),
        ((1, 5000), (17, 1041), (16, 1040)),
        ((25, 24), (33, 17), (32, 32)),  # half way: (25 - 1) / 16 and 24 / 16 are 1.5 and go to the even 2 ...
        ((9, 40), (17, 33), (16, 32)),  # ... and 40 / 16 = 2.5 goes to 2
    ],
)
def test_model_size_is_the_papers_rule(frame, conv, swin):
    assert model_size(*frame) == conv
    assert model_size(*frame, plus_one=False) == swin


def test_to_model_is_bicubic_on_floats_then_normalised():
    rgb = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)
    out = to_model(rgb, (33, 49))
    want = cv2.resize(rgb.astype(np.float32), (49, 33), interpolation=cv2.INTER_CUBIC) / 255
    want = (want - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(out.permute(1, 2, 0).numpy(), want, atol=1e-5)
    assert out.is_contiguous()


def test_to_model_of_the_right_size_only_normalises():
    rgb = np.full((17, 33, 3), (255, 0, 128), np.uint8)
    want = (torch.tensor([1, 0, 128 / 255]) - torch.tensor(resize.IMAGENET_MEAN)) / torch.tensor(resize.IMAGENET_STD)
    assert torch.allclose(to_model(rgb, (17, 33))[:, 5, 7], want, atol=1e-6)


@pytest.mark.parametrize("size", [(17, 33), (97, 49), (1, 1), (50, 61)])
def test_labels_are_torch_nearest(size):
    labels = np.random.default_rng(1).integers(0, 256, (50, 61), np.uint8)
    want = F.interpolate(torch.from_numpy(labels)[None, None].float(), size=size, mode="nearest")[0, 0]
    assert torch.equal(labels_to_model(labels, size).float(), want)


def test_labels_may_be_a_read_only_view():
    labels = np.zeros((8, 6), np.uint8)[::2]
    labels.flags.writeable = False
    assert labels_to_model(labels, (2, 3)).shape == (2, 3)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("shape", [(3, 9, 13), (1, 5, 5), (45, 31, 17), (2, 1, 1), (11, 40, 6)])
@pytest.mark.parametrize("size", [(1, 1), (37, 53), (1, 64), (8, 5), (40, 40)])
@pytest.mark.parametrize("tile", [1, 400, 10**9])
def test_argmax_in_bands_is_argmax_of_the_whole(monkeypatch, align_corners, shape, size, tile):
    monkeypatch.setattr(resize, "TILE_VALUES", tile)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    whole = logits_to_frame(logits, size, align_corners=align_corners)
    assert whole.shape == (shape[0], *size)
    out = argmax_to_frame(logits, size, align_corners=align_corners)
    np.testing.assert_array_equal(out, whole.argmax(0).numpy())


def test_the_frames_corners_are_the_logits_corners_only_when_aligned():
    logits = torch.tensor([[[0.0, 1.0, 2.0]]])
    aligned = logits_to_frame(logits, (1, 5), align_corners=True)[0, 0]
    assert aligned.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert not torch.equal(logits_to_frame(logits, (1, 5), align_corners=False)[0, 0], aligned)
