"""The encoders of a bundle: where they are, and whether what is there is what the model was trained on."""

from __future__ import annotations

from collections.abc import Mapping

from ser_memory.common.errors import SerError
from ser_memory.extract.settings import LAST, EncoderSettings
from ser_memory.train.bundle import BundleInfo


def encoder_settings(
    info: BundleInfo,
    acoustic_encoder: str | None = None,
    text_encoder: str | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> EncoderSettings:
    """The settings with which stage 1 makes rows for a bundle; the encoders may be in other places than the bundle says."""
    told = info.encoders
    one_layer = info.layer is not None and info.layer.isdigit()
    return EncoderSettings(
        acoustic_encoder=acoustic_encoder or told["acoustic_encoder"],
        text_encoder=text_encoder or told["text_encoder"],
        layers=str(info.layer) if one_layer else told.get("acoustic_layers", LAST),
        pooling=told["acoustic_pooling"],
        precision=info.precision,
        device=device,
        workers=workers,
    )


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
