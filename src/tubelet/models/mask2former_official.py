"""The names that the authors' checkpoints use for the parameters of Mask2Former, for images and for video.

The two have the same names, so image weights load into a video model as they are.
"""

import re

from torch import Tensor

from tubelet.nn.swin import relative_position_index

ENCODER = [
    (r"^backbone\.stem\.conv1\.norm\.", "encoder.net.bn1."),
    (r"^backbone\.stem\.", "encoder.net."),
    (r"^backbone\.res(\d)\.", lambda found: f"encoder.net.layer{int(found[1]) - 1}."),  # stages count from 2
    (r"^(encoder\.net\.layer.*)\.shortcut\.norm\.", r"\1.downsample.1."),
    (r"^(encoder\.net\.layer.*)\.shortcut\.", r"\1.downsample.0."),
    (r"^(encoder\.net\.layer.*)\.conv(\d)\.norm\.", r"\1.bn\2."),
    (r"^backbone\.norm(\d)\.", r"encoder.norms.\1."),
    (r"^backbone\.", "encoder."),
]
PIXEL_DECODER = [
    (r"^sem_seg_head\.pixel_decoder\.", "pixel_decoder."),
    (r"^pixel_decoder\.input_proj\.", "pixel_decoder.entrances."),
    (r"^pixel_decoder\.transformer\.level_embed$", "pixel_decoder.level_embed"),
    (r"^pixel_decoder\.transformer\.encoder\.layers\.", "pixel_decoder.layers."),
    (r"^(pixel_decoder\.layers\.\d+)\.self_attn\.sampling_offsets\.", r"\1.attention.offsets."),
    (r"^(pixel_decoder\.layers\.\d+)\.self_attn\.attention_weights\.", r"\1.attention.weights."),
    (r"^(pixel_decoder\.layers\.\d+)\.self_attn\.value_proj\.", r"\1.attention.value."),
    (r"^(pixel_decoder\.layers\.\d+)\.self_attn\.output_proj\.", r"\1.attention.projection."),
    (r"^(pixel_decoder\.layers\.\d+)\.norm1\.", r"\1.attention_norm."),
    (r"^(pixel_decoder\.layers\.\d+)\.norm2\.", r"\1.feed_forward.norm."),
    (r"^(pixel_decoder\.layers\.\d+)\.linear1\.", r"\1.feed_forward.expand."),
    (r"^(pixel_decoder\.layers\.\d+)\.linear2\.", r"\1.feed_forward.reduce."),
    (r"^pixel_decoder\.adapter_1\.norm\.", "pixel_decoder.lateral_norm."),
    (r"^pixel_decoder\.adapter_1\.", "pixel_decoder.lateral."),
    (r"^pixel_decoder\.layer_1\.norm\.", "pixel_decoder.smooth_norm."),
    (r"^pixel_decoder\.layer_1\.", "pixel_decoder.smooth."),
]
DECODER = [
    (r"^sem_seg_head\.predictor\.", "decoder."),
    (r"^decoder\.(query_feat|static_query)\.weight$", "decoder.query_content"),
    (r"^decoder\.query_embed\.weight$", "decoder.query_position"),
    (r"^decoder\.level_embed\.weight$", "decoder.level_embed"),
    (r"^decoder\.decoder_norm\.", "decoder.heads.norm."),
    (r"^decoder\.class_embed\.", "decoder.heads.class_embed."),
    (r"^decoder\.mask_embed\.layers\.", "decoder.heads.mask_embed."),
    (r"^decoder\.transformer_cross_attention_layers\.(\d+)\.norm\.", r"decoder.layers.\1.cross_norm."),
    (r"^decoder\.transformer_cross_attention_layers\.(\d+)\.multihead_attn\.", r"decoder.layers.\1.cross_attention."),
    (r"^decoder\.transformer_self_attention_layers\.(\d+)\.norm\.", r"decoder.layers.\1.self_norm."),
    (r"^decoder\.transformer_self_attention_layers\.(\d+)\.self_attn\.", r"decoder.layers.\1.self_attention."),
    (r"^decoder\.transformer_ffn_layers\.(\d+)\.norm\.", r"decoder.layers.\1.feed_forward.norm."),
    (r"^decoder\.transformer_ffn_layers\.(\d+)\.linear1\.", r"decoder.layers.\1.feed_forward.expand."),
    (r"^decoder\.transformer_ffn_layers\.(\d+)\.linear2\.", r"decoder.layers.\1.feed_forward.reduce."),
    (r"^(decoder\..*_attention)\.in_proj_", r"\1.entrance."),
    (r"^(decoder\..*_attention)\.out_proj\.", r"\1.projection."),
]
UNUSED = ("criterion.empty_weight", "pixel_mean", "pixel_std")  # of the loss and of the input, not of the network


def our_name(name: str) -> str | None:
    """Our name of an official parameter; None for one that no computation reads.

    A name that is not known comes back unchanged or nearly so, for the strict loading to complain about."""
    if name in UNUSED or name.endswith(("relative_position_index", "num_batches_tracked")):
        return None
    for pattern, replacement in (*ENCODER, *PIXEL_DECODER, *DECODER):
        name = re.sub(pattern, replacement, name)
    return name


def looks_official(names: set[str]) -> bool:
    """Whether a state dict has the authors' names."""
    return any(name.startswith("sem_seg_head.") for name in names)


def our_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict under our names.

    Raises `ValueError` if two of its entries are the same parameter, or a Swin numbers its displacements otherwise."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith("relative_position_index") and not _usual_index(value):
            raise ValueError(f"{name} numbers the displacements of a window in another order than Swin does")
        ours = our_name(name)
        if ours in out:
            raise ValueError(f"the checkpoint holds {ours} twice, once as {name}; it must be one or the other")
        if ours is not None:
            out[ours] = value
    return out


def _usual_index(index: Tensor) -> bool:
    expected = relative_position_index(round(index.numel() ** 0.25))
    return index.shape == expected.shape and bool((index == expected).all())
