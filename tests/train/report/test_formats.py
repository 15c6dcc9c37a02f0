"""Tables written and read back: by a Markdown parser, by csv, and by pdfLaTeX where it is installed."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ser_memory.train.report.formats import (
    Cell,
    Table,
    comma_separated,
    latex,
    latex_document,
    markdown,
    number,
    title_of,
)

AWKWARD = [
    "a_b & c|d", "50% <b>of</b> #1", "*x* **y** `z`", r"\| \\ \textbf{x} {y}", "[link](http://x)", "~~a~~ ^b $c$ -- ---",
    "&lt; &amp;", "\"quoted\" ''both'' ``ways``", "*", "[1mm]", "- item", "1. item", "+", "===", "# head", "> said", "!`?`",
    "± † − × ≤ ≥ – — … ’ “q”", "Köln, Łódź, 東京",
]  # fmt: skip
texts = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=12)


def inline(token: Token) -> str:
    """The text of an inline token, as a reader sees it."""
    assert all(part.type in {"text", "text_special", "strong_open", "strong_close", "em_open", "em_close"}
               for part in token.children or [])  # fmt: skip
    return "".join(part.content for part in token.children or [])


def parsed(text: str) -> tuple[list[str], list[list[str]], list[str]]:
    """Headings, rows of the table with its head first, and paragraphs."""
    titles: list[str] = []
    rows: list[list[str]] = []
    notes: list[str] = []
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if token.type == "inline":
            into = {"heading_open": titles, "paragraph_open": notes}.get(before.type)
            (rows[-1] if into is None else into).append(inline(token))
    return titles, rows, notes


def has_latex() -> bool:
    if not shutil.which("pdflatex") or not shutil.which("kpsewhich"):
        return False
    return subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False).returncode == 0


def squeezed(text: str) -> str:
    return " ".join(text.split())


def table(*values: str) -> Table:
    cells = tuple((Cell(value), number(0.5)) for value in values)
    return Table("Title", ("name", "CCC"), cells, ("A note.",))


def test_a_table_as_markdown_to_the_letter() -> None:
    made = Table(
        title_of("ccc", "activation", "test", {"msp-podcast": 1200}, "mean over 5 seeds"),
        ("strategy", "P_M"),
        ((Cell("finetune"), number(0.45, 0.02)), (Cell("gem"), number(0.5, 0.01, emphasis="strong", marks="*+"))),
        ("* p < 0.05.",),
    )  # fmt: skip
    assert markdown(made) == (
        "### CCC of activation, test split, n = 1,200 (msp-podcast): mean over 5 seeds\n\n"
        "| strategy | P\\_M |\n| :-- | --: |\n"
        "| finetune | 0.450 ± 0.020 |\n| gem | **0.500 ± 0.010** \\*+ |\n\n"
        "\\* p &lt; 0.05.\n"
    )


def test_a_table_as_latex_to_the_letter() -> None:
    made = Table(
        "A & B",
        ("strategy", "P_M"),
        ((Cell("a-gem"), number(-0.45)), (Cell("der++"), number(0.5, 0.01, emphasis="strong", marks="†+"))),
        ("p < 5%.",),
    )
    assert latex(made) == (
        "\\begin{table}[ht]\n\\centering\n\\caption{A \\& B}\n"
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n\\begin{tabular}{lr}\n\\toprule\n"
        "strategy & P\\_M \\\\\n\\midrule\n"
        "a-gem & $-$0.450 \\\\\n"
        "der++ & \\textbf{0.500 $\\pm$ 0.010}\\textsuperscript{$\\dagger$+} \\\\\n"
        "\\bottomrule\n\\end{tabular}}\n"
        "\\par\\smallskip{\\footnotesize p \\textless{} 5\\%.\\par}\n\\end{table}\n"
    )


@settings(max_examples=60)
@given(texts, texts, texts)
@example("a|b", "\\|", "\\\\|")
def test_markdown_is_read_back(title: str, cell: str, note: str) -> None:
    made = Table(title, (cell, "CCC"), ((Cell(cell), number(0.5)),), (note,))
    titles, rows, notes = parsed(markdown(made))
    assert [*titles] == [squeezed(title)]
    assert rows == [[squeezed(cell), "CCC"], [squeezed(cell), "0.500"]]
    assert notes == [squeezed(note)] * bool(squeezed(note))


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts_in_markdown(text: str) -> None:
    made = Table(text, (text, "CCC"), ((Cell(text, emphasis="strong"), number(0.5)),), (text,))
    assert parsed(markdown(made)) == ([text], [[text, "CCC"], [text, "0.500"]], [text])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\{}", r"\textbackslash{}\{\}"),
        ("#$%&_", r"\#\$\%\&\_"),
        ("~^<>|", r"\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"),
        ("[1]*", "{[}1{]}{*}"),
        ("--seeds", "-{}-seeds"),
        ("''a``", "'{}'a`{}`"),
        ("Łódź 東 ① ﬁ", "Łódź ? 1 fi"),
        ("two\nlines\t", "two lines"),
    ],
)
def test_what_latex_would_misread_is_escaped(text: str, expected: str) -> None:
    assert f"\n{expected} & 0.500 \\\\\n" in latex(table(text))


@pytest.mark.skipif(not has_latex(), reason="no pdfLaTeX with booktabs")
def test_latex_compiles_on_its_own(tmp_path: Path) -> None:
    letters = "".join(map(chr, range(0xC0, 0x180)))
    (tmp_path / "t.tex").write_text(latex_document([table(*AWKWARD, letters)] * 2), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.floats(allow_nan=False)), max_size=5))
def test_csv_is_read_back_with_all_digits(rows: list[tuple[str, float]]) -> None:
    made = Table(
        "T", ("name, or so", 'the "CCC"'), tuple((Cell(name), Cell("x", value)) for name, value in rows)
    )
    head, *body = csv.reader(io.StringIO(comma_separated(made), newline=""))
    assert head == ["name, or so", 'the "CCC"']
    assert [(name, float(value)) for name, value in body] == [(squeezed(name), value) for name, value in rows]


def test_numbers() -> None:
    assert number(0.5714) == Cell("0.571", 0.5714)
    assert number(0.5714, 0.02, digits=2, marks="*-") == Cell("0.57 ± 0.02", 0.5714, marks="*-")
    assert number(None) == Cell("-")
    assert comma_separated(Table("T", ("a", "b"), ((number(1 / 3), number(None)),))) == f"a,b\n{1 / 3!r},-\n"


def test_a_title_names_what_is_measured() -> None:
    assert title_of("uar", "valence", "test2", 1234) == "UAR of valence, test2 split, n = 1,234"
    assert title_of("ccc", "valence", "test", {"a": 10, "b": 20}, "gains") == (
        "CCC of valence, test split, n = 10 (a), 20 (b): gains"
    )


def test_rows_fit_their_headings() -> None:
    with pytest.raises(ValueError, match="1 cells are not those of the columns a, b"):
        Table("T", ("a", "b"), ((Cell("x"),),))
