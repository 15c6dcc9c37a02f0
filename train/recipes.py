"""Experiments as TOML files: the options of ser-train by their names, as defaults that the command line overrides."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import click

from ser_memory.common.errors import SerError, listing
from ser_memory.common.toml_files import read_toml

FROM_FILE = "ser_memory.train.file"  # in a context: the options of a file were asked for by its user
_OF_THE_MACHINE = {
    "dry-run",
    "study",
    "experiment",
    "help",
    "preset",
    "search",
    "search-objective",
    "trials",
    "version",
}  # say nothing about an experiment


def presets() -> list[str]:
    """Names of the experiments that come with the program."""
    files = resources.files("ser_memory.train.presets").iterdir()
    return sorted(item.name.removesuffix(".toml") for item in files if item.name.endswith(".toml"))


def use_preset(context: click.Context, parameter: click.Parameter, name: str | None) -> None:
    """Callback of --preset."""
    del parameter
    if name is not None:
        file = resources.files("ser_memory.train.presets") / f"{name}.toml"
        _use(context, Path(str(file)), "preset")


def use_file(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Callback of --experiment."""
    del parameter
    if path is not None:
        context.meta[FROM_FILE] = True
        _use(context, path, "experiment")


def _use(context: click.Context, path: Path, kind: str) -> None:
    options = {
        option.removeprefix("--"): parameter
        for parameter in context.command.params
        for option in parameter.opts
        if option.removeprefix("--") not in _OF_THE_MACHINE
    }
    origin = f"the {kind} {path}"
    try:
        content = read_toml(path, kind)
    except SerError as error:
        raise click.UsageError(str(error)) from None
    names = {
        key: key.replace("_", "-") for key in content
    }  # Python writes the one, the command line the other
    unknown = [key for key, name in names.items() if name not in options]
    if unknown:
        raise click.UsageError(
            f"The {kind} {path} has {listing(unknown)}: its keys are those options of ser-train, {listing(options, 30)}."
        )
    twice = [name for name, times in Counter(names.values()).items() if times > 1]
    if twice:
        raise click.UsageError(
            f"The {kind} {path} has {listing(twice)} twice, with - and with _: give it once."
        )
    if context.default_map:
        raise click.UsageError("Give --preset or --experiment, not both.")
    context.default_map = {
        str(options[names[key]].name): _value(options[names[key]], value, origin, key)
        for key, value in content.items()
    }


def _value(option: click.Parameter, value: Any, origin: str, key: str) -> str | list[str]:
    """As it would be typed, so that the same is allowed."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(
        isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in values
    ):
        raise click.UsageError(f"{key} of {origin} must be a text or number, or a list of some.")
    typed = [str(item) for item in values]
    if isinstance(option, click.Option) and option.multiple:
        return typed
    if len(typed) > 1:
        raise click.UsageError(f"{key} of {origin} must be one value, not {len(typed)}.")
    return typed[0]
