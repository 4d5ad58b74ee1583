"""Weights files: ours and official ones, strictly; what is wrong with any other."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from tubelet import weights
from tubelet.models import mask2former
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
        ("vita_module.query_feat.weight", "a VITA or GenVIS checkpoint"),
        ("sem_seg_head.predictor.reid_embed.layers.0.weight", "a CTVIS checkpoint"),
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


# ---- Mask2Former

M2F = "mask2former-vis-r50"


@pytest.fixture(scope="module")
def zoo() -> dict[str, torch.Tensor]:
    """A Mask2Former of 40 classes under the authors' names, as in their model zoo."""
    layout = json.loads((PARITY.parent / "mask2former_vis" / "r50.layout.json").read_text())
    torch.manual_seed(0)
    state = {name: 0.1 * torch.randn(shape) for name, shape in layout.items() if shape is not None}
    return state | {"criterion.empty_weight": torch.ones(41)}


def with_classes(state: dict, classes: int) -> dict:
    head = "sem_seg_head.predictor.class_embed."
    return state | {head + "weight": torch.ones(classes + 1, 256), head + "bias": torch.ones(classes + 1)}


@pytest.fixture(scope="module")
def zoo_file(zoo, tmp_path_factory) -> Path:
    """The COCO model of the zoo: a pickle of arrays, 80 classes, the old name of the queries."""
    path = tmp_path_factory.mktemp("zoo") / "model_final.pkl"
    state = {name.replace("query_feat", "static_query"): x.numpy() for name, x in with_classes(zoo, 80).items()}
    path.write_bytes(pickle.dumps({"model": state, "__author__": "third party"}, protocol=4))
    return path


def test_a_zoo_file_is_loaded_with_its_own_classes(zoo, zoo_file, tmp_path):
    model = weights.load(M2F, zoo_file)
    assert model.classes == 80
    assert not model.training
    torch.testing.assert_close(model.decoder.query_content, zoo["sem_seg_head.predictor.query_feat.weight"])
    torch.testing.assert_close(model.decoder.heads.class_embed.bias, torch.ones(81))
    assert weights.convert(zoo_file, M2F, tmp_path / "x.safetensors") == 43_959_977 + 40 * 257
    assert same(weights.load(M2F, tmp_path / "x.safetensors"), model)


def test_another_number_of_classes_is_reported(zoo_file):
    with pytest.warns(UserWarning, match=r"is for 80 classes and .* was asked for 25: the class head was not loaded"):
        model = weights.load(M2F, zoo_file, classes=25)
    assert model.classes == 25
    assert model.decoder.heads.class_embed.bias.shape == (26,)
    assert (model.decoder.heads.class_embed.bias.abs() < 0.1).all()


def test_the_class_head_that_was_left_is_returned(zoo):
    model = mask2former.build(M2F)
    assert weights.fill(model, zoo, name=M2F, source="x.pth") == []
    with pytest.warns(UserWarning, match="has to be trained"):
        kept = weights.fill(model, with_classes(zoo, 80), name=M2F, source="x.pth")
    assert kept == ["decoder.heads.class_embed.weight", "decoder.heads.class_embed.bias"]


def meta_fill(state: dict, name: str, **options) -> str:
    with torch.device("meta"):
        model = mask2former.build(name, **options)
    with pytest.raises(ValueError, match="does not fit") as error:
        weights.fill(model, state, name=name, source="x.pth")
    return str(error.value)


def test_another_number_of_queries(zoo):
    assert "it has 100 queries where the model has 200; it looks like" in meta_fill(zoo, M2F, queries=200)


def test_mask2former_files_that_do_not_fit(zoo):
    assert f"it looks like {M2F}" in meta_fill(zoo, "mask2former-vis-swin-t")
    assert f"it looks like {M2F}" in meta_fill(with_classes(zoo, 25), "mask2former-vis-r101")
    assert "a VITA" in meta_fill(zoo | {"vita_module.fq_pos.weight": torch.ones(1)}, M2F)
    assert "1 of 557 parameters are missing" in meta_fill(
        {name: x for name, x in zoo.items() if name != "sem_seg_head.predictor.query_embed.weight"}, M2F
    )
    head = "sem_seg_head.predictor.class_embed.weight"
    assert "1 have another shape" in meta_fill(zoo | {head: torch.ones(41, 128)}, M2F)
    assert f"it looks like {M2F}" in refused(zoo)


def test_a_pickle_that_would_run_code(tmp_path, capsys):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": {"a": Evil()}}))
    with pytest.raises(ValueError, match=r"holds a builtins\.print, and running what a file asks for is not safe"):
        weights.read_state(tmp_path / "x.pkl")
    assert capsys.readouterr().out == ""


def test_pickles_of_other_things(tmp_path, zoo):
    path = tmp_path / "x.pkl"
    for content in ({"model": {"a": "text"}}, [np.zeros(2)], {}):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match="holds no state dict"):
            weights.read_state(path)
    path.write_bytes(pickle.dumps({"a": np.arange(3, dtype=">f4")}))  # big-endian
    assert weights.read_state(path)["a"].tolist() == [0, 1, 2]
    torch.save({"model": {"a": torch.ones(2)}}, path)  # torch's own format under this name
    assert weights.read_state(path)["a"].tolist() == [1, 1]


def test_classes_are_for_models_that_have_them(aott, tmp_path):
    weights.save(aott, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="aot-t knows no classes; leave out classes=3"):
        weights.load("aot-t", tmp_path / "x.safetensors", classes=3)


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


def test_syncvis_files(zoo, tmp_path):
    """Ours come back with their classes; what is the host's alone is named."""
    torch.manual_seed(0)
    name = "syncvis-r50"
    model = weights.build(name, 3)
    weights.save(model, tmp_path / "x.safetensors", half=True)
    back = weights.load(name, tmp_path / "x.safetensors")
    assert back.host.classes == 3
    torch.testing.assert_close(
        back.exchange.attention.entrance.weight, model.exchange.attention.entrance.weight.half().float()
    )
    with pytest.raises(ValueError, match=r"does not fit syncvis-r50: .* missing .*; it looks like mask2former-vis-r50"):
        weights.fill(weights.build(name), zoo, name=name, source="x.pth")
    with pytest.warns(UserWarning, match="is for 3 classes and syncvis-r50 was asked for 5"):
        assert weights.load(name, tmp_path / "x.safetensors", classes=5).host.classes == 5


def test_who_finds_objects():
    assert [weights.finds_objects(n) for n in ("dis-flow", "aost", M2F, "syncvis-swin-l")] == [False, False, True, True]


@pytest.mark.parametrize(("name", "classifier"), [("mobilenetv2", "mobilenet_v2"), ("r50", "resnet50")])
def test_imagenet_weights_of_torchvision(name, classifier):
    """Both networks answer the same; but for the strided last stage, which the encoder of MobileNetV2 dilates."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, classifier)(weights=None).eval()
    encoder = aot.build_encoder(name).eval()
    weights.fill_encoder(encoder, theirs.state_dict(), source="x.pth")
    images = torch.randn(1, 3, 65, 65)
    found = encoder(images)[2]
    if name == "r50":
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        expected = theirs.layer3(theirs.layer2(theirs.layer1(x)))
    else:
        expected = theirs.features[:14](images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_imagenet_weights_of_swin():
    encoder = aot.build_encoder("swinb")
    given = {key: value + 1 for key, value in encoder.state_dict().items() if not key.startswith("norms.")}
    beyond = ("layers.3.blocks.0.norm1.weight", "norm.weight", "head.bias", "layers.0.blocks.1.attn_mask")
    weights.fill_encoder(encoder, given | {key: torch.zeros(1) for key in beyond}, source="x.pth")
    assert all(torch.equal(value, given[key]) for key, value in encoder.state_dict().items() if key in given)
    assert torch.equal(encoder.state_dict()["norms.2.weight"], torch.ones(512))


def test_imagenet_weights_of_another_network(aott):
    other = torchvision.models.resnet18(weights=None).state_dict()
    with pytest.raises(ValueError, match=r"x\.pth does not fit the encoder"):
        weights.fill_encoder(aott.encoder, other, source="x.pth")
    less = torchvision.models.mobilenet_v2(weights=None).state_dict()
    del less["features.18.1.running_var"]
    with pytest.raises(ValueError, match=r"x\.pth does not fit the encoder.*net\.bn2\.running_var"):
        weights.fill_encoder(aott.encoder, less, source="x.pth")
