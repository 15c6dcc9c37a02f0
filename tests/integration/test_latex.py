"""Tables of a report in LaTeX."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.latex import compile_latex

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


def test_a_table_that_is_wrong_does_not(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Undefined control sequence"):
        compile_latex(_TABLE.replace(r"\toprule", r"\topline"), tmp_path)
