"""The names that the authors' checkpoints use for our parameters (reference layout: AOT `main`, AOTv2/AOST `paot`)."""

import re

from torch import Tensor

LSTT = [
    (r"^encoder_projector\.", "projector."),
    (r"^patch_wise_id_bank\.", "identity_bank."),
    (r"^id_norm\.", "identity_norm."),
    (r"^LSTT\.layer\.", "LSTT.layers.0."),
    (r"^LSTT\.decoder_norm\.", "LSTT.decoder_norms.0."),
    (r"^LSTT\.layers\.", "lstt.blocks."),
    (r"^LSTT\.decoder_norms\.", "lstt.norms."),
    (r"\.self_attn\.linear_Q\.", ".self_attention.query."),
    (r"\.self_attn\.linear_K\.", ".self_attention.key."),
    (r"\.self_attn\.linear_V\.", ".self_attention.value."),
    (r"\.self_attn\.projection\.", ".self_attention.projection."),
    (r"\.linear_Q\.", ".identity.match_key."),
    (r"\.linear_V\.", ".identity.value."),
    (r"\.linear_QV\.", ".identity.match_key_value."),
    (r"\.linear_ID_KV\.", ".identity.identity_gate_value."),
    (r"\.long_term_attn\.projection\.", ".long_projection."),
    (r"\.short_term_attn\.relative_emb_k\.", ".short_attention.relative_key."),
    (r"\.short_term_attn\.relative_emb_v$", ".short_attention.relative_value"),
    (r"\.short_term_attn\.projection\.", ".short_attention.projection."),
    (r"\.linear1\.", ".feed_forward.expand."),
    (r"\.activation\.gn\.", ".feed_forward.norm."),
    (r"\.activation\.conv\.", ".feed_forward.conv."),
    (r"\.linear2\.", ".feed_forward.reduce."),
]
DECODER = [
    (r"^decoder\.conv_in\.(\d)\.", r"decoder.entrances.\1."),
    (r"^decoder\.conv_in\.", "decoder.entrances.0."),
    (r"^decoder\.conv_out\.", "decoder.out."),
    (r"^decoder\.conv_(\d+)x\.", r"decoder.conv\1."),
    (r"^decoder\.adapter_(\d+)x\.", r"decoder.adapter\1."),
    (r"^(decoder\..*)\.gn\.", r"\1.norm."),
]
RESNET = [(r"^encoder\.(conv1|bn1|layer\d)", r"encoder.net.\1")]
SWIN = [(r"^encoder\.norm(\d)\.", r"encoder.norms.\1.")]

# Torchvision numbers MobileNetV2's blocks 1..17 through; timm by stage and block.
MOBILENET_STAGES = (1, 2, 3, 4, 3, 3, 1)
MOBILENET_BLOCK = {
    "0.0": "conv_pw",
    "0.1": "bn1",
    "1.0": "conv_dw",
    "1.1": "bn2",
    "2": "conv_pwl",
    "3": "bn3",
}
MOBILENET_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}

# The last stage of a ResNet and of a Swin, which the encoder lacks, and the heads of classifiers.
BEYOND = ("layer4.", "fc.", "classifier.", "layers.2.downsample.", "layers.3.", "norm.", "head.")
UNUSED = ("LSTT.mask_token",)  # in AOT checkpoints since December 2022, read by nothing


def mobilenet_name(name: str) -> str:
    """`encoder.features.*` of torchvision -> ours; other names unchanged."""
    found = re.match(r"^encoder\.features\.(\d+)\.(?:conv\.)?(.*)\.(\w+)$", name)
    if not found:
        return name
    index, part, kind = int(found[1]), found[2], found[3]
    if index in (0, 18):
        part = {"0.0": "conv_stem", "0.1": "bn1", "18.0": "conv_head", "18.1": "bn2"}[f"{index}.{part}"]
        return f"encoder.net.{part}.{kind}"
    stage, block = next(
        (s, index - 1 - sum(MOBILENET_STAGES[:s]))
        for s in range(len(MOBILENET_STAGES))
        if index - 1 < sum(MOBILENET_STAGES[: s + 1])
    )
    part = (MOBILENET_FIRST if index == 1 else MOBILENET_BLOCK)[part]
    return f"encoder.net.blocks.{stage}.{block}.{part}.{kind}"


def our_name(name: str) -> str | None:
    """Our name of an official parameter; None for one that no computation reads.

    A name that is not known comes back unchanged, for the strict loading to complain about."""
    if name in UNUSED or name.endswith(("relative_position_index", "num_batches_tracked")):
        return None
    name = mobilenet_name(name)
    for pattern, replacement in (*LSTT, *DECODER, *RESNET, *SWIN):
        name = re.sub(pattern, replacement, name)
    return name


def encoder_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An ImageNet classifier's weights (torchvision's MobileNetV2 or ResNet, the authors' Swin) under the names of our
    encoder, without what a classifier has beyond the encoder's last map."""
    kept = {key: value for key, value in state.items() if not key.startswith(BEYOND) and not key.endswith("attn_mask")}
    named = {our_name(f"encoder.{key}"): value for key, value in kept.items()}
    return {name.removeprefix("encoder."): value for name, value in named.items() if name is not None}


def looks_official(names: set[str]) -> bool:
    """Whether a state dict has the authors' names."""
    return any(name.startswith(("LSTT.", "patch_wise_id_bank.")) for name in names)
