"""vision_config and preprocessor_config.json of the Qwens that see, as their repositories have them but for sizes."""

from __future__ import annotations

from tests.support.sights import CLIP_COLORS, PLAIN_COLORS, SCALED

PICTURES_2 = {
    **SCALED,
    **CLIP_COLORS,
    "max_pixels": 12845056,
    "merge_size": 2,
    "min_pixels": 3136,
    "patch_size": 14,
    "temporal_patch_size": 2,
}
PICTURES_3 = {**PICTURES_2, **PLAIN_COLORS, "patch_size": 16}
# The converter knows the second matrix of the merger in encoders of at least three layers.
_VISION = {"depth": 4, "num_heads": 2, "spatial_merge_size": 2, "temporal_patch_size": 2}
VISION_2 = {
    **_VISION,
    "embed_dim": 32,
    "hidden_act": "quick_gelu",
    "hidden_size": 256,
    "in_chans": 3,
    "mlp_ratio": 4,
    "patch_size": 14,
}
VISION_2_5 = {
    **_VISION,
    "fullatt_block_indexes": [1, 3],
    "hidden_act": "silu",
    "hidden_size": 32,
    "in_chans": 3,
    "intermediate_size": 48,
    "out_hidden_size": 256,
    "patch_size": 14,
    "window_size": 112,
}
VISION_3_5 = {
    **_VISION,
    "deepstack_visual_indexes": [],
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "in_channels": 3,
    "intermediate_size": 48,
    "num_position_embeddings": 16,
    "out_hidden_size": 256,
    "patch_size": 16,
}
VISION_3 = {**VISION_3_5, "deepstack_visual_indexes": [1, 3]}
