"""Groups, schedule, average."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false

import pytest
import torch
from torch import nn

from tubelet.models.aot import model as aot
from tubelet.train.optim import Ema, parameter_groups, polynomial, set_lr, stepped

NO_DECAY = ("relative_value", "relative_position_bias_table", "decoder.out")


@pytest.mark.parametrize("name", ["aot-t", "swinb-aost"])
@pytest.mark.parametrize("frozen", [False, True])
def test_every_trainable_parameter_is_in_exactly_one_group(name, frozen):
    with torch.device("meta"):
        model = aot.build(name)
    stem = tuple(model.encoder.stem()) if frozen else ()
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, encoder_lr=0.1, no_decay=NO_DECAY, frozen=stem)
    grouped = [id(p) for group in groups for p in group["params"]]
    frozen_ids = {id(p) for module in stem for p in module.parameters()}
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if id(p) not in frozen_ids)
    assert len(grouped) == len(set(grouped))
    assert bool(frozen_ids) == frozen


def decay_of(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: (g["base_lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_what_is_decayed_and_what_learns_slowly():
    with torch.device("meta"):
        model = aot.build("swinb-aost")
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, encoder_lr=0.2, no_decay=NO_DECAY)
    got = decay_of(model, groups)
    assert got["lstt.blocks.0.self_attention.query.weight"] == (1.0, 0.1)
    assert got["lstt.blocks.0.self_attention.query.bias"] == (1.0, 0.0)
    assert got["lstt.blocks.0.norm1.weight"] == (1.0, 0.0)
    assert got["lstt.blocks.2.short_attention.relative_value"] == (1.0, 0.0)
    assert got["decoder.out.weight"] == (1.0, 0.0)
    assert got["identity_bank.weight"] == (1.0, 0.1)
    assert got["encoder.layers.0.blocks.0.attn.qkv.weight"] == (0.2, 0.1)
    assert got["encoder.layers.0.blocks.0.attn.qkv.bias"] == (0.2, 0.0)
    assert got["encoder.layers.0.blocks.0.norm1.weight"] == (0.2, 0.1)  # one-dimensional, but of the encoder
    assert got["encoder.layers.0.blocks.0.attn.relative_position_bias_table"] == (0.2, 0.0)


def test_without_an_encoder_rate_all_learn_alike():
    with torch.device("meta"):
        model = aot.build("aot-t")
    assert {g["base_lr"] for g in parameter_groups(model, lr=3.0, weight_decay=0.0)} == {3.0}


def test_polynomial():
    at = lambda step: polynomial(step, 1.0, steps=1000, floor=0.1)  # noqa: E731
    assert at(0) == pytest.approx(0.1)
    assert at(25) == pytest.approx(0.55)
    assert at(50) == pytest.approx(1.0)
    assert at(525) == pytest.approx(0.1 + 0.9 * 0.5**0.9)
    assert at(1000) == pytest.approx(0.1)
    assert at(2000) == pytest.approx(0.1)
    assert all(at(step) > at(step + 1) for step in range(50, 1000))


def test_polynomial_at_the_edges():
    assert polynomial(0, 1.0, steps=1, floor=0.1) == 1.0  # no room for a warm-up
    assert polynomial(0, 1.0, steps=10, floor=0.0, warmup=0.0) == 1.0
    assert polynomial(5, 0.01, steps=10, floor=0.1) == pytest.approx(0.01)  # a rate below the floor stays itself


def test_stepped():
    rates = [stepped(step, 2.0, drops=(3, 5)) for step in range(7)]
    assert rates == pytest.approx([2, 2, 2, 0.2, 0.2, 0.02, 0.02])
    rising = [stepped(step, 2.0, drops=(4,), warmup=3) for step in range(6)]
    assert rising == pytest.approx([0.5, 1, 1.5, 2, 0.2, 0.2])


def test_other_rules_of_decay_and_encoders_inside_hosts():
    model = nn.ModuleDict({"host": nn.ModuleDict({"encoder": nn.Linear(2, 2), "pixel_decoder": nn.Linear(2, 2)})})
    groups = parameter_groups(
        model, lr=1.0, weight_decay=0.1, encoder_lr=0.5, decays=lambda name, p: name.endswith("bias")
    )
    assert decay_of(model, groups) == {
        "host.encoder.weight": (0.5, 0.0),
        "host.encoder.bias": (0.5, 0.1),
        "host.pixel_decoder.weight": (1.0, 0.0),
        "host.pixel_decoder.bias": (1.0, 0.1),
    }


def test_set_lr():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "base_lr": b} for b in (1.0, 2.0)]
    optimizer = torch.optim.AdamW(groups)
    set_lr(optimizer, lambda base: base * 3)
    assert [group["lr"] for group in optimizer.param_groups] == [3.0, 6.0]


def test_ema_is_the_formula():
    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    ema = Ema(model, 0.5)
    expected = 0.0
    for n, value in enumerate((1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0), 1):
        nn.init.constant_(model.weight, value)
        ema.update(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
        assert ema.average["weight"][0, 0].item() == pytest.approx(expected)
    ema.copy_to(model)
    assert model.weight[0, 0].item() == pytest.approx(expected)


def test_ema_leaves_the_model_and_frozen_parameters_alone():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    ema = Ema(model, 0.9)
    assert set(ema.average) == {"weight"}
    before = model.weight.detach().clone()
    with torch.no_grad():
        ema.average["weight"] += 1
    assert torch.equal(model.weight, before)
    ema.update(model)
    assert torch.equal(model.weight, before)


def test_ema_travels_by_its_state():
    model = nn.Linear(2, 2)
    one, other = Ema(model, 0.9), Ema(nn.Linear(2, 2), 0.9)
    one.update(model)
    other.load_state_dict(one.state_dict())
    assert other.updates == 1
    assert torch.equal(one.average["weight"], other.average["weight"])
    assert one.average["weight"].data_ptr() != other.average["weight"].data_ptr()


def test_ema_averages_the_statistics_too():
    """Those of the last step belong to other weights."""
    norm = nn.BatchNorm1d(1)
    ema = Ema(norm, 0.5)
    norm.running_mean.fill_(11.0)
    ema.update(norm)  # decay 2/11
    twin = nn.BatchNorm1d(1)
    ema.copy_to(twin)
    assert twin.running_mean.item() == pytest.approx(9.0)
    assert set(ema.average) == {"weight", "bias", "running_mean", "running_var"}  # the count of batches is a number
