"""One name for every tensor of a video language model, whichever program saved it.

| transformers, dna-hf | VideoLLaMA3's own code | the authors' VisCoP |
|---|---|---|
| `model.vision_model.` | `model.vision_encoder.` | `model.vision_encoder.vision_encoder.` |
| `model.projector.` | `model.mm_projector.` | `model.mm_projector.` |
| `model.probe_projector.` | | `model.mm_projector_visual_probes.` |
| `model.language_model.` | `model.` | `model.` |
| `lm_head.` | `lm_head.` | `lm_head.` |

Within the encoder and within the language model all agree, but for the interaction
modules: see [`dna_hf.conversion.authors_viscop`].
"""

import re
from collections.abc import Iterable

from .errors import ConversionError


VISION, PROJECTOR, PROBE_PROJECTOR = "model.vision_model.", "model.projector.", "model.probe_projector."
LANGUAGE, HEAD = "model.language_model.", "lm_head."
PROBES, MODULES = "encoder.visual_probes", "encoder.interaction_modules."
# what PEFT puts before every name
PEFT = "base_model.model."
# in the order in which they are looked for
OWN_PREFIXES = {
    "model.vision_encoder.vision_encoder.": VISION,
    "model.vision_encoder.": VISION,
    "model.mm_projector_visual_probes.": PROBE_PROJECTOR,
    "model.mm_projector.": PROJECTOR,
}
NATIVE_PREFIXES = (VISION, PROJECTOR, PROBE_PROJECTOR, LANGUAGE, HEAD)
MODULE_NAMES = {"out_proj": "attention.o_proj", "neg_scalers": "attention.negative_scale"}


def native_name(name: str) -> str:
    """The name in dna-hf, and for what it has in transformers, too."""
    name = name.removeprefix(PEFT)
    if name.startswith(NATIVE_PREFIXES):
        return name
    for own, native in OWN_PREFIXES.items():
        if name.startswith(own):
            return native + _module_name(name.removeprefix(own))
    return LANGUAGE + name.removeprefix("model.") if name.startswith("model.") else name


def _module_name(name: str) -> str:
    found = re.fullmatch(r"(encoder\.interaction_modules\.\d+\.)(\w+)(\.weight|\.bias)?", name)
    if not found:
        return name
    place = MODULE_NAMES.get(found[2], f"attention.{found[2]}")
    return f"{found[1]}{place}{found[3] or ''}"


def own_name(name: str, viscop: bool = True) -> str:
    """The inverse of [`native_name`]: the name in VisCoP, or in VideoLLaMA3's own code."""
    prefixes = {native: own for own, native in OWN_PREFIXES.items()}
    prefixes[VISION] = "model.vision_encoder.vision_encoder." if viscop else "model.vision_encoder."
    for native, own in prefixes.items():
        if name.startswith(native):
            rest = name.removeprefix(native)
            if rest.startswith(MODULES):
                for inner, place in MODULE_NAMES.items():
                    rest = rest.replace(f".{place}", f".{inner}")
                rest = rest.replace(".attention.", ".")
            return own + rest
    return "model." + name.removeprefix(LANGUAGE) if name.startswith(LANGUAGE) else name


def places(source: str, names: Iterable[str]) -> dict[str, str]:
    """Which tensor of a source stands for each name of dna-hf.

    Raises:
        ConversionError: if two of them stand for the same.
    """
    found: dict[str, str] = {}
    for name in names:
        native = native_name(name)
        if native in found:
            raise ConversionError(f"{source!r} has both {found[native]!r} and {name!r}, which are the same tensor.")
        found[native] = name
    return found
