from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from tubelet.models import mpvss
from tubelet.models.mpvss import MPVSS, Motion, QueryFlow, class_scores, picture
from tubelet.models.mpvss_official import flownet_encoder, our_name
from tubelet.nn.flownet import FlowEncoder
from tubelet.nn.warp import warp
from tubelet.types import Clip, FlowLabels, TubeLabels


def tiny(motion: str = "query", seed: int = 0, **options) -> MPVSS:
    torch.manual_seed(seed)
    model = mpvss.build("mpvss-tiny", 5, motion=motion, **options)
    if isinstance(model.motion, QueryFlow) and model.motion.fuse is not None:
        torch.nn.init.normal_(model.motion.fuse.weight, std=0.1)  # at first it is zero: nothing to see
    return model.eval()


def images(n: int = 1, h: int = 64, w: int = 96) -> torch.Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "millions"),
    [("r50", 84.1), ("r101", 103.1), ("swin-t", 87.5), ("swin-s", 108.8), ("swin-b", 147.0), ("swin-l", 255.5)],
)
def test_parameters(name, millions):
    with torch.device("meta"):
        model = mpvss.build(f"mpvss-{name}", 124, frozen_norm=False)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(("motion", "millions"), [("query", 40.08), ("query-learned", 37.56), ("flownet", 38.68)])
def test_parameters_of_the_flow_modules(motion, millions):
    with torch.device("meta"):
        module = mpvss.build_motion(motion)
    assert module is not None
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_a_motion_is_known_by_its_parameters():
    for motion in get_args(Motion):
        with torch.device("meta"):
            assert mpvss.motion_of(mpvss.build("mpvss-tiny", 5, motion=motion).state_dict()) == motion
    with pytest.raises(ValueError, match="one of query, query-random"):
        mpvss.build("mpvss-tiny", motion="flow")


@pytest.mark.parametrize("size", [(1, 1), (33, 70), (64, 96)])
@pytest.mark.parametrize("motion", [m for m in get_args(Motion) if m != "none"])
@torch.inference_mode()
def test_shapes_at_any_size(motion, size):
    model = tiny(motion)
    frames = images(1, *size)
    key = model.segment(frames)
    flows = model.flows(frames, key.picture, key.prediction.embeddings)
    shared = motion in ("query-for-pf", "flownet")
    assert flows.shape[:3] == (1, 1 if shared else 20, 2)
    carried = model.carry(key.prediction.mask_logits, flows)
    assert carried.shape == key.prediction.mask_logits.shape


@torch.inference_mode()
def test_the_flow_module_begins_as_one_pixel_everywhere():
    module = QueryFlow(queries=4, channels=32, hidden=64)
    flows = module(torch.randn(1, 6, 32, 64), torch.randn(1, 4, 32))
    assert torch.equal(flows, torch.ones_like(flows))


@torch.inference_mode()
def test_fusion_is_one_convolution_of_both_flows():
    """Equation 4, written plainly: [PF; QF] of each query through one convolution."""
    module = QueryFlow(queries=3, channels=32, hidden=64)
    assert module.fuse is not None
    torch.nn.init.normal_(module.fuse.weight)
    pixel, query = torch.randn(2, 1, 2, 5, 7), torch.randn(2, 3, 2, 5, 7)
    plain = torch.stack([module.fuse(torch.cat((pixel[:, 0], query[:, q]), dim=1)) for q in range(3)], dim=1)
    torch.testing.assert_close(module.fused(pixel, query), plain)


@torch.inference_mode()
def test_query_based_flow_is_the_product_of_queries_and_places():
    module = QueryFlow(queries=3, channels=32, hidden=64, output="query")
    queries, finest = torch.randn(1, 3, 32), torch.randn(1, 128, 2, 3)
    assert module.norm is not None
    assert module.vectors is not None
    assert module.places is not None
    found = module.query_flow(queries, finest)
    vector = module.vectors(module.norm(queries))[0, 1]
    place = module.places(finest[0, :, 1, 2])
    torch.testing.assert_close(found[0, 1, 0, 1, 2], vector @ place[32:])  # x from the last half
    torch.testing.assert_close(found[0, 1, 1, 1, 2], vector @ place[:32])


@torch.inference_mode()
def test_queries_and_places_see_each_other_through_all_rounds():
    model = tiny()
    frames = images(2)
    key = model.segment(frames[:1])
    queries = key.prediction.embeddings
    before = model.flows(frames[1:], key.picture, queries)
    other = queries.clone()
    other[:, 3] += 1
    after = model.flows(frames[1:], key.picture, other)
    assert ((before - after).abs().amax((0, 2, 3, 4)) > 0).all()  # one query moves, and the flow of all does


@torch.inference_mode()
def test_learned_queries_do_not_look_at_those_of_the_key_frame():
    frames = images(2)
    for motion, looks in (("query-random", False), ("query-learned", True), ("query-for-pf", True), ("flownet", False)):
        model = tiny(motion)
        key = model.segment(frames[:1])
        queries = key.prediction.embeddings
        found = [model.flows(frames[1:], key.picture, q) for q in (queries, queries + torch.randn_like(queries))]
        assert torch.equal(*found) is not looks, motion


@torch.inference_mode()
def test_some_queries_alone_have_the_flow_they_have_among_all():
    model = tiny()
    frames = images(2)
    key = model.segment(frames[:1])
    few = torch.tensor([2, 7, 19])
    all_ = model.flows(frames[1:], key.picture, key.prediction.embeddings)
    torch.testing.assert_close(model.flows(frames[1:], key.picture, key.prediction.embeddings, few), all_[:, few])


@torch.inference_mode()
def test_masks_move_with_their_own_flow():
    model = tiny()
    masks = torch.randn(1, 2, 1, 8, 16)
    flows = torch.zeros(1, 2, 2, 4, 8)
    flows[:, 1, 0] = 1  # two pixels of the masks' size to the right
    carried = model.carry(masks, flows)
    torch.testing.assert_close(carried[0, 0], masks[0, 0])
    torch.testing.assert_close(carried[0, 1, :, :, :-2], masks[0, 1, :, :, 2:])
    shared = model.carry(masks, flows[:, 1:])
    torch.testing.assert_close(shared[0, 1], carried[0, 1])
    torch.testing.assert_close(shared[0, 0, :, :, :-2], masks[0, 0, :, :, 2:])


def test_scores_are_probabilities_of_classes_and_masks():
    logits, masks = torch.randn(4, 6), torch.randn(4, 3, 2)
    found = class_scores(logits, masks)
    plain = torch.zeros(5, 3, 2)
    for q in range(4):
        for k in range(5):
            plain[k] += logits[q].softmax(0)[k] * masks[q].sigmoid()
    torch.testing.assert_close(found, plain)


def test_the_picture_for_flow_is_halved_and_padded_with_zeros():
    found = picture(images(1, 30, 40))
    assert found.shape == (1, 3, 16, 32)
    assert (found[..., 15:, :] == 0).all()
    assert (found[..., :, 20:] == 0).all()
    assert (found[..., :15, :20] != 0).any()


def labels(frames: int) -> TubeLabels:
    masks = torch.zeros(2, frames, 64, 96, dtype=torch.bool)
    masks[0, :, :40] = True
    masks[1, 0, 40:] = True  # class 3 is gone in the last of several frames
    return TubeLabels([torch.tensor([1, 3])], [masks])


def test_the_loss_of_one_frame_is_the_segmentors_and_of_two_teaches_the_flow():
    model = tiny()
    for frames in (1, 2):
        model.zero_grad()
        clip = Clip(images(frames)[None], torch.tensor([0]))
        losses = model.loss(clip, labels(frames))
        assert len(losses) == 3 * 4  # class, cross-entropy and dice of the learned queries and of three layers
        sum(losses.values()).backward()  # type: ignore[union-attr]
        assert model.motion is not None
        taught = [p.grad is not None and bool((p.grad != 0).any()) for p in model.motion.parameters()]
        assert all(taught) if frames == 2 else not any(taught)
    alone = model.segmentor.loss(Clip(images(1)[None], torch.tensor([0])), labels(1))
    torch.testing.assert_close(model.loss(Clip(images(1)[None], torch.tensor([0])), labels(1)), alone)


def test_the_loss_looks_at_the_last_frame_alone():
    model = tiny()
    clip = Clip(images(2)[None], torch.tensor([0]))
    truth = labels(2)
    changed = TubeLabels(truth.classes, [truth.masks[0].clone()])
    changed.masks[0][:, 0] = False  # of the key frame
    torch.testing.assert_close(model.loss(clip, truth), model.loss(clip, changed))


def test_a_still_picture_without_flow_has_the_loss_of_one_frame():
    model = tiny()
    assert isinstance(model.motion, QueryFlow)
    assert model.motion.fuse is not None
    torch.nn.init.zeros_(model.motion.fuse.weight)
    torch.nn.init.zeros_(model.motion.fuse.bias)  # type: ignore[arg-type]
    one = Clip(images(1)[None], torch.tensor([0]))
    two = Clip(images(1).repeat(2, 1, 1, 1)[None], torch.tensor([0]))
    torch.testing.assert_close(model.loss(two, labels(1)), model.loss(one, labels(1)), rtol=1e-4, atol=1e-4)


def test_frozen_parts_still_teach_the_heads_and_the_flow():
    """The authors' second stage: the flow module and the heads learn, all else stands still."""
    model = tiny()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("motion.") or "_embed." in name)
    sum(model.loss(Clip(images(2)[None], torch.tensor([0])), labels(2)).values()).backward()  # type: ignore[union-attr]
    learns = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learns == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("motion", ["query", "query-learned", "query-for-pf", "flownet"])
def test_true_flow_teaches_the_flow_alone(motion):
    """The error of the flows that the model has for these two frames, at a size that is padded."""
    model = tiny(motion)
    frames = images(2, 50, 70)
    truth = torch.full((1, 2, 50, 70), 8.0)
    error = model.loss(Clip(frames[None]), FlowLabels(truth))["endpoint"]
    error.backward()
    flows = model.flows(frames[1:], picture(frames[:1]), model.segment(frames[:1]).prediction.embeddings)
    torch.testing.assert_close(error, (flows[:, :, :, :6, :9] - 1).norm(dim=2).mean(), rtol=1e-3, atol=1e-3)
    learns = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert learns == {"motion"}


def test_a_frozen_encoder_stays_as_it_is_in_use():
    model = tiny()
    assert model.train().segmentor.encoder.training
    model.segmentor.encoder.requires_grad_(False)
    assert not model.train().segmentor.encoder.training
    assert model.motion is not None
    assert model.motion.training
    assert model.segmentor.decoder.training


@pytest.mark.parametrize("style", ["conv{0}.{1}.conv.{2}", "motion.encoder.conv{0}.{1}.conv.{2}", "pytorch"])
def test_flownet_files_of_two_kinds(style):
    encoder = FlowEncoder()
    own = {key: value.clone() for key, value in encoder.state_dict().items()}
    given = {"predict_flow6.weight": torch.zeros(1), "deconv5.0.weight": torch.zeros(1)}
    for key, value in own.items():
        _, stage, i, kind = key.split(".")
        name = style.format(int(stage) + 1, i, kind)
        if style == "pytorch":
            name = f"conv{int(stage) + 1}{'_1' if i == '1' else ''}.0.{kind}"
        given[name] = value + 1
    found = flownet_encoder(given)
    encoder.load_state_dict(found)
    assert all(torch.equal(found[key], value + 1) for key, value in own.items())
    with pytest.raises(ValueError, match="0 of its 20 tensors"):
        flownet_encoder({"conv7.weight": torch.zeros(1)})


def test_an_unknown_name_stays_for_the_strict_loading_to_find():
    assert our_name("motion.decoder.more.weight") == "motion.decoder.more.weight"


def test_flow_is_enlarged_to_the_masks():
    """Estimated at stride 8, it carries masks at stride 4: in their pixels it is twice as long."""
    masks, flow = torch.randn(1, 1, 1, 8, 8), torch.rand(1, 1, 2, 4, 4)
    fine = 2 * F.interpolate(flow[0], scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(tiny().carry(masks, flow)[0], warp(masks[0], fine))
