"""Sizes that every family of the zoo shares.

They are distinct wherever the architecture allows, so that axes cannot be confused: hidden 32,
MLP 80, vocabulary 101, positions 40, patches 16, labels 7, projection 24.
"""

from __future__ import annotations

from collections.abc import Mapping

HIDDEN, MLP, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 32, 80, 2, 4, 2, 8
VOCAB, POSITIONS, LABELS, PROJECTION, FEATURES, MEMORY = 101, 40, 7, 24, 13, 11
IMAGE, PATCH = 24, 6
FRAMES, MELS = 40, 16
END_OF_TEXT = VOCAB - 1
SMALL, LARGE, SAMPLE = (1, 5), (3, 11), (2, 6)  # (batch, sequence)
PADDING = 3  # masked positions at the end of the last row of the large inputs

# Axes of every input; a name is a dynamic axis.
Shape = tuple[int | str, ...]
INPUTS: Mapping[str, Shape] = {
    "input_ids": ("batch", "sequence"),
    "attention_mask": ("batch", "sequence"),
    "token_type_ids": ("batch", "sequence"),
    "decoder_input_ids": ("batch", "target"),
    "decoder_attention_mask": ("batch", "target"),
    "pixel_values": ("batch", 3, IMAGE, IMAGE),
    "noise": ("batch", (IMAGE // PATCH) ** 2),
    "input_features": ("batch", MELS, FRAMES),
    "input_values": ("batch", "samples"),
    "src": ("batch", "sequence", FEATURES),
    "memory": ("batch", "target", MEMORY),
}


def dimensions(batch: int, sequence: int) -> dict[str, int]:
    """Return the size of every dynamic axis at a batch and sequence size, all different."""
    return {
        "batch": batch,
        "sequence": sequence,
        "target": sequence + 2,
        "past": sequence + 3,
        "total": 2 * sequence + 3,
        "images": batch + 1,  # not as many images as texts
        "samples": 96 + 32 * sequence,
    }
