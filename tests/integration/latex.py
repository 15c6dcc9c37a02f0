"""Compiles LaTeX with pdflatex."""

from __future__ import annotations

import subprocess
from pathlib import Path


def compile_latex(text: str, folder: Path) -> Path:
    """The PDF of a whole document. Raises AssertionError, with the end of LaTeX's log, if it is refused."""
    (folder / "document.tex").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "document.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout, done.stdout
    return folder / "document.pdf"
