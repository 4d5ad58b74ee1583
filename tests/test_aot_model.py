"""The family: sizes of all variants, the identity bank, and the training loss."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tubelet.loss.masks import segmentation_loss
from tubelet.models.aot import model as aot
from tubelet.models.aot import training
from tubelet.models.aot.blocks import one_hot
from tubelet.types import VOID, Clip, FlowLabels, Labels

COUNTS = {  # reference/aot.md, section 4; the AOT rows without the 256 numbers of a mask token that nothing reads
    "aot-t": 5_734_099 - 256,
    "aot-s": 6_998_235 - 256,
    "aot-b": 8_262_371 - 256,
    "aot-l": 8_262_371 - 256,
    "r50-aot-l": 14_909_923 - 256,
    "swinb-aot-l": 65_398_683 - 256,
    "aotv2-l": 8_466_171,
    "r50-aotv2-l": 15_113_723,
    "swinb-aotv2-l": 65_602_483,
    "aost": 8_795_387,
    "r50-aost": 15_442_939,
    "swinb-aost": 65_931_699,
    "aost-share": 5_869_275,
}


def meta(name: str) -> aot.AOT:
    with torch.device("meta"):
        return aot.build(name)


@pytest.mark.parametrize("name", aot.VARIANTS)
def test_parameter_counts(name):
    counted = sum(p.numel() for p in meta(name).parameters())
    assert counted == COUNTS.get(name, counted)


def test_the_parts_have_the_reference_sizes():
    model = meta("aost")
    parts = (model.encoder, model.projector, model.lstt, model.decoder, model.identity_bank, model.identity_norm)
    counted = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counted == [2_189_760, 327_936, 3_799_344, 1_663_755, 814_080, 512]


@pytest.mark.parametrize(("depth", "millions"), [(3, 8.80), (2, 7.27), (1, 5.80)])
def test_a_shallower_aost_is_smaller(depth, millions):
    with torch.device("meta"):
        model = aot.AOT(aot.build_encoder("mobilenetv2"), depth=depth, gated=True, scalable=True)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_an_unknown_variant_is_a_key_error():
    with pytest.raises(KeyError):
        aot.build("aot-xl")


@pytest.mark.parametrize("name", ["aot-t", "aot-b"])
def test_small_variants_remember_only_given_frames(name):
    assert meta(name).memory_gap is None
    assert meta("aot-l").memory_gap == 5


@pytest.mark.parametrize("depth", [0, 4, -1])
def test_depths_that_do_not_exist(depth):
    with pytest.raises(ValueError, match=r"1\.\.3"):
        meta("aost").check_depth(depth)


def test_only_scalable_models_take_another_depth():
    with pytest.raises(ValueError, match="only AOST"):
        meta("aot-l").check_depth(1)
    assert meta("aot-l").check_depth(None) == meta("aot-l").check_depth(3) == 3
    assert meta("aost-share").check_depth(2) == 2


# ---- the identity bank


@pytest.fixture(scope="module")
def aott() -> aot.AOT:
    torch.manual_seed(1)
    return aot.build("aot-t").eval()


@pytest.fixture(scope="module")
def aost() -> aot.AOT:
    torch.manual_seed(1)
    return aot.build("aost").eval()


@torch.no_grad()
def test_identity_embedding_is_a_sum_over_the_patch(aott):
    ids = torch.randint(0, 4, (1, 33, 49))
    out = aott.embed_ids(ids).view(3, 4, 256)
    weight, bias = aott.identity_bank.weight, aott.identity_bank.bias
    for y, x in [(0, 0), (1, 2), (2, 3)]:
        expected = bias.clone()
        for dy in range(-8, 9):
            for dx in range(-8, 9):
                py, px = 16 * y + dy, 16 * x + dx
                if 0 <= py < 33 and 0 <= px < 49:
                    expected += weight[:, ids[0, py, px], dy + 8, dx + 8]
        torch.testing.assert_close(out[y, x], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_swin_patches_do_not_overlap():
    with torch.device("meta"):
        encoder = aot.build_encoder("swinb")
    assert aot.AOT(encoder, depth=1, align_corners=False).identity_bank(torch.zeros(1, 11, 32, 48)).shape[2:] == (2, 3)


@torch.no_grad()
def test_a_new_object_does_not_touch_other_patches(aost):
    ids = torch.zeros(1, 65, 65, dtype=torch.long)
    ids[:, :10, :10] = 1
    before = aost.embed_ids(ids).view(5, 5, 256)
    ids[:, 60:, 60:] = 2
    after = aost.embed_ids(ids).view(5, 5, 256)
    changed = (before - after).abs().sum(-1) > 0
    assert changed.nonzero().tolist() == [[4, 4]]


def test_orthogonal_initialisation(aott):
    rows = aott.identity_bank.weight.detach().reshape(256, -1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(256) / 17**4, atol=1e-8, rtol=0)


# ---- training


def clip_of(frames: int = 4, size: int = 33, objects: tuple[int, ...] = (2, 1)) -> tuple[Clip, Labels]:
    g = torch.Generator().manual_seed(5)
    ids = torch.zeros(len(objects), frames, size, size, dtype=torch.long)
    for b, n in enumerate(objects):
        for o in range(n):
            for t in range(frames):
                ids[b, t, 4 + 10 * o + t : 14 + 10 * o + t, 5 + 2 * t : 20 + 2 * t] = o + 1
    images = torch.rand(len(objects), frames, 3, size, size, generator=g)
    return Clip(images, torch.arange(7, 7 + len(objects))), Labels(ids, torch.tensor(objects))


def value(losses: dict[str, torch.Tensor]) -> list[float]:
    return [x.item() for x in losses.values()]


def permuted(model: aot.AOT, order: list[int]) -> aot.AOT:
    """The same network with its ten identities renamed, in the bank and in the decoder's answers."""
    twin = aot.build("aost").eval()
    state = {name: x.clone() for name, x in model.state_dict().items()}
    channels = [0, *order]
    state["identity_bank.weight"] = state["identity_bank.weight"][:, channels]
    state["decoder.out.weight"] = state["decoder.out.weight"][channels]
    state["decoder.out.bias"] = torch.arange(11.0)[channels] / 10
    twin.load_state_dict(state)
    return twin


@torch.no_grad()
@pytest.mark.parametrize("feedback", [False, True])
def test_shuffled_identities_are_put_back(aost, feedback, monkeypatch):
    """Renaming the identities of the network and in P alike changes nothing; a shuffle that is not undone would."""
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3)) + 1
    plain, renamed = permuted(aost, list(range(1, 11))), permuted(aost, order.tolist())
    identity = torch.arange(11).repeat(2, 1)
    inverse = torch.cat((torch.zeros(1, dtype=torch.long), order.argsort() + 1)).repeat(2, 1)
    monkeypatch.setattr(training, "shuffle_identities", lambda batch, numbers: identity)
    expected = plain.loss(*clip_of(), feedback=feedback)
    monkeypatch.setattr(training, "shuffle_identities", lambda batch, numbers: inverse)
    assert value(renamed.loss(*clip_of(), feedback=feedback)) == pytest.approx(value(expected), rel=1e-5)
    assert value(renamed.loss(*clip_of(), feedback=feedback)) != pytest.approx(
        value(plain.loss(*clip_of(), feedback=feedback)), rel=1e-5
    )


def test_shuffle_keeps_the_background_and_is_a_permutation():
    shuffled = training.shuffle_identities(5)
    assert (shuffled[:, 0] == 0).all()
    torch.testing.assert_close(shuffled.sort(1).values, torch.arange(11).repeat(5, 1))
    assert len({tuple(row) for row in shuffled.tolist()}) == 5


def test_the_shuffle_of_a_clip_is_its_own():
    """However a batch is divided among processes."""
    whole = training.shuffle_identities(3, torch.tensor([4, 5, 6]))
    assert torch.equal(whole[1:], training.shuffle_identities(2, torch.tensor([5, 6])))


@torch.no_grad()
@pytest.mark.parametrize("name", ["aot-l", "aost"])
@pytest.mark.parametrize("feedback", [False, True])
def test_loss_against_the_unrolled_steps(name, feedback):
    """Three predicted frames by hand: which memories each sees, at which depths it is supervised."""
    torch.manual_seed(2)
    model = aot.build(name).eval()
    clip, labels = clip_of()
    p = training.shuffle_identities(2, torch.tensor([7, 8]))
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    frames = [model.encode_image((clip.images[:, t] - mean) / std) for t in range(4)]
    embed = lambda ids: model.embed_ids(torch.stack([p[b][ids[b]] for b in range(2)]))  # noqa: E731
    depths = {1: 2 / 14, 2: 4 / 14, 3: 8 / 14} if name == "aost" else {3: 1.0}

    def supervise(frame, outputs, t):
        total, logits = torch.zeros(2), torch.zeros(())
        for depth, weight in depths.items():
            x = model.decode(frame, outputs[:depth])
            x = F.interpolate(x, (33, 33), mode="bilinear", align_corners=True)
            logits = torch.stack([x[b, p[b]] for b in range(2)])
            parts = segmentation_loss(logits, labels.ids[:, t], labels.objects, hard_fraction=0.5)
            total += weight * 0.5 * torch.stack(parts).mean(1)
        return total, logits

    outputs, reference = model.refer(frames[0], embed(labels.ids[:, 0]))
    expected = [supervise(frames[0], outputs, 0)[0].sum() * 0.25]
    losses, short, long = [], reference, reference
    for t in (1, 2, 3):
        outputs, matched = model.propagate(frames[t], list(zip(long, short)))
        loss, logits = supervise(frames[t], outputs, t)
        losses.append(loss)
        found = torch.stack([logits[b, : int(labels.objects[b]) + 1].argmax(0) for b in range(2)])
        short = model.memorize(matched, embed(found if feedback else labels.ids[:, t]))
        if t == 2:
            long = [
                type(a)(torch.cat((a.key, b.key), 1), torch.cat((a.value, b.value), 1)) for a, b in zip(long, short)
            ]
    got = model.loss(clip, labels, hard_fraction=0.5, reference_weight=0.25, feedback=feedback)
    expected = [*torch.stack(losses).mean(0), *expected]
    assert value(got) == pytest.approx([float(x) for x in expected], rel=1e-4)
    assert list(got) == ["cross_entropy", "jaccard", "reference"]


def test_gradients_reach_every_parameter():
    """Of AOT too; what AOST adds is that all its entrances learn at once."""
    for name in ("aot-l", "aost"):
        torch.manual_seed(0)
        model = aot.build(name, frozen_norm=False).train()
        sum(model.loss(*clip_of()).values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        # A key bias shifts all scores of a query alike, which the softmax takes away: rounding alone reaches it.
        assert [n for n in without if not n.endswith("self_attention.key.bias")] == []


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_identity_bank_learns_unless_it_is_frozen(frozen, feedback):
    torch.manual_seed(0)
    model = aot.build("aost").train()
    sum(model.loss(*clip_of(frames=3), feedback=feedback, freeze_bank=frozen).values()).backward()  # pyright: ignore
    bank = [*model.identity_bank.parameters(), *model.identity_norm.parameters()]
    assert all((p.grad is None) == frozen for p in bank)
    assert model.decoder.out.weight.grad is not None


@torch.no_grad()
def test_reference_weight(aost, monkeypatch):
    run = lambda weight: aost.loss(*clip_of(), reference_weight=weight)  # noqa: E731
    one, half = run(1.0), run(0.5)
    assert half["reference"].item() == pytest.approx(one["reference"].item() / 2)
    seen = []
    monkeypatch.setattr(
        training,
        "frame_losses",
        lambda *a, real=training.frame_losses, **options: seen.append(len(a[1])) or real(*a, **options),
    )
    none = run(0.0)
    assert seen == [3]  # the reference frame is not decoded
    assert none["reference"].item() == 0
    assert none["jaccard"].item() == pytest.approx(one["jaccard"].item())


@torch.no_grad()
def test_void_is_background_for_the_bank_and_nothing_for_the_loss(aost):
    clip, labels = clip_of()
    run = lambda ids: value(aost.loss(clip, Labels(ids, labels.objects)))  # noqa: E731
    void = labels.ids.clone()
    void[:, 0, -4:] = VOID  # was background
    assert (labels.ids[:, 0, -4:] == 0).all()
    assert run(void)[:2] == pytest.approx(run(labels.ids)[:2])
    assert run(void)[2] != pytest.approx(run(labels.ids)[2])


@torch.no_grad()
def test_batched_is_the_mean_of_single(aost, monkeypatch):
    monkeypatch.setattr(training, "shuffle_identities", lambda batch, numbers: torch.arange(11).repeat(batch, 1))
    clip, labels = clip_of()
    both = value(aost.loss(clip, labels))
    single = [value(aost.loss(Clip(clip.images[b : b + 1]), Labels(labels.ids[b : b + 1], labels.objects[b : b + 1])))
              for b in (0, 1)]  # fmt: skip
    assert both == pytest.approx([(a + b) / 2 for a, b in zip(*single)], rel=1e-4)


@torch.no_grad()
def test_two_frames_and_ten_objects(aost):
    clip, labels = clip_of(frames=2, objects=(1, 1))
    labels = dataclasses.replace(labels, objects=torch.tensor([10, 1]))
    assert all(torch.isfinite(x) for x in aost.loss(clip, labels).values())


def test_argmax_ignores_objects_that_are_not_there():
    logits = torch.zeros(2, 11, 1, 1)
    logits[:, 3], logits[:, 2], logits[:, 1] = 3, 2, 1
    assert training.argmax_of_present(logits, torch.tensor([1, 2])).flatten().tolist() == [1, 2]


def test_one_hot_of_the_bank_has_eleven_channels(aost):
    assert aost.embed_identities(one_hot(torch.zeros(1, 33, 33), 11)).shape == (1, 9, 256)
    assert isinstance(aot.build("aot-t").identity_norm, nn.Identity)


@torch.no_grad()
@pytest.mark.parametrize("name", ["aot-t", "aost", "aost-share", "swinb-aot-l"])
def test_matching_is_the_cross_entropy_at_the_true_place(name):
    """Block by block, token by token and head by head, with places between keys, at the edge, and unknown."""
    torch.manual_seed(3)
    model = aot.build(name).eval()
    extra = int(model.align_corners)
    clip = Clip(torch.rand(2, 2, 3, 48 + extra, 64 + extra))
    flow = torch.rand(2, 2, 48 + extra, 64 + extra) * 24 - 12
    flow[0, :, 20:40] = torch.nan
    torch.manual_seed(4)
    got = model.loss(clip, FlowLabels(flow))["matching"]
    torch.manual_seed(4)
    identity = model.embed_ids(training.draw_regions(2, (48 + extra, 64 + extra)))
    first, second = model.encode_clip(clip)
    _, memory = model.refer(first, identity)
    _, matched = model.propagate(second, [(m, m) for m in memory])
    (h, w), start = first.size, 0 if model.align_corners else 8
    total = 0
    for layer in range(model.depth):
        expected = []
        for b in range(2):
            key, query = (x.key[b].view(h * w, 8, -1) for x in (memory[layer], matched[layer]))
            for i in range(h * w):
                y, x = divmod(i, w)
                dx, dy = flow[b, :, start + 16 * y, start + 16 * x].tolist()
                if dx != dx:
                    continue
                heads = [(key[:, n] @ query[i, n] / key.shape[2] ** 0.5).softmax(0) for n in range(8)]
                found = torch.stack(heads).mean(0)
                at_y, at_x = min(max(y + dy / 16, 0), h - 1), min(max(x + dx / 16, 0), w - 1)
                log_p = torch.tensor(0.0)
                for row in range(h):
                    for column in range(w):
                        share = max(0, 1 - abs(row - at_y)) * max(0, 1 - abs(column - at_x))
                        log_p += share * found[row * w + column].log()
                expected.append(-log_p)
        assert 0 < len(expected) < 2 * h * w
        total += torch.stack(expected).mean()
    torch.testing.assert_close(got, 0.2 * total, rtol=1e-3, atol=1e-4)


def test_matching_teaches_all_that_leads_to_a_key():
    torch.manual_seed(3)
    model = aot.build("aost", frozen_norm=False)
    flow = torch.zeros(2, 2, 33, 49)
    losses = []
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    clip = Clip(torch.rand(2, 1, 3, 33, 49).expand(-1, 2, -1, -1, -1))
    for _ in range(10):
        loss = model.loss(clip, FlowLabels(flow))["matching"]
        loss.backward()
        taught = {name for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for layer in range(3):
        assert f"lstt.blocks.{layer}.identity.match_key_value.weight" in taught
        assert f"lstt.blocks.{layer}.identity.identity_gate_value.weight" in taught
    assert "identity_bank.weight" in taught
    # what comes after the last key is not asked for it
    past = ("decoder.out", "decoder.conv", "lstt.norms", "lstt.blocks.2.norm3", "lstt.blocks.2.feed_forward")
    assert not any(name.startswith((*past, "lstt.blocks.2.long", "lstt.blocks.2.short")) for name in taught)


def test_regions_are_of_a_few_identities_and_differ():
    torch.manual_seed(0)
    ids = training.draw_regions(6, (49, 65))
    assert ids.shape == (6, 49, 65)
    shown = [set(x.unique().tolist()) for x in ids]
    assert all(2 <= len(x) <= 4 and min(x) >= 0 and max(x) <= 10 for x in shown)
    assert len(set.union(*shown)) > 5
    changes = (ids[:, :, 1:] != ids[:, :, :-1]).float().mean()
    assert changes < 0.1, "blots, not noise"


def test_matching_without_a_known_place_is_zero():
    model = aot.build("aot-t")
    loss = model.loss(Clip(torch.rand(1, 2, 3, 33, 33)), FlowLabels(torch.full((1, 2, 33, 33), torch.nan)))["matching"]
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
