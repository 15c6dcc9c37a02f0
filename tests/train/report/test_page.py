"""The page: valid HTML that needs nothing else, with every text escaped and every reference found."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import html5lib
import pytest

from ser_memory.train.report.data import RunData, load_run
from ser_memory.train.report.figures.base import Saved, save
from ser_memory.train.report.figures.forest import Difference, forest
from ser_memory.train.report.formats import Cell, Table
from ser_memory.train.report.page import Section, inline_svg, page, reproduction
from ser_memory.train.runs import Variant
from tests.train.report.runs import build_run

_HTML, _SVG, _XLINK = (
    "{http://www.w3.org/1999/xhtml}",
    "{http://www.w3.org/2000/svg}",
    "{http://www.w3.org/1999/xlink}",
)
_NASTY = "<script>alert('&')</script>"
_TABLE = Table(
    "CCC of <valence>",
    ("strategy & sampler", "iemocap"),
    (
        (Cell("finetune"), Cell("0.100 ± 0.010", 0.1)),
        (Cell(_NASTY), Cell("0.300 ± 0.010", 0.3, "strong", "*+")),
        (Cell("gem"), Cell("-")),
    ),
    ("a note with <b>",),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    variants = (Variant("finetune"), Variant("gem", "random", 20))
    folder = tmp_path_factory.mktemp("runs") / _NASTY.replace("/", "")
    return load_run(
        build_run(folder, variants=variants, seeds=1, splits={"train": 40, "validation": 9, "test": 9})
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    rows = [Difference(_NASTY, 0.2, 0.1, 0.3, 0.001, 0.004)]
    return save(forest(rows, "CCC of <valence>", "finetune"), tmp_path_factory.mktemp("figures"), "forest")


@pytest.fixture(scope="module")
def html(run: RunData, saved: Saved) -> str:
    sections = [
        Section("Same", [_NASTY], tables=[_TABLE, _TABLE], figures=[saved, saved]),
        Section("Same", sections=[Section("Same 2", ["text"]), Section("–", figures=[saved])]),
        reproduction([run], "ser-report 'a run'"),
    ]
    return page(f"Title {_NASTY}", ["lead"], sections)


@pytest.fixture(scope="module")
def root(html: str) -> ElementTree.Element:
    # A strict parser: it raises at the first thing that is not valid.
    parsed: ElementTree.Element = html5lib.HTMLParser(strict=True).parse(html)
    return parsed


def text_of(element: ElementTree.Element) -> str:
    return "".join(element.itertext())


def test_nothing_comes_from_elsewhere(html: str, root: ElementTree.Element) -> None:
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in ("src", "href", "srcset", "data", "action", f"{_XLINK}href"):
                assert value.startswith(("#", "data:")), (element.tag, name, value)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", html))
    assert addresses <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }  # names of XML, not links
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_texts_are_escaped(html: str, root: ElementTree.Element) -> None:
    assert html.count("<script>") == 1
    assert len(root.findall(f".//{_HTML}script")) == 1
    (heading,) = root.findall(f".//{_HTML}h1")
    assert text_of(heading) == f"Title {_NASTY}"
    paragraphs = [text_of(element) for element in root.iter(f"{_HTML}p")]
    assert {_NASTY, "lead", "a note with <b>"} <= set(paragraphs)


def test_ids_are_unique_and_references_found(root: ElementTree.Element) -> None:
    ids = Counter(element.attrib["id"] for element in root.iter() if "id" in element.attrib)
    assert set(ids.values()) == {1}
    referred = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in ("aria-labelledby",):
                referred.add(value)
            if name in ("href", f"{_XLINK}href") and value.startswith("#"):
                referred.add(value[1:])
            referred.update(re.findall(r"url\(#([^)]+)\)", value))
    assert len(referred) > 10
    assert referred <= set(ids)


def test_headings_are_in_order_and_in_the_contents(root: ElementTree.Element) -> None:
    levels = [
        int(element.tag[-1]) for element in root.iter() if re.fullmatch(_HTML + "h[1-6]", str(element.tag))
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    (contents,) = root.findall(f".//{_HTML}nav")
    links = {element.attrib["href"]: text_of(element) for element in contents.iter(f"{_HTML}a")}
    assert len(links) == 6
    (main,) = root.findall(f".//{_HTML}main")
    for link, text in links.items():
        (target,) = [element for element in main.iter() if element.get("id") == link[1:]]
        assert text_of(target) == text


def test_a_table_has_its_cells_and_numbers(root: ElementTree.Element) -> None:
    tables = root.findall(f".//{_HTML}table")
    assert len(tables) == 2
    for number, table in enumerate(tables, 1):
        (title,) = [element for element in root.iter() if element.get("id") == table.get("aria-labelledby")]
        assert text_of(title) == f"Table {number}. CCC of <valence>"
        headings = [text_of(element) for element in table.findall(f".//{_HTML}thead//{_HTML}th")]
        assert headings == list(_TABLE.headings)
        rows = table.findall(f".//{_HTML}tbody/{_HTML}tr")
        shown = [[text_of(cell) for cell in row] for row in rows]
        assert shown == [[cell.text + cell.marks for cell in row] for row in _TABLE.rows]
        assert [row[1].get("data-value") for row in rows] == ["0.1", "0.3", None]
        assert [row[0].get("scope") for row in rows] == ["row"] * 3
        assert [text_of(element) for element in table.iter(f"{_HTML}strong")] == ["0.300 ± 0.010"]


def test_figures_have_names_and_captions(root: ElementTree.Element, saved: Saved) -> None:
    figures = root.findall(f".//{_HTML}figure")
    assert len(figures) == 3
    for number, figure in enumerate(figures, 1):
        (drawing,) = figure.findall(f".//{_SVG}svg")
        assert (drawing.get("role"), drawing.get("aria-label")) == ("img", saved.alt)
        (caption,) = figure.findall(f"{_HTML}figcaption")
        assert text_of(caption) == f"Figure {number}. {saved.caption}"
        assert _NASTY in [text_of(element) for element in drawing.iter(f"{_SVG}text")]
        assert drawing.find(f"{_SVG}title") is None  # it would be a tooltip


def test_an_inline_svg_keeps_its_styles_to_itself() -> None:
    svg = (
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'width="10pt" height="5pt" viewBox="0 0 10 5"><metadata><x/></metadata>'
        "<defs><style>*{stroke-linejoin: round}</style>"
        '<path id="m1" d="M 0 0"/><clipPath id="c2"/></defs>'
        '<g id="unused" clip-path="url(#c2)" fill="#ffffff" style="fill: url(#c2); stroke: #000000">'
        '<use xlink:href="#m1"/></g></svg>'
    )
    made = inline_svg(svg, "figure-7", 'says "so" & <more>')
    root = ElementTree.fromstring(made)
    group, use = root[1], root[1][0]
    assert (root.get("id"), root.get("aria-label")) == ("figure-7", 'says "so" & <more>')
    assert root.get("style") == "--print: 10pt"
    assert not {"width", "height"} & set(root.attrib)
    assert [element.get("id") for element in root[0]] == [None, "figure-7-m1", "figure-7-c2"]
    assert root[0][0].text == "#figure-7 *{stroke-linejoin: round}"
    assert dict(group.attrib) == {
        "clip-path": "url(#figure-7-c2)",
        "fill": "#ffffff",
        "style": "fill: url(#figure-7-c2); stroke: #000000",
    }
    assert use.get(f"{_XLINK}href") == "#figure-7-m1"


def test_a_run_can_be_reproduced(run: RunData) -> None:
    section = reproduction([run], "ser-report run")
    assert section.commands == ["ser-report run"]
    (part,) = section.sections
    assert part.commands == [run.config["command"]]
    facts = dict(part.facts)
    assert facts["Versions"] == "ser-memory 0.1.0, python 3.11.2, torch 2.13.0"
    assert facts["Digest of msp-podcast"] == f"{'a' * 64} (protocol standard)"
    assert facts["Variants"] == "finetune, gem:random (memory of 20)"
    assert facts["Seeds"] == "0"
    assert '"learning_rate": 0.0001' in part.details[0][1]
    assert part.paragraphs == []


def test_what_is_not_known_is_said(tmp_path: Path, run: RunData) -> None:
    folder = build_run(
        tmp_path, variants=(Variant("finetune"),), seeds=2, predictions=False, unfinished=1, command=None
    )
    (part,) = reproduction([load_run(folder)]).sections
    assert part.commands == []
    assert [text.split(":")[0] for text in part.paragraphs] == [
        "This run is not complete",
        "The command is not known",
        "This folder has no predictions.h5.",
    ]
    (old,) = reproduction([RunData(run.folder, run.results, missing=("config.json",))]).sections
    assert [name for name, _ in old.facts] == ["Folder"]
    assert list(old.details) == []
