"""Names of tensors in world and tokenizer directories of format version 1, and their names today.

Version 2 renamed parameters. This map covers the tokenizers and priors that version 1 could hold; whatever comes later
adds nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Old name -> new name. A name is a dotted path or the beginning of one; * stands for a number. The first match counts.
_TOKENIZER = {
    "mean_picture": "mean_frame",
    "codebook.counts": "codebook.ema_counts",
    "codebook.sums": "codebook.ema_sums",
    # FrameTokenizer
    "encoder.*.wide": "encoder.*.conv3",
    "encoder.*.narrow": "encoder.*.conv1",
    "decoder.*.wide": "decoder.*.conv3",
    "decoder.*.narrow": "decoder.*.conv1",
    # ClipTokenizer
    "positions": "position_embed",
    "encoder.down": "encoder.down_convs",
    "encoder.out": "encoder.output_conv",
    "decoder.into": "decoder.input_conv",
    "decoder.up": "decoder.up_convs",
}
for _part in ("encoder", "decoder"):
    _TOKENIZER |= {
        f"{_part}.blocks.*.norm_wide": f"{_part}.blocks.*.norm_conv3",
        f"{_part}.blocks.*.wide": f"{_part}.blocks.*.conv3",
        f"{_part}.blocks.*.norm_narrow": f"{_part}.blocks.*.norm_conv1",
        f"{_part}.blocks.*.narrow": f"{_part}.blocks.*.conv1",
        f"{_part}.blocks.*.attention.*.qkv": f"{_part}.blocks.*.attention.*.qkv_proj",
        f"{_part}.blocks.*.attention.*.out": f"{_part}.blocks.*.attention.*.out_proj",
    }

_PRIOR = {
    # both priors
    "actions.project": "action_encoder.proj",
    "actions": "action_encoder",
    "heads.end_embedding": "heads.end_embed",
    "heads.status_embedding": "heads.status_embed",
    "heads.picture": "heads.code_embed",
    "heads.local": "heads.code_conv",
    # FactoredPrior
    "embed": "code_embed",
    "positions": "position_embed",
    "status": "status_embed",
    "mixes": "trunk_convs",
    "bridge": "decoder_proj",
    "written": "previous_group_embed",
    "places": "place_embed",
    "logits": "code_head",
    "prejudice": "place_bias",
    "rare": "rare_codes",
    "mixture.vectors": "mixture.component_embed",
    "mixture.chances": "mixture.component_head",
    # FlatPrior
    "nothing": "initial_summary",
    "act": "transition",
    "network.start": "transformer.start_token",
    "network.embed": "transformer.code_embed",
    "network.previous": "transformer.previous_frame_embed",
    "network.lines": "transformer.row_embed",
    "network.columns": "transformer.column_embed",
    "network.times": "transformer.time_embed",
    "network.logits": "transformer.code_head",
    "network.prejudice": "transformer.place_bias",
    "network.blocks.*.qkv": "transformer.blocks.*.qkv_proj",
    "network.blocks.*.out": "transformer.blocks.*.out_proj",
    "network.blocks.*.widen": "transformer.blocks.*.up_proj",
    "network.blocks.*.narrow": "transformer.blocks.*.down_proj",
    "network": "transformer",
}
for _part in ("trunk_blocks", "decoder_blocks"):
    _PRIOR |= {
        f"{_part}.*.attention.qkv": f"{_part}.*.attention.qkv_proj",
        f"{_part}.*.attention.out": f"{_part}.*.attention.out_proj",
        f"{_part}.*.widen": f"{_part}.*.up_proj",
        f"{_part}.*.narrow": f"{_part}.*.down_proj",
    }


def rename_tokenizer_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a tokenizer of version 1 with today's names."""
    return {_rename(name, _TOKENIZER): tensor for name, tensor in weights.items()}


def rename_world_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `WorldModel` of version 1 with today's names."""
    renamed = {}
    for name, tensor in weights.items():
        module, _, rest = name.partition(".")
        names = {"tokenizer": _TOKENIZER, "prior": _PRIOR}.get(module, {})
        renamed[f"{module}.{_rename(rest, names)}"] = tensor
    return renamed


def _rename(name: str, names: Mapping[str, str]) -> str:
    """A tensor's new name; the same name if it was not renamed."""
    for old, new in names.items():
        match = re.match(re.escape(old).replace(r"\*", r"(\d+)") + r"(?=\.|$)", name)
        if match:
            for number in match.groups():
                new = new.replace("*", number, 1)
            return new + name[match.end() :]
    return name
