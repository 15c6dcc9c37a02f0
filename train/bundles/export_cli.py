"""ser-bundle export: the bundles of a finished run, or a bundle as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ser_memory.common.console import Command, say, table
from ser_memory.common.errors import UsageError

if TYPE_CHECKING:
    from ser_memory.train.bundles.onnx_export import Written

_OF_RUNS, _OF_ONNX = ("estimate_size", "language"), ("output", "acoustic_encoder", "head_only")


@click.command("export", cls=Command)
@click.argument("folder", metavar="RUN|BUNDLE", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--estimate-size", type=click.IntRange(0), default=0, show_default=True, help="As in ser-train."
)
@click.option("--language", default="en", show_default=True, help="As in ser-train.")
@click.option(
    "--onnx", is_flag=True, help="Write a bundle as ONNX files, which need no PyTorch and no ser-memory."
)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder of the ONNX files.")
@click.option("--acoustic-encoder", help="Where the bundle's acoustic encoder is, if not where it was.")
@click.option("--head-only", is_flag=True, help="Write head.onnx only, without the acoustic encoder.")
@click.pass_context
def export(
    context: click.Context, folder: Path, estimate_size: int, language: str, onnx: bool, output: Path | None,
    acoustic_encoder: str | None, head_only: bool,
) -> None:  # fmt: skip
    """Write the bundles of a finished RUN of ser-train, or with --onnx a BUNDLE as ONNX files.

    The bundles go to RUN/bundles, and nothing is trained again. The run's caches and finished stages must still be there.

    The ONNX files are head.onnx, from acoustic and text embeddings to ratings, and model.onnx, from a 16 kHz waveform to
    ratings, with the bundle's stand-in for no text inside. model.yaml makes the folder one for audonnx.load. Each file is
    compared with PyTorch and is not written if it differs.
    """
    _refuse_in_vain(context, _OF_RUNS if onnx else _OF_ONNX, "without" if onnx else "with")
    if not onnx:
        if (folder / "memory.safetensors").exists():
            raise UsageError(f"{folder} is a bundle already: give the folder of a run, or add --onnx.")
        from ser_memory.train.bundles.exporting import export_run

        for made in export_run(folder, estimate_size, language):
            say(str(made))
        return
    if output is None:
        raise UsageError("--onnx needs --output DIR: a folder for the files.")
    from ser_memory.train.bundle_files import read_one
    from ser_memory.train.bundles.onnx_export import export_onnx

    bundle = read_one(folder)
    _report(export_onnx(bundle, output, acoustic_encoder=acoustic_encoder, head_only=head_only))
    say(f"{output}: {bundle.info.title} as ONNX files.")


def _refuse_in_vain(context: click.Context, names: tuple[str, ...], how: str) -> None:
    """Raise UsageError for an option that the other kind of export has."""
    for name in names:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise UsageError(f"--{name.replace('_', '-')} is for an export {how} --onnx: leave it out.")


def _report(written: list[Written]) -> None:
    """Sizes, differences from PyTorch and times of the files."""
    import torch

    rows = [
        [
            each.path.name,
            f"{each.size / 1e6:,.1f} MB",
            f"{each.found.difference:.1g} in {each.found.n:,}",
            *(f"{1000 * seconds:,.3g} ms" for seconds in (each.seconds, each.torch_seconds)),
        ]
        for each in written
    ]
    headers = ["file", "size", "largest difference", "ONNX Runtime", "PyTorch"]
    table(
        f"Time per row of the head and per recording of 5 s, {torch.get_num_threads()} threads", headers, rows
    )
