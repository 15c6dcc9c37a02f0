"""The report as one HTML page with everything inside: it needs no network, and can be read without JavaScript."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ser_memory.common import __version__
from ser_memory.common.errors import listing
from ser_memory.train.report.data import RunData
from ser_memory.train.runs import NO_SAMPLER

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_REFERENCE = re.compile(r"#([A-Za-z0-9_.-]+)")


class Cell(Protocol):
    """A cell of a table."""

    @property
    def text(self) -> str: ...
    @property
    def value(self) -> float | None:
        """The number to sort by; None for a text."""
        ...

    @property
    def emphasis(self) -> str:
        """strong, weak or nothing."""
        ...

    @property
    def marks(self) -> str:
        """What stands behind the text, such as *+."""
        ...


class Table(Protocol):
    """A table: the first `left` columns have texts, the others numbers."""

    @property
    def title(self) -> str: ...
    @property
    def headings(self) -> Sequence[str]: ...
    @property
    def rows(self) -> Sequence[Sequence[Cell]]: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def left(self) -> int: ...


class Picture(Protocol):
    """A figure: the content of an SVG file, and its words."""

    @property
    def svg(self) -> str: ...
    @property
    def alt(self) -> str: ...
    @property
    def caption(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page under a heading, in this order. `sections` are its parts, which have none themselves."""

    heading: str
    paragraphs: Sequence[str] = ()
    commands: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()  # name and value
    tables: Sequence[Table] = ()
    figures: Sequence[Picture] = ()
    details: Sequence[tuple[str, str]] = ()  # a line to unfold, and the text behind it
    sections: Sequence[Section] = ()


def page(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The HTML of a report: `lead` are the paragraphs below its title. All texts are plain; they are escaped."""
    environment = Environment(
        loader=PackageLoader("ser_memory.train.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("template.html").render(
        title=title,
        lead=lead,
        sections=sections,
        anchors=_anchors(sections),
        numbers=_Numbers(),
        drawing=_drawing,
        room_for_marks=_room_for_marks,
        version=__version__,
    )


def reproduction(runs: Sequence[RunData], command: str | None = None) -> Section:
    """The section that says how to get the same figures: commands, versions, digests, and all settings.

    `command` is the one that makes the report.
    """
    made = [command] if command else []
    return Section(
        "Reproduce this report",
        ["The same caches, seeds and versions on the same machine give the same figures."],
        made,
        sections=[_of_run(run) for run in runs],
    )


def inline_svg(svg: str, prefix: str, alt: str) -> str:
    """An SVG file as an element of an HTML page.

    Its ids start with `prefix`, so that they are unique in the page; its style sheet applies to it alone. `alt` is its
    accessible name. Raises xml.etree.ElementTree.ParseError if `svg` is no XML.
    """
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            # A browser would show the title as a tooltip over the whole figure.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}title", f"{{{_SVG}}}desc"):
                parent.remove(child)
    referred = {
        name
        for element in root.iter()
        for text in element.attrib.values()
        for name in _REFERENCE.findall(text)
    }
    for element in root.iter():
        if element.tag == f"{{{_SVG}}}style":
            element.text = (element.text or "").replace("*{", f"#{prefix} *{{")
        for name, text in list(element.attrib.items()):
            if name == "id" and text not in referred:
                del element.attrib[name]
            else:
                element.set(name, f"{prefix}-{text}" if name == "id" else _refer(text, prefix))
    del root.attrib["height"]
    root.set("style", f"--print: {root.attrib.pop('width')}")
    root.set("id", prefix)
    root.set("role", "img")
    root.set("aria-label", alt)
    return ElementTree.tostring(root, encoding="unicode")


def _refer(text: str, prefix: str) -> str:
    """The value of an attribute, with references to ids that start with the prefix. A colour is no reference."""
    if re.fullmatch(r"#(?![0-9a-fA-F]{6}$).+", text):
        return f"#{prefix}-{text[1:]}"
    return text.replace("url(#", f"url(#{prefix}-")


def _drawing(picture: Picture, number: int) -> Markup:
    # Markup: the SVG is a figure of this program, whose texts are escaped already.
    return Markup(inline_svg(picture.svg, f"figure-{number}", picture.alt))


def _room_for_marks(table: Table) -> int:
    """Characters of the longest marks of a table, kept free in all of its numbers so that their digits line up."""
    return max((len(cell.marks) for row in table.rows for cell in row), default=0)


class _Numbers:
    """Counts tables and figures in the order of the page."""

    def __init__(self) -> None:
        self._tables, self._figures = itertools.count(1), itertools.count(1)

    def next_table(self) -> int:
        return next(self._tables)

    def next_figure(self) -> int:
        return next(self._figures)


def _anchors(sections: Sequence[Section]) -> dict[Section, str]:
    """A different id for each section, made of its heading."""
    anchors: dict[Section, str] = {}
    for section in itertools.chain.from_iterable((section, *section.sections) for section in sections):
        slug = re.sub(r"[^a-z0-9]+", "-", section.heading.lower()).strip("-") or "section"
        # `in-` keeps them apart from the ids of the page itself.
        names = (f"in-{slug}{f'-{number}' if number > 1 else ''}" for number in itertools.count(1))
        anchors[section] = next(name for name in names if name not in anchors.values())
    return anchors


def _of_run(run: RunData) -> Section:
    config: Mapping[str, Any] = run.config
    experiment = config.get("experiment", {})
    command = config.get("command")
    remarks = []
    if not run.complete:
        remarks.append("This run is not complete: some of its figures are missing.")
    if not command:
        remarks.append("The command is not known: the run was started from Python, or by an older version.")
    if run.missing:
        remarks.append(f"This folder has no {listing(run.missing)}.")
    versions = {**config.get("versions", {}), "torch": config.get("torch")}
    protocols = config.get("protocols", {})
    facts = {
        "Folder": str(run.folder),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "Device": config.get("device"),
        "Stages": ", then ".join(experiment.get("stages", ())),
        "Variants": ", ".join(_name_of(variant) for variant in experiment.get("variants", ())),
        "Seeds": ", ".join(str(seed) for seed in experiment.get("seeds", ())),
        "Label scale": config.get("label_scale"),
        "Layer": config.get("layer"),
        **{
            f"Digest of {corpus}": f"{digest}{f' (protocol {protocols[corpus]})' if corpus in protocols else ''}"
            for corpus, digest in config.get("digests", {}).items()
        },
    }
    return Section(
        run.folder.name or str(run.folder),
        remarks,
        [command] if command else [],
        [(name, str(value)) for name, value in facts.items() if value not in (None, "")],
        details=[("All settings of the run (config.json)", json.dumps(config, indent=2))] if config else (),
    )


def _name_of(variant: Mapping[str, Any]) -> str:
    sampler = variant.get("sampler", NO_SAMPLER)
    own = "" if sampler == NO_SAMPLER else f":{sampler} (memory of {variant.get('memory_size')})"
    return f"{variant.get('strategy')}{own}"
