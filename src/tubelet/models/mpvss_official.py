"""The names that the authors' checkpoints of MPVSS use for the parameters, and those of FlowNetS files for its encoder.

The segmentor's are those of Mask2Former (`mask2former_official.py`).
"""

import re

from torch import Tensor

from tubelet.models import mask2former_official

BLOCKS = r"^motion\.decoder\.transformer_(self_attention|ffn)_layers\.(\d+)\."
# From coarse to fine. The last flow's name has no number.
FLOWS = {"predict_flow6": 0, "predict_flow5": 1, "predict_flow4": 2, "predict_flow3": 3, "predict_flow": 4}
STEPS = {"5": 0, "4": 1, "3": 2, "2": 3}
MOTION = [
    (r"^motion\.encoder\.conv(\d)\.(\d)\.conv\.", lambda m: f"motion.pyramid.stages.{int(m[1]) - 1}.{m[2]}."),
    (r"^motion\.decoder\.(predict_flow\d?)\.conv\.", lambda m: f"motion.pixel.predict.{FLOWS[m[1]]}."),
    (r"^motion\.decoder\.upsample_flow(\d)\.conv\.", lambda m: f"motion.pixel.enlarge_flow.{STEPS[m[1]]}."),
    (r"^motion\.decoder\.deconv(\d)\.conv\.", lambda m: f"motion.pixel.enlarge.{STEPS[m[1]]}."),
    (BLOCKS + r"norm\.", lambda m: f"motion.blocks.{m[2]}." + ("feed_forward." if m[1] == "ffn" else "") + "norm."),
    (BLOCKS + r"self_attn\.in_proj_", r"motion.blocks.\2.attention.entrance."),
    (BLOCKS + r"self_attn\.out_proj\.", r"motion.blocks.\2.attention.projection."),
    (BLOCKS + r"linear1\.", r"motion.blocks.\2.feed_forward.expand."),
    (BLOCKS + r"linear2\.", r"motion.blocks.\2.feed_forward.reduce."),
    (r"^motion\.decoder\.decoder_norm\.", "motion.norm."),
    (r"^motion\.decoder\.output_head\.layers\.(\d)\.", lambda m: f"motion.vectors.{2 * int(m[1])}."),
    (r"^motion\.decoder\.scale_layer\.layers\.(\d)\.", lambda m: f"motion.places.{2 * int(m[1])}."),
    (r"^motion\.decoder\.query_embed\.weight$", "motion.query_position"),
    (r"^motion\.decoder\.level_embed\.weight$", "motion.level_embed"),
    (r"^motion\.decoder\.input_proj\.", "motion.entrances."),
    (r"^motion\.decoder\.fuse_layer\.conv\.", "motion.fuse."),
]


def looks_official(names: set[str]) -> bool:
    """Whether a state dict has the authors' names."""
    return any(name.startswith("motion.decoder.transformer_") for name in names)


def our_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict under our names. Raises `ValueError` as `mask2former_official.our_state` does."""
    theirs = {name: value for name, value in state.items() if not name.startswith("motion.")}
    segmentor = {f"segmentor.{name}": value for name, value in mask2former_official.our_state(theirs).items()}
    motion = {our_name(name): value for name, value in state.items() if name.startswith("motion.")}
    return segmentor | motion


def our_name(name: str) -> str:
    """Our name of a parameter of the flow module; one that is not known comes back as it is."""
    for pattern, replacement in MOTION:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def flownet_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's part, under our names (those of `FlowEncoder`), of a FlowNetS that was trained elsewhere: names as
    in mmtracking (`conv3.1.conv.weight`, also below `motion.encoder.`) or in FlowNetPytorch (`conv3_1.0.weight`).

    Raises `ValueError` if that is not what it holds. Channels are RGB, less the mean 0.411, 0.432, 0.450."""
    out = {}
    for name, value in state.items():
        found = re.search(r"(?:^|\.)conv([1-6])(?:_(1)|\.([01])(?=\.conv))?\.(?:0|conv)\.(weight|bias)$", name)
        if found:
            out[f"stages.{int(found[1]) - 1}.{found[2] or found[3] or 0}.{found[4]}"] = value
    if len(out) != 20:
        raise ValueError(
            f"this is no FlowNetS whose encoder can be read: {len(out)} of its 20 tensors were found; expected names "
            "like conv3.1.conv.weight or conv3_1.0.weight"
        )
    return out
