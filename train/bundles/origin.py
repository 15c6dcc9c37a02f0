"""ser-train --from: what the bundles say becomes the default of every option, and contradictions are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_memory.common.cache import ENCODER_ATTRIBUTES, FeatureCache
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.manifests import extraction_of
from ser_memory.common.options import flag, names_of
from ser_memory.train.bundle import Bundle, BundleInfo
from ser_memory.train.bundle_files import read_seeds
from ser_memory.train.bundles.encoders import place_of
from ser_memory.train.configuration import Settings
from ser_memory.train.corpora import Corpus, Source
from ser_memory.train.runs import Origin
from ser_memory.train.settings import LaterStageSettings, MemorySettings, TrainingSettings
from ser_memory.train.strategies import STRATEGIES
from ser_memory.train.trainer import network_for

_PLACES = (
    "acoustic_encoder",
    "text_encoder",
)  # revisions tell which encoder it is, not the folder that it is in


def settings_of(values: Mapping[str, Any], given: Iterable[str] | None = None) -> Settings:
    """The settings of options by their names, those of --from among them; see `Settings.take`.

    Raises SerError for bundles that cannot be read, and UsageError for options that contradict them.
    """
    asked = set(values if given is None else given)
    if values.get("from_") is None:
        return Settings.take(values, given)
    bundles = read_seeds(Path(values["from_"]))
    first = bundles[0].info
    origin = Origin(
        tuple(seen.name for seen in first.seen),
        tuple((each.info.seed, each.folder.resolve()) for each in bundles),
        tuple((each.info.seed, each.checksum) for each in bundles),
    )
    if "stages" not in asked:
        raise UsageError(
            f"--from continues a model of {listing(origin.seen)}: name the new corpora with --stages, such as --stages "
            "my-clinic."
        )
    defaults = _defaults(bundles)
    whole = {**values, **{name: value for name, value in defaults.items() if name not in asked}}
    if asked & {"seed", "seeds"}:  # one of them was asked for
        whole["seed" if "seeds" in asked else "seeds"] = () if "seeds" in asked else None
    settings = Settings.take(whole, asked, origin)
    _refuse_contradictions(settings, bundles)
    return settings


def refuse_other_embeddings(source: Source, corpora: Sequence[Corpus], bundle: Bundle) -> None:
    """Raise SerError if the caches were made by other encoders than the bundle's, with the command that fits."""
    info = bundle.info
    for name in source.names:
        cache = FeatureCache(source.path(name)).info
        differing = [
            each
            for each in ENCODER_ATTRIBUTES
            if each not in _PLACES and info.encoders.get(each) != str(getattr(cache, each))
        ]
        if differing:
            which = differing[0]
            command = (
                f"{extraction_of(name)} --acoustic-encoder {place_of(bundle, 'acoustic')} --text-encoder "
                f"{place_of(bundle, 'text')}{_layers(info)} --overwrite"
            )
            raise SerError(
                f"{source.path(name)} was made by another encoder than the bundle's ({which}: {getattr(cache, which)} "
                f"instead of {info.encoders.get(which)}): make it again with {command}"
            )
    here = network_for(corpora).architecture
    if here != info.architecture:
        raise SerError(
            f"The caches have embeddings of {here.acoustic_width} and {here.text_width} values, and the model of the bundle "
            f"reads {info.architecture.acoustic_width} and {info.architecture.text_width}: extract them with its encoders."
        )


def _layers(info: BundleInfo) -> str:
    layers = info.encoders["acoustic_layers"]
    return "" if layers == "last" else f" --layers {layers}"


def _defaults(bundles: Sequence[Bundle]) -> dict[str, Any]:
    """Options as the bundles have them."""
    info = bundles[0].info
    known = names_of(TrainingSettings, LaterStageSettings, MemorySettings, *STRATEGIES[info.strategy].options)
    told = {**info.training, **info.later, **info.options, **info.memory}
    memory = {"sampler": [info.sampler], "memory_size": [info.memory_size]} if info.memory_size else {}
    measured = max((len(rows) for rows in bundles[0].estimates if rows is not None), default=0)
    return {
        "strategy": [info.strategy],
        **memory,
        "seed": [each.info.seed for each in bundles],
        "seeds": None,
        "estimate_size": measured,
        "dimensions": list(info.dimensions),
        "layer": info.layer,
        "label_scale": info.label_scale,
        **{name: value for name, value in told.items() if name in known},
    }


def _refuse_contradictions(settings: Settings, bundles: Sequence[Bundle]) -> None:
    info = bundles[0].info
    again = [name for name in settings.data.stages if name in [seen.name for seen in info.seen]]
    if again:
        raise UsageError(f"The bundle has learned {listing(again)} already: name a corpus that is new to it.")
    seeds = {each.info.seed for each in bundles}
    unknown = [seed for seed in settings.strategies.chosen_seeds if seed not in seeds]
    if unknown:
        raise UsageError(
            f"There is no bundle of seed {listing(unknown)}: there are those of {listing(sorted(seeds))}."
        )
    for name, here, there in (
        ("dimensions", settings.training.dimensions, info.dimensions),
        ("layer", settings.data.layer, info.layer),
        ("label_scale", settings.data.label_scale, info.label_scale),
    ):
        if here != there:
            raise UsageError(
                f"{flag(name)} {_typed(here)} contradicts the bundle, which has {_typed(there)}: leave it out."
            )
    for strategy in dict.fromkeys(variant.strategy for variant in settings.strategies.variants):
        _refuse_absent(strategy, settings, bundles[0])


def _typed(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _refuse_absent(strategy: str, settings: Settings, bundle: Bundle) -> None:
    """Raise UsageError if a strategy needs what the bundle does not hold."""
    wanted = STRATEGIES[strategy]
    if wanted.earlier == "corpora":
        raise UsageError(
            f"{strategy} trains on all earlier corpora, and a bundle has none of them: choose another strategy."
        )
    if wanted.by_gradient != STRATEGIES[bundle.info.strategy].by_gradient:
        raise UsageError(
            f"The bundle's model is of {bundle.info.strategy}, which {strategy} cannot continue."
        )
    needs = [name for name in wanted.keeps if name != "rated"]
    if wanted.earlier == "memory" and settings.experiment.later_of(strategy).holds_out:
        needs.append("held_out")
    absent = [name for name in needs if any(getattr(kept, name) is None for kept in bundle.kept)]
    if absent:
        fitting = [
            name
            for name, each in STRATEGIES.items()
            if each.earlier != "corpora"
            and each.by_gradient == wanted.by_gradient
            and all(
                getattr(kept, part) is not None
                for kept in bundle.kept
                for part in each.keeps
                if part != "rated"
            )
        ]
        what = "a memory of which a part is held out" if absent == ["held_out"] else listing(absent)
        raise UsageError(
            f"{strategy} needs {what} of earlier corpora, which the bundle of {bundle.info.strategy} does not hold: it can "
            f"be continued with {listing(fitting)}{' without --stop-on and --average' if absent == ['held_out'] else ''}."
        )
