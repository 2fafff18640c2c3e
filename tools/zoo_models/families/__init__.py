"""The families of the zoo, one module per kind of architecture, one table."""

from collections.abc import Mapping
from dataclasses import replace

from zoo_models.families.audio import AUDIO
from zoo_models.families.caches import CACHES
from zoo_models.families.decoders import DECODERS
from zoo_models.families.encoders import ENCODERS
from zoo_models.families.forms import FORMS
from zoo_models.families.held_out import HELD_OUT
from zoo_models.families.plain import PLAIN
from zoo_models.families.seq2seq import SEQ2SEQ
from zoo_models.families.vision import VISION
from zoo_models.family import Family, merge

FRESH = ("vit-cls", "bert", "gpt2", "llama", "encoder-bf-post")
# nn.TransformerEncoder copies its layer, values and all.
COPIES = {
    "notes": (
        "equal layers, which the legacy exporter merges: one set of groups; dynamo merges their "
        "biases and output maps only",
    ),
    "exceptions": {
        "ts*": {"head": 1, "head_qk": 1, "head_vo": 1, "mlp": 1},
        "dy*": {"head": 1, "head_vo": 1, "mlp": 1},
    },
}


def _families() -> dict[str, Family]:
    known = merge(ENCODERS, DECODERS, CACHES, SEQ2SEQ, VISION, AUDIO, FORMS, PLAIN, HELD_OUT)
    fresh = {f"{name}-fresh": replace(known[name], noisy=False) for name in FRESH}
    name = "encoder-bf-post-fresh"
    fresh[name] = replace(fresh[name], nominal=replace(known["encoder-bf-post"].nominal, **COPIES))
    return merge(known, fresh)


FAMILIES: Mapping[str, Family] = _families()
