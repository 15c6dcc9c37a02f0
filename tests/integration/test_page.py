"""The pages of two real runs in a real browser: that of the demonstration, and that of the paper's experiment.

With SER_SCREENSHOTS set to a folder, pictures of the page go there: light, dark, at the width of a phone, and printed.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from ser_memory.train.cli import main as ser_train
from ser_memory.train.demo import TRAINING
from ser_memory.train.demo import main as ser_demo
from ser_memory.train.report.cli import main as ser_report
from tests.integration.browser import PHONE, WIDE, Browser, chromium

# Boxes that scroll on their own may hold more than fits; nothing else may reach beyond the window.
_TOO_WIDE = """
const inBox = element => element.closest(".scroll, .drawing") && !element.matches(".scroll, .drawing");
return [...document.querySelectorAll("body *")]
  .filter(element => !inBox(element) && !element.matches(".skip"))
  .filter(element => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(element => element.outerHTML.slice(0, 80));
"""
# Contrast of text and its background, as WCAG 2 defines it; backgrounds of the page are opaque.
_CONTRAST = """
const parts = colour => colour.match(/[\\d.]+/g).map(Number);
const light = colour => {
  const linear = part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = parts(colour).slice(0, 3).map(part => linear(part / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = element => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (parts(colour)[3] !== 0) return colour;
  }
};
return [...document.querySelectorAll("h1, h2, h3, p, td, th, figcaption, dt, dd, a, pre, .marks, #theme")]
  .filter(element => !element.matches(".skip"))
  .map(element => {
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
"""
_COLUMN = """
return [...document.querySelectorAll("table")[0].tBodies[0].rows].map(row => row.cells[arguments[0]].textContent);
"""


@pytest.fixture(scope="session")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the demonstration, with three seeds."""
    folder = tmp_path_factory.mktemp("demonstration")
    carry_out(ser_demo, f"--output {shlex.quote(str(folder))} --seeds 3")
    return folder


@pytest.fixture(scope="session", params=["demonstration", "paper"])
def report(request: pytest.FixtureRequest, demonstration: Path) -> Path:
    """The page of a run."""
    if request.param == "demonstration":
        return demonstration / "run-1/report/index.html"
    run, cache = (shlex.quote(str(demonstration / name)) for name in ("paper", "cache"))
    carry_out(ser_train, f"--preset paper --cache {cache} --output {run} --seeds 3 --device cpu {TRAINING}")
    carry_out(ser_report, run)
    return demonstration / "paper/report/index.html"


def carry_out(command: click.Command, arguments: str) -> None:
    result = CliRunner().invoke(command, shlex.split(arguments))
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("SER_SCREENSHOTS") or tmp_path_factory.mktemp("pictures"))


def test_nothing_is_fetched_and_nothing_complained(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert [url for url in browser.requests() if not url.startswith("data:")] == [report.as_uri()]
    assert browser.complaints() == []


def test_every_figure_is_shown(browser: Browser, report: Path) -> None:
    browser.open(report)
    sizes = browser.run(
        "return [...document.querySelectorAll('figure svg')].map(svg => {"
        " const {width, height} = svg.getBoundingClientRect(), {width: w, height: h} = svg.getBBox();"
        " return [width, height, w, h]; })"
    )
    assert len(sizes) == report.read_text().count("<figure>") > 10
    assert all(min(size) > 50 for size in sizes)
    names = browser.run("return [...document.querySelectorAll('figure svg')].map(svg => svg.ariaLabel)")
    assert all(names)
    pixels = browser.run(
        "return [...document.querySelectorAll('svg image')].map(image => image.getBoundingClientRect().width)"
    )
    assert pixels
    assert min(pixels) > 0


def test_references_within_figures_are_found(browser: Browser, report: Path) -> None:
    browser.open(report)
    lost = browser.run(
        "return [...document.querySelectorAll('svg use')].map(use => use.href.baseVal)"
        ".filter(link => !document.querySelector(link))"
    )
    assert lost == []


def test_a_heading_sorts_by_number_and_back(browser: Browser, report: Path) -> None:
    browser.open(report)
    heading = browser.driver.find_elements(By.CSS_SELECTOR, "table:first-of-type thead th")[2]
    button = heading.find_element(By.TAG_NAME, "button")
    original = browser.run(_COLUMN, 2)
    figures = sorted(original, key=lambda text: float(text.split()[0]))
    assert original != figures

    button.click()
    assert browser.run(_COLUMN, 2) == figures
    assert heading.get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)  # the keyboard does the same
    assert browser.run(_COLUMN, 2) == figures[::-1]
    assert heading.get_attribute("aria-sort") == "descending"
    button.send_keys(Keys.SPACE)
    assert browser.run(_COLUMN, 2) == original
    assert heading.get_attribute("aria-sort") is None


def test_texts_sort_as_texts(browser: Browser, report: Path) -> None:
    browser.open(report)
    button = browser.driver.find_elements(By.CSS_SELECTOR, "table:first-of-type thead th button")[0]
    button.click()
    assert browser.run(_COLUMN, 0) == sorted(browser.run(_COLUMN, 0))


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_reaches_beyond_the_window(browser: Browser, report: Path, width: int, dark: bool) -> None:
    browser.open(report, width=width, dark=dark)
    assert browser.run("return innerWidth") == width
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(_TOO_WIDE) == []


@pytest.mark.parametrize("dark", [False, True])
def test_texts_have_contrast(browser: Browser, report: Path, dark: bool) -> None:
    browser.open(report, dark=dark)
    assert min(browser.run(_CONTRAST)) >= 4.5  # level AA


def test_the_button_changes_the_colours_and_they_stay(browser: Browser, report: Path) -> None:
    browser.open(report)
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(paper)
    browser.driver.find_element(By.ID, "theme").click()
    dark = browser.run(paper)
    assert dark != light
    browser.open(report)
    assert browser.run(paper) == dark
    browser.driver.find_element(By.ID, "theme").click()
    assert browser.run(paper) == light
    browser.run("localStorage.clear()")


def test_the_page_can_be_read_without_javascript(report: Path) -> None:
    with chromium(javascript=False) as plain:
        plain.open(report)
        assert plain.driver.find_elements(By.CSS_SELECTOR, "th button") == []
        assert not plain.driver.find_element(By.ID, "theme").is_displayed()
        assert plain.driver.find_element(By.CSS_SELECTOR, "figure svg").is_displayed()


def test_pictures_of_the_page(browser: Browser, report: Path, pictures: Path) -> None:
    shown = {
        "light": (WIDE, False),
        "dark": (WIDE, True),
        "phone": (PHONE, False),
        "phone-dark": (PHONE, True),
    }
    for name, (width, dark) in shown.items():
        browser.open(report, width=width, dark=dark)
        picture = pictures / f"{report.parent.parent.name}-{name}.png"
        browser.photograph(picture)
        assert picture.read_bytes().startswith(b"\x89PNG")
    browser.open(report, dark=True)
    printed = pictures / f"{report.parent.parent.name}-print.pdf"
    browser.print(printed)
    assert printed.read_bytes().startswith(b"%PDF")
