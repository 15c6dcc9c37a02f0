"""Untrained bundles of any encoders, for tests of what is done with a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ser_memory.extract.encoders import EncoderOptions, identify_text, load_acoustic
from ser_memory.train.bundle import Bundle, BundleInfo, Seen, model_of
from ser_memory.train.bundle_files import write_bundle
from ser_memory.train.model import Architecture, Network
from ser_memory.train.runs import NO_SAMPLER
from ser_memory.train.strategies.base import Kept

_CORPORA = ("msp-podcast", "msp-improv")


def untrained(
    acoustic: str, text: str, options: EncoderOptions | None = None, layer: str | None = None, strategy: str = "finetune",
    **changes: Any,
) -> Bundle:  # fmt: skip
    """A bundle of these encoders' folders, in memory; `changes` are of the architecture."""
    options = options or EncoderOptions()
    encoder = load_acoustic(acoustic, options=options)
    random = np.random.default_rng(0)
    noise = [(0.05 * random.standard_normal(48_000)).astype(np.float32) for _ in range(8)]
    rows = encoder.encode(noise).numpy()
    if encoder.layers is not None:
        rows = rows.mean(axis=1)
    texts = random.standard_normal((len(_CORPORA), 32)).astype(np.float32)
    weighted = len(encoder.layers or ()) if layer == "weighted" else 0
    architecture = Architecture(
        rows.shape[1], texts.shape[1], trunk_width=16, head_width=8, layers=weighted, **changes
    )
    info = BundleInfo(
        encoders={
            name: value
            for name, value in {**encoder.attributes(), **identify_text(text).attributes()}.items()
            if name != "precision"
        },
        precision=options.precision, sampling_rate=16_000, min_duration=3.0, max_duration=30.0, label_scale="declared",
        layer=layer, architecture=architecture, strategy=strategy, sampler=NO_SAMPLER, memory_size=0, seed=0, fold="",
        stage=2, stage_name="P+M", training={}, later={}, options={},
        seen=tuple(
            Seen(name, 1.0, 7.0, 100, architecture.dimensions, True, 2.0, "release") for name in _CORPORA
        ),
        figures=(), language="en", created_by="ser-memory of a test",
    )  # fmt: skip
    model = model_of(info)
    if isinstance(model, Network):
        parameters = model.initial(random)
    else:
        parameters = torch.from_numpy(random.standard_normal(model.size) / 10)
    means = np.stack([rows.mean(axis=0)] * len(_CORPORA))
    variances = np.stack([rows.var(axis=0)] * len(_CORPORA))
    kept = tuple(Kept() for _ in _CORPORA)
    return Bundle(info, parameters, kept, means, variances, texts, (None,) * len(_CORPORA))


def save(bundle: Bundle, folder: Path) -> Bundle:
    """Write it to a folder; returns it with that folder."""
    write_bundle(folder, bundle, "# A bundle of a test\n")
    return replace(bundle, folder=folder)
