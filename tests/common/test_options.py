"""An option is declared once: the command line, its help and its checks follow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from ser_memory.common.console import Command
from ser_memory.common.errors import UsageError
from ser_memory.common.options import Options, names_of, option, options_of, refuse_unknown


@dataclass(frozen=True)
class Beans(Options):
    title = "Beans"
    kind: str = option("runner", choices=("runner", "broad"), help="Which beans.")
    rate: float = option(0.5, minimum=0, above=True, maximum=1, help="Share that sprouts.")
    rows: int | None = option(None, minimum=1, none="all", help="Rows to sow.")
    field_folder: Path | None = option(None, folder=True, unset="the garden", help="Where.")
    helper: tuple[str, ...] = option((), unset="nobody", help="Who helps; repeatable.")
    watered: bool = option(False, help="Water them.")
    litres: float | None = option(None, minimum=0, variable="LITRES", unset="$LITRES", help="Of water.")


@dataclass(frozen=True)
class Peas(Options):
    title = "Peas"
    rows_of_peas: int = option(2, minimum=1, help="Rows of peas.")


def run(*arguments: str) -> tuple[Any, Any]:
    """The options as a command got them, and click's result."""
    got: list[tuple[Beans, Peas]] = []

    @click.command(cls=Command)
    @options_of(Beans, Peas)
    def command(**values: Any) -> None:
        got.append((Beans.take(values), Peas.take(values)))

    result = CliRunner().invoke(command, arguments)
    return (got[0] if got else None), result


def test_defaults_and_typed_values() -> None:
    assert run()[0] == (Beans(), Peas())
    line = (
        "--kind broad --rate 1 --rows 3 --helper ann --helper bob --watered --rows-of-peas 4 --field-folder f"
    )
    typed, _ = run(*line.split())
    assert typed == (Beans("broad", 1.0, 3, Path("f"), ("ann", "bob"), True), Peas(4))
    assert run("--rows", "all")[0][0].rows is None


def test_help_is_grouped() -> None:
    text = " ".join(run("--help")[1].output.split())
    assert text.index("Beans:") < text.index("--watered") < text.index("Peas:") < text.index("--rows-of-peas")
    for said in ("[default: all]", "[default: the garden]", "[default: nobody]", "0<x<=1", "runner|broad"):
        assert said in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "black"}, "--kind 'black' must be one of runner, broad."),
        ({"rate": 0}, "--rate 0 must be above 0 and at most 1."),
        ({"rate": float("nan")}, "--rate nan must be above 0 and at most 1."),
        ({"rows": 0}, "--rows 0 must be at least 1."),
        ({"rows": 1.5}, "--rows 1.5 must be a whole number."),
        ({"rows": True}, "--rows True must be a whole number."),
        ({"helper": ("ann", 3)}, "--helper 3 must be text."),
        ({"watered": 1}, "--watered 1 must be true or false."),
        ({"field_folder": 1}, "--field-folder 1 must be a path."),
    ],
)
def test_a_program_gets_the_same_checks(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        Beans(**values)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"rows": np.int64(3)}, Beans(rows=3)),
        ({"rate": np.float32(0.5)}, Beans(rate=0.5)),
        ({"rate": np.int32(1)}, Beans(rate=1)),
        ({"rows": "all"}, Beans(rows=None)),
        ({"field_folder": "f"}, Beans(field_folder=Path("f"))),
        ({"helper": np.array(["ann", "bob"])}, Beans(helper=("ann", "bob"))),
    ],
)
def test_the_same_value_in_another_guise(given: dict[str, Any], taken: Beans) -> None:
    assert Beans.take(given) == taken


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"helper": {"ann", "bob"}}, "--helper is a set, which has no order: give a list."),
        ({"helper": b"ann"}, "--helper b'ann' must be text."),
        ({"helper": None}, "--helper None must be text."),
        ({"litres": 1e300}, "--litres 1e+300 must be at most 3e+38."),
        ({"litres": 10**400}, f"--litres {10**400} must be at most 3e+38."),
        ({"rows": 2**63}, f"--rows {2**63} must be at most 1e+18."),
        ({"field_folder": "a\0b"}, "--field-folder 'a\\x00b' must be a path: it has a NUL character."),
    ],
)
def test_what_cannot_be_meant(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        Beans.take(given)
    assert str(error.value) == message


def test_one_value_or_several() -> None:
    assert Beans.take({"helper": "ann", "unknown": 1}) == Beans.take({"helper": ["ann"]})


def test_unknown_names_are_refused() -> None:
    refuse_unknown(["rate", "rows_of_peas"], Beans, Peas)
    assert names_of(Peas) == ["rows_of_peas"]
    with pytest.raises(UsageError, match="There is no option 'rat': the options are kind, rate"):
        refuse_unknown(["rat"], Beans, Peas)


def test_an_environment_variable_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITRES", "2.5")
    assert Beans.take({}).litres == 2.5
    assert Beans.take({"litres": 1.0}).litres == 1.0
    assert run("--litres", "0")[0][0].litres == 0.0
    monkeypatch.setenv("LITRES", "many")
    with pytest.raises(UsageError, match=r"\$LITRES is 'many': it must be a number."):
        Beans.take({})
