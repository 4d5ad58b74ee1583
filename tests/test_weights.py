"""Weights files: ours and official ones, strictly; what is wrong with any other."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tubelet import weights
from tubelet.models.aot import model as aot
from tubelet.models.aot.official import looks_official, our_name

PARITY = Path(__file__).parent / "parity" / "aot"


@pytest.fixture(scope="module")
def aott() -> aot.AOT:
    torch.manual_seed(0)
    return aot.build("aot-t").eval()


@pytest.fixture(scope="module")
def official(aott) -> dict[str, torch.Tensor]:
    """The weights of `aott` under the authors' names, with the mask token and counters that nothing reads."""
    layout = json.loads((PARITY / "aott.layout.json").read_text())
    state, out = aott.state_dict(), {}
    for name in layout:
        ours = our_name(name)
        out[name] = torch.zeros(layout[name] or [1]) if ours is None else state[ours].clone()
    return out | {"LSTT.mask_token": torch.zeros(1, 1, 256)}


def fresh(name: str = "aot-t") -> aot.AOT:
    torch.manual_seed(1)
    return aot.build(name)


def fill(state: dict, name: str = "aot-t") -> aot.AOT:
    model = fresh(name)
    weights.fill(model, state, name=name, source="x.pth")
    return model


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def flow_is_there() -> bool:
    return (Path(aot.__file__).parent.parent / "flow.py").is_file()


needs_flow = pytest.mark.skipif(not flow_is_there(), reason="load() imports models.flow")


# ---- what is read


@pytest.mark.parametrize("container", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_containers_and_prefix(aott, official, tmp_path, container, prefix):
    state = {prefix + name: x for name, x in official.items()}
    content = state if container is None else {container: state, "optimizer": {"lr": 0.1}, "step": 3}
    torch.save(content, tmp_path / "x.pth")
    assert same(fill(weights.read_state(tmp_path / "x.pth")), aott)


def test_ours_in_every_format(aott, tmp_path):
    weights.save(aott, tmp_path / "x.safetensors", metadata={"model": "aot-t"})
    torch.save(aott.state_dict(), tmp_path / "x.pth")
    assert same(fill(weights.read_state(tmp_path / "x.safetensors")), aott)
    assert same(fill(weights.read_state(tmp_path / "x.pth")), aott)
    assert weights.read_metadata(tmp_path / "x.safetensors") == {"model": "aot-t"}
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["x.pth", "x.safetensors"]


def test_half_precision_files(aott, tmp_path):
    weights.save(aott, tmp_path / "x.safetensors", half=True)
    state = weights.read_state(tmp_path / "x.safetensors")
    assert {x.dtype for x in state.values()} == {torch.float16}
    model = fill(state)
    assert {x.dtype for x in model.state_dict().values()} == {torch.float32}
    for a, b in zip(model.state_dict().values(), aott.state_dict().values()):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)
    assert (tmp_path / "x.safetensors").stat().st_size < 13e6


def test_learned_statistics_fit_frozen_ones(tmp_path):
    """Training from scratch learns the batch statistics; what uses the file has them fixed."""
    torch.manual_seed(0)
    trained = aot.build("aot-t", frozen_norm=False)
    trained.encoder.train()(torch.randn(2, 3, 33, 33))
    trained.eval()
    weights.save(trained, tmp_path / "x.safetensors")
    model = fill(weights.read_state(tmp_path / "x.safetensors")).eval()
    image = torch.randn(1, 3, 33, 33)
    with torch.inference_mode():
        for a, b in zip(model.encoder(image), trained.encoder(image)):
            torch.testing.assert_close(a, b)
    weights.fill(aot.build("aot-t", frozen_norm=False), model.state_dict(), name="aot-t", source="x")


def test_a_training_checkpoint_can_be_used(aott, tmp_path):
    torch.save({"step": 3, "model": aott.state_dict(), "numbers": {"seconds": 1.0}}, tmp_path / "last.pt")
    assert same(fill(weights.read_state(tmp_path / "last.pt")), aott)


# ---- what does not fit


def refused(state: dict, name: str = "aot-t") -> str:
    model = fresh(name)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    with pytest.raises(ValueError) as error:  # noqa: PT011
        weights.fill(model, state, name=name, source="x.pth")
    assert all(torch.equal(before[key], x) for key, x in model.state_dict().items())  # nothing was half-loaded
    return str(error.value)


def test_a_missing_key(official):
    state = {name: x for name, x in official.items() if name != "decoder.conv_out.bias"}
    message = refused(state)
    assert message.startswith("x.pth does not fit aot-t: 1 of ")
    assert "parameters are missing (first decoder.out.bias)" in message


def test_an_extra_key(official):
    message = refused(official | {"decoder.conv_2x.conv.weight": torch.zeros(1)})
    assert "1 keys are unknown (first decoder.conv2.conv.weight)" in message


def test_a_wrong_shape(official):
    message = refused(official | {"decoder.conv_out.bias": torch.zeros(21)})
    assert "1 have another shape (first decoder.out.bias: (21,), expected (11,))" in message


@pytest.mark.parametrize("name", ["aot-s", "r50-aot-l", "swinb-aost", "aost-share"])
def test_another_of_the_family_is_named(name):
    with torch.device("meta"):
        state = aot.build(name).state_dict()
    assert f"it looks like {name}" in refused(state)


def test_an_official_file_of_another_variant_is_named():
    layout = json.loads((PARITY / "r50_aotl.layout.json").read_text())
    state = {name: torch.zeros(shape or [1]) for name, shape in layout.items()}
    assert "it looks like r50-aot-l" in refused(state)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("LSTT.layers.0.linear_U.weight", "a DeAOT checkpoint"),
        ("sem_seg_head.predictor.query_feat.weight", "Mask2Former"),
        ("image_encoder.trunk.pos_embed", "SAM 2"),
        ("image_encoder.blocks.0.attn.qkv.weight", "Segment Anything"),
        ("pixel_encoder.conv1.weight", "Cutie"),
        ("key_encoder.conv1.weight", "XMem"),
        ("layers.0.blocks.0.attn.qkv.weight", "bare Swin"),
        ("features.0.0.weight", "bare MobileNetV2"),
        ("layer1.0.conv1.weight", "bare ResNet"),
        ("something.else", "none of the models"),
    ],
)
def test_other_architectures_are_named(key, sentence):
    assert sentence in refused({key: torch.zeros(1)})


def test_a_text_file(tmp_path):
    (tmp_path / "x.pth").write_text("<html>Google Drive: file too large to scan</html>")
    with pytest.raises(ValueError, match=r"x\.pth is not a checkpoint that can be read safely"):
        weights.read_state(tmp_path / "x.pth")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no weights file"):
        weights.read_state(tmp_path / "x.pth")
    with pytest.raises(FileNotFoundError, match="there is no weights file"):
        weights.read_state(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_a_truncated_safetensors_file(aott, tmp_path, kept):
    weights.save(aott, tmp_path / "x.safetensors")
    path = tmp_path / "y.safetensors"
    path.write_bytes((tmp_path / "x.safetensors").read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"y\.safetensors is not a whole safetensors file"):
        weights.read_state(path)


def test_a_truncated_checkpoint(official, tmp_path):
    torch.save(official, tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:-1000])
    with pytest.raises(ValueError, match="is not a checkpoint"):
        weights.read_state(tmp_path / "x.pth")


class Evil:
    def __reduce__(self):
        return (print, ("code was run",))


def test_no_code_is_run(tmp_path, capsys):
    torch.save({"state_dict": {"a": Evil()}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="read safely"):
        weights.read_state(tmp_path / "x.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {}}, torch.zeros(2), {"epoch": 3}])
def test_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        weights.read_state(tmp_path / "x.pth")


# ---- converting and loading


@torch.inference_mode()
def test_convert_then_load_gives_the_same_outputs(aott, official, tmp_path):
    torch.save({"state_dict": official}, tmp_path / "x.pth")
    count = weights.convert(tmp_path / "x.pth", "aot-t", tmp_path / "x.safetensors")
    assert count == 5_733_843
    model = fill(weights.read_state(tmp_path / "x.safetensors")).eval()
    image = torch.randn(1, 3, 33, 33)
    torch.testing.assert_close(model.encode_image(image).tokens, aott.encode_image(image).tokens, atol=0, rtol=0)
    assert weights.read_metadata(tmp_path / "x.safetensors")["model"] == "aot-t"


def test_what_cannot_be_converted_leaves_no_file(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        weights.convert(tmp_path / "x.safetensors", "aot-t", tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match="no weights to convert"):
        weights.convert(tmp_path / "x.safetensors", "dis-flow", tmp_path / "y.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_official_names_are_recognised(official, aott):
    assert looks_official(set(official))
    assert not looks_official(set(aott.state_dict()))


@pytest.mark.parametrize(
    ("name", "near"), [("aots", "aot-s"), ("AOST", "aost"), ("r50-aotl", "r50-aot-l"), ("disflow", "dis-flow")]
)
def test_near_names(name, near):
    with pytest.raises(ValueError, match=f"there is no model '{name}'; did you mean '{near}'?"):
        weights.check_name(name)


def test_a_name_near_to_nothing():
    with pytest.raises(ValueError, match=r"there is no model 'qqq'; `tubelet list`"):
        weights.check_name("qqq")


@needs_flow
def test_load(aott, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    with pytest.raises(ValueError, match="no trained weights come with 'aot-t'"):
        weights.load("aot-t")
    with pytest.raises(ValueError, match="did you mean 'aot-t'"):
        weights.load("aott")
    with pytest.warns(UserWarning, match="random weights: its masks mean nothing"):
        assert not weights.load("aot-t", "random").training
    weights.save(aott, tmp_path / "aot-t.safetensors")
    model = weights.load("aot-t")
    assert same(model, aott)
    assert not model.training
    with pytest.raises(ValueError, match="it looks like aot-t"):
        weights.load("aost", tmp_path / "aot-t.safetensors")


@needs_flow
def test_load_without_training():
    assert weights.load("dis-flow") is not None
    with pytest.raises(ValueError, match="takes no weights"):
        weights.load("dis-flow", "x.pth")


def test_devices():
    assert weights.check_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="'gpu' is not a device"):
        weights.check_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="CUDA was asked for"):
            weights.check_device("cuda:1")
    else:
        with pytest.raises(ValueError, match="there are only"):
            weights.check_device("cuda:99")
    if not torch.backends.mps.is_available():
        with pytest.raises(ValueError, match="no Apple GPU"):
            weights.check_device("mps")
