"""The encoders of a bundle: where they are, and whether what is there is what the model was trained on.

A bundle names an encoder of the hub, or the last part of a folder's path: the whole path may name people. Where a folder
is on this machine is noted beside the bundles of a run, in RUN/bundles/encoders.json, by kind and revision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ser_memory.common.errors import SerError, listing
from ser_memory.common.files import write_whole
from ser_memory.extract.encoders import TextIdentity
from ser_memory.extract.neutral import NeutralText
from ser_memory.extract.settings import LAST, EncoderSettings
from ser_memory.train.bundle import Bundle, BundleInfo

PLACES = "encoders.json"
_KINDS = ("acoustic", "text")
_ROUNDING = 1e-5  # of means that two machines computed


def named(encoder: str) -> str:
    """How a bundle names an encoder: as the hub does, or by the last part of its path."""
    of_the_hub = (
        encoder.count("/") <= 1 and not encoder.startswith(("/", ".", "~")) and not Path(encoder).is_dir()
    )
    return encoder if of_the_hub else Path(encoder).name


def note_places(folder: Path, encoders: Mapping[str, str]) -> None:
    """Note in a folder of bundles where the encoders are that are folders; `encoders` are attributes of a cache."""
    found = {
        f"{kind} {encoders[f'{kind}_revision']}": str(Path(encoders[f"{kind}_encoder"]).resolve())
        for kind in _KINDS
        if Path(encoders[f"{kind}_encoder"]).is_dir()
    }
    if found:
        write_whole(folder / PLACES, json.dumps(found, indent=2) + "\n")


def place_of(bundle: Bundle, kind: str) -> str:
    """Where the acoustic or text encoder of a bundle was when it was written, or else its name."""
    key = f"{kind} {bundle.info.encoders[f'{kind}_revision']}"
    for parent in bundle.folder.resolve().parents:
        with suppress(OSError, ValueError, AttributeError):
            place = json.loads((parent / PLACES).read_text(encoding="utf-8")).get(key)
            if isinstance(place, str):
                return place
    return bundle.info.encoders[f"{kind}_encoder"]


def encoder_settings(
    bundle: Bundle,
    acoustic_encoder: str | None = None,
    text_encoder: str | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> EncoderSettings:
    """The settings with which stage 1 makes rows for a bundle; the encoders may be in other places than the bundle says."""
    info, told = bundle.info, bundle.info.encoders
    one_layer = info.layer is not None and info.layer.isdigit()
    return EncoderSettings(
        acoustic_encoder=acoustic_encoder or place_of(bundle, "acoustic"),
        text_encoder=text_encoder or place_of(bundle, "text"),
        layers=str(info.layer) if one_layer else told.get("acoustic_layers", LAST),
        pooling=told["acoustic_pooling"],
        precision=info.precision,
        device=device,
        workers=workers,
    )


def neutral_text(bundles: Sequence[Bundle]) -> NeutralText:
    """What stands for the texts of a corpus without any, of the bundles of several seeds.

    Raises SerError if their neutral texts differ, since the corpus gets one cache for all of them.
    """
    first = bundles[0]
    for other in bundles[1:]:
        if not np.allclose(other.neutral_text, first.neutral_text, rtol=_ROUNDING, atol=_ROUNDING):
            raise SerError(
                f"The bundles of seeds {listing(each.info.seed for each in bundles)} learned from different texts, so that "
                "none of their neutral texts stands for all: adapt each with --seed and an --output of its own."
            )
    told = first.info.encoders
    identity = TextIdentity(place_of(first, "text"), told["text_revision"], told["text_pooling"])
    return NeutralText(first.neutral_text, identity)


def refuse_other_encoder(info: BundleInfo, kind: str, attributes: Mapping[str, str]) -> None:
    """Raise SerError if an encoder, acoustic or text, has another revision or pooling than that of the training.

    `attributes` are those of a cache that the encoder would make.
    """
    for what in ("revision", "pooling"):
        trained, here = info.encoders[f"{kind}_{what}"], attributes[f"{kind}_{what}"]
        if trained != here:
            raise SerError(
                f"The {kind} encoder {attributes[f'{kind}_encoder']} has the {what} {here}, and the bundle was trained on "
                f"{trained} of {info.encoders[f'{kind}_encoder']}: give the folder of that one with --{kind}-encoder."
            )
