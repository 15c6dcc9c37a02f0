"""A table of a report -> Markdown, LaTeX or CSV. Every text is escaped; a table is never HTML or LaTeX by accident."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

ABSENT = "-"  # a number that there is not

Emphasis = Literal["", "strong", "weak"]

_MARKDOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{sign: f"\\{sign}" for sign in "\\`*_[]|~#$"}}
)
_BLOCK_START = re.compile(r"^(\d*)(?=[-+=.)])")  # of a paragraph, it would begin a list or a rule
_STRESSED = {"": "{}", "strong": "**{}**", "weak": "*{}*"}

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "#": r"\#", "$": r"\$", "%": r"\%", "&": r"\&", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\char34{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # a row that starts with one would be read as an option of the row before
    "±": r"$\pm$", "†": r"$\dagger$", "−": "$-$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "·": r"$\cdot$",
    "→": r"$\to$", "–": r"\textendash{}", "—": r"\textemdash{}",
    "…": r"\ldots{}", "’": "'", "‘": "`", "“": r"\textquotedblleft{}", "”": r"\textquotedblright{}",
}  # fmt: skip
_LIGATURE = re.compile(r"(?<=[-'`?!])(?=[-'`])")  # such as -- for a dash
_LATIN = {chr(code) for code in range(0xC0, 0x180)} - set("ÐÞðþ÷ĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ")  # pdfLaTeX has these
_LATEX_STRESSED = {"": "%s", "strong": r"\textbf{%s}", "weak": r"\textit{%s}"}

PREAMBLE = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
"""


@dataclass(frozen=True)
class Cell:
    """One cell: what is shown, and the number behind it."""

    text: str
    value: float | None = None  # for sorting and CSV; None for a text
    emphasis: Emphasis = ""  # strong: such as the best of its column; weak: such as not significant
    marks: str = ""  # shown behind the text, such as *+


@dataclass(frozen=True)
class Table:
    """A table of a report, whatever it is written as.

    A title names dimension, measure, split and n: see `title_of`. The first `left` columns are texts and aligned to the
    left, the others are numbers. Raises ValueError for a row that does not have a cell for each heading.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    left: int = 1

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headings):
                raise ValueError(f"{len(row)} cells are not those of the columns {', '.join(self.headings)}.")

    def without_notes(self, notes: Sequence[str]) -> Table:
        """The table without some of its notes."""
        return replace(self, notes=tuple(note for note in self.notes if note not in notes))


def title_of(metric: str, dimension: str, split: str, n: int | Mapping[str, int], what: str = "") -> str:
    """`CCC of activation, test split, n = 120: mean over 5 seeds`; `n` is of one corpus, or by corpus."""
    sizes = f"{n:,}" if isinstance(n, int) else ", ".join(f"{size:,} ({name})" for name, size in n.items())
    return f"{metric.upper()} of {dimension}, {split} split, n = {sizes}{f': {what}' if what else ''}"


def number(
    value: float | None, deviation: float | None = None, digits: int = 3, emphasis: Emphasis = "", marks: str = ""
) -> Cell:  # fmt: skip
    """The cell of a number, with its standard deviation if there is one: `0.571 ± 0.020`; `-` for None."""
    if value is None:
        return Cell(ABSENT)
    spread = "" if deviation is None else f" ± {deviation:.{digits}f}"
    return Cell(f"{value:.{digits}f}{spread}", value, emphasis, marks)


def markdown(table: Table) -> str:
    """A GitHub-flavoured Markdown table below a heading, and its notes as paragraphs."""
    rules = [":--" if column < table.left else "--:" for column in range(len(table.headings))]
    lines = [
        [_markdown(heading) for heading in table.headings],
        rules,
        *([_markdown_cell(cell) for cell in row] for row in table.rows),
    ]
    parts = [
        f"### {_markdown(table.title)}",
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
        *(_BLOCK_START.sub(r"\1\\", _markdown(note)) for note in table.notes),
    ]
    return "\n\n".join(parts) + "\n"


def latex(table: Table) -> str:
    """A table environment in the style of booktabs. It needs the packages booktabs and graphicx."""
    columns = "".join("l" if column < table.left else "r" for column in range(len(table.headings)))
    lines = [
        r"\begin{table}[ht]",
        r"\centering",
        rf"\caption{{{_latex(table.title)}}}",
        # A table wider than the page is made as wide as the page.
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rf"{' & '.join(map(_latex, table.headings))} \\",
        r"\midrule",
        *(rf"{' & '.join(map(_latex_cell, row))} \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\smallskip{{\footnotesize {_latex(note)}\par}}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_document(tables: Sequence[Table]) -> str:
    """A document of these tables that pdfLaTeX compiles as it is."""
    body = "\n".join(map(latex, tables))
    return f"{PREAMBLE}\\begin{{document}}\n{body}\\end{{document}}\n"


def comma_separated(table: Table) -> str:
    """Headings and rows as CSV: numbers with all their digits, without title, notes, marks and emphasis."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_line, table.headings))
    writer.writerows(
        [_line(cell.text) if cell.value is None else repr(float(cell.value)) for cell in row]
        for row in table.rows
    )
    return text.getvalue()


def _line(text: str) -> str:
    """In one line, with single spaces."""
    return " ".join(text.split())


def _markdown(text: str) -> str:
    return _line(text).translate(_MARKDOWN)


def _markdown_cell(cell: Cell) -> str:
    text = _markdown(cell.text)
    shown = _STRESSED[cell.emphasis].format(text) if text else text
    return f"{shown} {_markdown(cell.marks)}".rstrip()


def _latex(text: str) -> str:
    return _LIGATURE.sub("{}", "".join(map(_latex_sign, _line(text))))


def _latex_sign(sign: str) -> str:
    """One character as pdfLaTeX can set it; without its accents, or as a question mark, if it cannot."""
    if sign in _LATEX:
        return _LATEX[sign]
    if (sign.isascii() and sign.isprintable()) or sign in _LATIN:
        return sign
    plain = "".join(
        part for part in unicodedata.normalize("NFKD", sign) if part.isascii() and part.isprintable()
    )
    return "".join(_LATEX.get(part, part) for part in plain) or "?"


def _latex_cell(cell: Cell) -> str:
    text = _latex(cell.text)
    if cell.value is not None:
        text = re.sub(r"^-", "$-$", text)  # a minus, not a hyphen
    return _LATEX_STRESSED[cell.emphasis] % text + (
        rf"\textsuperscript{{{_latex(cell.marks)}}}" if cell.marks else ""
    )
