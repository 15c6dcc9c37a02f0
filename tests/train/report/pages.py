"""A whole report of a simulated run, as the command puts it together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ser_memory.train.report.data import RunData, load_run
from ser_memory.train.report.figures.base import Saved, names_of, save, variant_of
from ser_memory.train.report.figures.forest import Difference, forest
from ser_memory.train.report.figures.gallery import figures_of
from ser_memory.train.report.page import Section, page, reproduction
from ser_memory.train.results import Result
from tests.train.report.tables import Cell, Table


def report_of(folder: Path, output: Path) -> str:
    """The HTML page of a run, its figures in a folder beside it."""
    run = load_run(folder)
    saved = {name: save(drawn, output / "figures", name) for name, drawn in figures_of(run, run.results)}
    saved["forest"] = save(
        forest(_differences(run), "CCC of activation, test split", "finetune"), output, "forest"
    )
    sections = [
        Section(
            "What is forgotten",
            ["Each stage trains on one corpus. All corpora are measured after each stage."],
            tables=[_table(run.results, dimension) for dimension in ("activation", "valence")],
            figures=_those(saved, "stages", "heat"),
        ),
        Section("Differences", ["Paired differences over the seeds."], figures=[saved["forest"]]),
        Section(
            "Predictions and memories",
            sections=[
                Section("Predicted and true values", figures=_those(saved, "agreement")),
                Section("What the memories hold", figures=_those(saved, "memory")),
            ],
        ),
        Section("Training", figures=_those(saved, "learning", "bent", "cost")),
        reproduction([run], f"ser-report {folder}"),
    ]
    return page("Report <of a simulated run>", ["Simulated predictions & no real corpus."], sections)


def _those(saved: dict[str, Saved], *kinds: str) -> list[Saved]:
    return [picture for name, picture in saved.items() if name.partition("-")[0] in kinds]


def _table(results: list[Result], dimension: str) -> Table:
    shown = [
        row
        for row in results
        if (row.dimension, row.metric, row.split) == (dimension, "ccc", "test") and row.stage == 3
    ]
    names, corpora = names_of(results), list(dict.fromkeys(row.corpus for row in shown))
    rows = []
    for variant, name in names.items():
        cells = []
        for corpus in corpora:
            values = [row.value for row in shown if variant_of(row) == variant and row.corpus == corpus]
            if not values:
                cells.append(Cell("-"))
                continue
            marks = "*+" if name != "finetune" and np.mean(values) > 0.6 else ""
            cells.append(
                Cell(
                    f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}", float(np.mean(values)), "", marks
                )
            )
        rows.append((Cell(name), *cells))
    n = shown[0].n
    return Table(
        f"CCC of {dimension} after P+M+I, test split, n = {n}: mean ± standard deviation over 5 seeds",
        ("strategy", *corpora),
        (*rows, (Cell("nobody"), *[Cell("-")] * len(corpora))),
        ("Bold: <b>the best</b>.", "*+ higher than fine-tuning."),
    )


def _differences(run: RunData) -> list[Difference]:
    names = names_of(run.results)
    values = {
        name: np.array(
            [
                row.value
                for row in run.results
                if variant_of(row) == variant
                and (row.stage, row.corpus, row.split) == (3, "msp-podcast", "test")
                and (row.dimension, row.metric) == ("activation", "ccc")
            ]
        )
        for variant, name in names.items()
    }
    base = values.pop("finetune")
    return [
        Difference(
            name,
            float(np.mean(made - base)),
            float(np.min(made - base)),
            float(np.max(made - base)),
            0.01 * (index + 1),
            0.03 * (index + 1),
        )
        for index, (name, made) in enumerate(values.items())
    ]
