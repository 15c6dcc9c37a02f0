"""Tables of a report in LaTeX."""

from __future__ import annotations

from pathlib import Path

import pytest

from ser_memory.train.report.contents import chapters
from ser_memory.train.report.data import load_run
from ser_memory.train.report.formats import latex_document
from ser_memory.train.report.together import labelled
from tests.integration.latex import compile_latex
from tests.train.report.runs import build_run

_TABLE = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage{booktabs}
\begin{document}
\begin{tabular}{lr}
\toprule
strategy & msp-podcast \\
\midrule
finetune & $0.164 \pm 0.050$ \\
experience-replay & \textbf{$0.653 \pm 0.060$} \\
\bottomrule
\end{tabular}
\end{document}
"""


def test_a_table_compiles(tmp_path: Path) -> None:
    assert compile_latex(_TABLE, tmp_path).read_bytes().startswith(b"%PDF")


def test_every_table_of_a_report_compiles(tmp_path: Path) -> None:
    run = load_run(build_run(tmp_path / "run"))
    tables = [named.table for chapter in chapters(labelled([run])) for named in chapter.all_tables]
    assert len(tables) > 20
    assert compile_latex(latex_document(tables), tmp_path).read_bytes().startswith(b"%PDF")


def test_a_table_that_is_wrong_does_not(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Undefined control sequence"):
        compile_latex(_TABLE.replace(r"\toprule", r"\topline"), tmp_path)
