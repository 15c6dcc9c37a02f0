"""A bundle: a trained model, and what its strategy keeps of the corpora so far, as a folder that stands alone.

    config.json          what the model is, where it comes from, and the length and SHA-256 of the other files
    model.safetensors    the parameters, and means and variances of the embeddings of each corpus
    memory.safetensors   what the strategy keeps: rows, statistics, sums or parameters
    README.md            a model card

Nothing in it names an utterance, a recording, a speaker or a transcript. Reading it runs no code of the bundle.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ser_memory.common.conventions import RATED
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.files import write_whole
from ser_memory.common.strict import read_as
from ser_memory.train.bundle import Bundle, BundleInfo, Tensors, model_of, options_in
from ser_memory.train.memory.prototypes import Prototypes
from ser_memory.train.memory.remedies import from_bytes, to_bytes
from ser_memory.train.model import Architecture, Network
from ser_memory.train.ridge import Sums
from ser_memory.train.samples import UNKNOWN_SPEAKER, Samples
from ser_memory.train.settings import MemorySettings
from ser_memory.train.strategies import STRATEGIES, ClosedFormStrategy, Kept

FORMAT, FORMAT_VERSION = "ser-bundle", 1
CONFIG, MODEL, MEMORY, CARD = "config.json", "model.safetensors", "memory.safetensors", "README.md"
FILES = (CONFIG, MODEL, MEMORY, CARD)
_LARGEST_CONFIG = 1 << 24  # bytes
# What the bundles of several seeds of one model have in common.
_OF_A_MODEL = (
    "strategy", "sampler", "memory_size", "fold", "architecture", "stage_name", "encoders", "layer", "label_scale", "later",
    "memory",
)  # fmt: skip
_STAGE = re.compile(r"stage-(\d+)")
_PLACE = re.compile(r"(\d+)\.([a-z_]+)(?:\.([a-z+_]+))?(?:\.([a-z]+))?")
_ROW_PARTS = ("acoustic", "text", "targets", "speakers", "labels")
_CODED = ("codes", "first", "step")  # of an embedding in 8 bits
_ROUNDING = 1e-5  # of float32, for a label at an end of [-1, 1]


def bundles_in(path: Path) -> list[Path]:
    """The bundles of one model: `path` itself, or of each seed below it the last stage.

    Raises SerError if there is none, or if there are several models, such as those of a whole run.
    """
    if _looks_like_one(path):
        return [path]
    last: dict[Path, tuple[int, Path]] = {}
    found_here = (
        [each for each in sorted(path.rglob(CONFIG)) if _looks_like_one(each.parent)] if path.is_dir() else []
    )
    for config in found_here:
        stage = _STAGE.fullmatch(config.parent.name)
        group = config.parent.parent if stage else config.parent
        found = (int(stage[1]) if stage else 0, config.parent)
        last[group] = max(last.get(group, found), found)
    if not last:
        raise SerError(
            f"There is no bundle in {path}: give a folder that ser-train --bundles or ser-bundle export wrote, such as "
            "RUN/bundles/gem-random/seed-0/stage-2."
        )
    models = list(dict.fromkeys(group.parent for group in last))
    if len(models) > 1:
        raise SerError(
            f"{path} has the bundles of {len(models)} models: give one of {listing(models, most=6)}."
        )
    return [folder for _, folder in last.values()]


def _looks_like_one(folder: Path) -> bool:
    """Whether a folder has a file that only bundles have."""
    return (folder / CONFIG).is_file() and (folder / MEMORY).is_file()


def write_bundle(folder: Path, bundle: Bundle, card: str) -> None:
    """Write a bundle as a folder, whole or not at all, in place of one that is there.

    `card` is the text of README.md. Raises SerError if the disk refuses.
    """
    files = {MODEL: save(_model_tensors(bundle)), MEMORY: save(_memory_tensors(bundle))}
    config = _config(bundle.info, files)
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        for name, content in {**files, CARD: card.encode(), CONFIG: config.encode()}.items():
            write_whole(partial / name, content)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        raise SerError(
            f"The bundle {folder} cannot be written ({error.strerror}): solve that and run it again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_bundle(folder: Path) -> Bundle:
    """A bundle, checked: whole, unchanged, of this format version, finite, and with the shapes of its own description.

    Raises SerError in one sentence otherwise.
    """
    content = _read_config(folder)
    try:
        info = read_as(BundleInfo, content["bundle"])
        _check_info(info)
        if set(content["files"]) != {MODEL, MEMORY}:
            raise ValueError(f"files {listing(content['files'])}")
        tensors = {name: _read_tensors(folder, name, content["files"]) for name in (MODEL, MEMORY)}
        bundle = _assemble(info, tensors[MODEL], tensors[MEMORY])
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, SafetensorError, UsageError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise SerError(
            f"The bundle {folder} is not what this program writes ({why}): copy it again."
        ) from None
    return replace(bundle, folder=folder, checksum=content["checksum"])


def read_one(path: Path) -> Bundle:
    """The bundle of a folder with one; see `bundles_in`. Raises SerError as `read_bundle` does, and for several."""
    found = bundles_in(path)
    if len(found) > 1:
        raise SerError(f"{path} has {len(found)} bundles: name one of them, such as {found[0]}.")
    return read_bundle(found[0])


def read_seeds(path: Path) -> list[Bundle]:
    """The bundles of one model, of each seed one; see `bundles_in`.

    Raises SerError as `read_bundle` does, and if they are not of one model but for the seed.
    """
    bundles = [read_bundle(folder) for folder in bundles_in(path)]
    first = bundles[0]
    for other in bundles[1:]:
        differing = [name for name in _OF_A_MODEL if getattr(other.info, name) != getattr(first.info, name)]
        if [seen.name for seen in other.info.seen] != [seen.name for seen in first.info.seen]:
            differing.append("corpora")
        if other.info.seed in [each.info.seed for each in bundles if each is not other]:
            differing = ["nothing, not even the seed"]
        if differing:
            raise SerError(
                f"{first.folder} and {other.folder} differ in {listing(differing)}, so they are not seeds of one model: "
                "give one of them."
            )
    return bundles


def read_info(folder: Path) -> BundleInfo:
    """What a bundle is, without its tensors. Raises SerError as `read_bundle` does."""
    content = _read_config(folder)
    try:
        info = read_as(BundleInfo, content["bundle"])
        _check_info(info)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise SerError(
            f"The bundle {folder} is not what this program writes ({error}): copy it again."
        ) from None
    return info


def _config(info: BundleInfo, files: Mapping[str, bytes]) -> str:
    facts = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    content = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "bundle": asdict(info), "files": facts
    }  # fmt: skip
    return json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n"


def _checksum(content: Mapping[str, Any]) -> str:
    told = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json, checked against its own checksum."""
    path = folder / CONFIG
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ValueError
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError
    except FileNotFoundError:
        raise SerError(f"There is no bundle in {folder}: it has no {CONFIG}.") from None
    except OSError as error:
        raise SerError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise SerError(f"{path} is not that of a bundle of ser-train: it was changed or cut off.") from None
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise SerError(
            f"The bundle {folder} has format version {version}, and this program reads version {FORMAT_VERSION}: use the "
            "version of ser-memory that wrote it, or a newer one."
        )
    if content.get("checksum") != _checksum(content):
        raise SerError(f"{path} was changed after it was written: copy the bundle again.")
    return content


def _read_tensors(folder: Path, name: str, files: Mapping[str, Any]) -> Tensors:
    """The tensors of a file that has the length and digest that config.json says; on the CPU."""
    path, length, digest = folder / name, files[name]["bytes"], files[name]["sha256"]
    try:
        size = path.stat().st_size
        if size != length:
            raise SerError(
                f"{path} has {size} bytes instead of {length}: it was cut off or changed, copy it again."
            )
        content = path.read_bytes()
    except OSError as error:
        raise SerError(f"{path} cannot be read ({error.strerror}): copy the bundle again.") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise SerError(f"{path} was changed after it was written: copy the bundle again.")
    tensors: Tensors = load(content)
    return tensors


def _check_info(info: BundleInfo) -> None:
    """Raise ValueError or UsageError for what contradicts itself or is unknown here."""
    if info.strategy not in STRATEGIES:
        raise ValueError(f"strategy {info.strategy!r}")
    options_in(info, STRATEGIES[info.strategy])
    MemorySettings.take(info.memory)
    if not info.seen or len(info.seen) != info.stage:
        raise ValueError(f"{len(info.seen)} corpora at stage {info.stage}")
    for seen in info.seen:
        if seen.n < 1 or not 0 < seen.radius < math.inf or not set(seen.rated) <= set(RATED):
            raise ValueError(f"corpus {seen.name}")
    if min(info.architecture.acoustic_width, info.architecture.text_width) < 1:
        raise ValueError("embeddings without columns")


def _model_tensors(bundle: Bundle) -> Tensors:
    statistics = {name: getattr(bundle, name) for name in ("means", "variances", "text_means")}
    return {
        "parameters": bundle.parameters.contiguous(),
        **{name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in statistics.items()},
    }


def _memory_tensors(bundle: Bundle) -> Tensors:
    """What is kept, under `<place of the corpus, from 1>.<field>`, perhaps with further parts."""
    made: Tensors = {}
    for place, kept in enumerate(bundle.kept, start=1):
        for name, value in vars(kept).items():
            if value is not None:
                parts = _parts(value)
                if bundle.info.memory.get("memory_bits") == "8" and isinstance(value, Samples):
                    parts = _in_bytes(parts)
                made |= {f"{place}.{name}{part}": each for part, each in parts.items()}
    for place, rows in enumerate(bundle.estimates, start=1):
        if rows is not None:
            made |= {f"{place}.estimate{part}": each for part, each in _parts(rows).items()}
    return {name: tensor.cpu().contiguous() for name, tensor in made.items()}


def _parts(value: Any) -> Tensors:
    """The tensors of one field of `Kept`, by the end of their names."""
    if isinstance(value, Tensor):
        return {"": value}
    if isinstance(value, Samples):
        whole = value.select(torch.arange(len(value)))
        parts = {f".{name}": getattr(whole, name) for name in _ROW_PARTS if name != "labels"}
        same = whole.labels.shape == whole.targets.shape and torch.equal(
            whole.labels.nan_to_num(nan=2.0), whole.targets.nan_to_num(nan=2.0)
        )
        return parts if same else {**parts, ".labels": whole.labels}
    if isinstance(value, Prototypes):
        arrays = {name: getattr(value, name) for name in ("counts", "means", "factors")}
        return {f".{name}": torch.from_numpy(np.ascontiguousarray(each)) for name, each in arrays.items()}
    parts = {}
    for names, sums in value.items():
        own = {
            **vars(sums),
            "n": np.int64(sums.n),
            "products": sums.products[np.tril_indices(len(sums.features))],
        }
        parts |= {
            f".{'+'.join(names)}.{name}": torch.from_numpy(np.array(each)) for name, each in own.items()
        }
    return parts


def _in_bytes(parts: Tensors) -> Tensors:
    """Embeddings in 8 bits where that gives the same values back; rows of an earlier bundle may have more."""
    made = dict(parts)
    for name in (".acoustic", ".text"):
        values = parts[name].cpu().numpy()
        encoded = to_bytes(values)
        if np.array_equal(from_bytes(*encoded), values):
            del made[name]
            own = zip(_CODED, encoded, strict=True)
            made |= {f"{name}.{part}": torch.from_numpy(np.ascontiguousarray(each)) for part, each in own}
    return made


def _from_bytes(name: str, parts: Tensors) -> Tensors:
    """Embeddings of 8 bits as values. Raises ValueError for parts that do not fit each other."""
    made = {each: tensor for each, tensor in parts.items() if "." not in each}
    for kind in {each.partition(".")[0] for each in parts if "." in each}:
        coded = {part: parts.get(f"{kind}.{part}") for part in _CODED}
        codes, first, step = coded.values()
        if kind in made or codes is None or first is None or step is None:
            raise ValueError(f"{name}.{kind} is not whole")
        _check(f"{name}.{kind}", codes, tuple(codes.shape), torch.uint8)
        for part in (first, step):
            _check(f"{name}.{kind}", part, tuple(codes.shape[1:]), torch.float32)
        made[kind] = torch.from_numpy(from_bytes(codes.numpy(), first.numpy(), step.numpy()))
    return made


def _assemble(info: BundleInfo, model: Tensors, memory: Tensors) -> Bundle:
    """Raises ValueError for tensors that do not fit the description, or are not finite."""
    network, seen, architecture = model_of(info), len(info.seen), info.architecture
    closed = not isinstance(network, Network)
    shapes = {
        "parameters": (network.size,),
        "means": (seen, architecture.acoustic_width),
        "variances": (seen, architecture.acoustic_width),
        "text_means": (seen, architecture.text_width),
    }
    _refuse_names(model, shapes)
    for name, shape in shapes.items():
        kind = torch.float64 if closed and name == "parameters" else torch.float32
        _check(name, model[name], shape, kind)
    if bool((model["variances"] < 0).any()):
        raise ValueError("variances below 0")
    rows, fields = _Rows(architecture), _fields(memory)
    beyond = [
        name for place, name in fields if not 1 <= place <= (1 if closed and name != "estimate" else seen)
    ]
    if beyond:
        raise ValueError(f"{beyond[0]} of a corpus that is not there")
    estimates = [
        rows.samples(f"{place}.estimate", fields.get((place, "estimate"))) for place in _places(seen)
    ]
    kept = [
        _kept(
            {name: each for (at, name), each in fields.items() if at == place and name != "estimate"},
            info,
            rows,
        )
        for place in _places(1 if closed else seen)
    ]
    means, variances, texts = (model[name].numpy() for name in ("means", "variances", "text_means"))
    return Bundle(info, model["parameters"], tuple(kept), means, variances, texts, tuple(estimates))


def _places(n: int) -> range:
    return range(1, n + 1)


def _fields(memory: Tensors) -> dict[tuple[int, str], Tensors]:
    """The tensors of each field of each corpus, by the rest of their names."""
    found: dict[tuple[int, str], Tensors] = {}
    for name, tensor in memory.items():
        match = _PLACE.fullmatch(name)
        if match is None:
            raise ValueError(f"unknown tensor {name}")
        rest = ".".join(part for part in match.groups()[2:] if part)
        found.setdefault((int(match[1]), match[2]), {})[rest] = tensor
    return found


@dataclass(frozen=True)
class _Rows:
    """Checks and joins the tensors of remembered utterances."""

    architecture: Architecture

    @property
    def acoustic(self) -> tuple[int, ...]:
        """The shape of one acoustic row."""
        a = self.architecture
        return (a.layers, a.acoustic_width) if a.layers else (a.acoustic_width,)

    def samples(self, name: str, parts: Tensors | None) -> Samples | None:
        if parts is None:
            return None
        parts = _from_bytes(name, parts)
        a, n = self.architecture, len(parts["targets"])
        columns = len(a.dimensions)
        expected = {"acoustic": self.acoustic, "text": (a.text_width,), "targets": (columns,), "speakers": ()}
        labels = parts.get("labels")
        _refuse_names({each: tensor for each, tensor in parts.items() if each != "labels"}, expected)
        for part, shape in expected.items():
            kind = torch.int64 if part == "speakers" else torch.float32
            _check(f"{name}.{part}", parts[part], (n, *shape), kind, finite=part != "targets")
        if labels is not None:
            _check(f"{name}.labels", labels, (n, *labels.shape[1:2]), torch.float32, finite=False)
        for each in (parts["targets"], *([] if labels is None else [labels])):
            if bool((each.abs() > 1 + _ROUNDING).any()):
                raise ValueError(f"{name} has labels outside [-1, 1]")
        if n == 0 or bool((parts["speakers"] < UNKNOWN_SPEAKER).any()):
            raise ValueError(f"{name} has {'no rows' if n == 0 else 'unknown codes of speakers'}")
        return Samples(
            parts["acoustic"],
            parts["text"],
            torch.arange(n),
            parts["targets"],
            parts["speakers"],
            rated=labels,
        )


def _kept(fields: Mapping[str, Tensors], info: BundleInfo, rows: _Rows) -> Kept:
    """What is kept of one corpus."""
    made: dict[str, Any] = {}
    columns, size = (
        len(info.dimensions),
        0 if info.strategy == "analytic" else Network(info.architecture).size,
    )
    for name, parts in fields.items():
        if name in ("samples", "held_out"):
            made[name] = rows.samples(name, parts)
        elif name == "prototypes":
            made[name] = _prototypes(parts, rows, columns)
        elif name == "sums":
            made[name] = _sums(parts, info)
        elif name in ("answers", "parameters", "importance", "rated"):
            _refuse_names(parts, [""])
            made[name] = parts[""]
        else:
            raise ValueError(f"unknown field {name}")
    for name in ("parameters", "importance"):
        if name in made:
            _check(name, made[name], (1, size), torch.float32)
    if "rated" in made:
        _check("rated", made["rated"], (columns,), torch.bool)
    if "answers" in made:
        n = len(made["samples"]) if made.get("samples") is not None else 0
        _check("answers", made["answers"], (1, n, columns), torch.float32, finite=False)
        if bool(made["answers"].isinf().any()):
            raise ValueError("answers that are not finite")
    return Kept(**made)


def _prototypes(parts: Tensors, rows: _Rows, columns: int) -> Prototypes:
    _refuse_names(parts, ["counts", "means", "factors"])
    cells, rank = len(parts["counts"]), parts["factors"].shape[-1] if parts["factors"].ndim == 3 else 0  # noqa: PLR2004
    width = math.prod(rows.acoustic) + rows.architecture.text_width + columns
    _check("prototypes.counts", parts["counts"], (cells,), torch.int64)
    _check("prototypes.means", parts["means"], (cells, width), torch.float32, finite=False)
    _check("prototypes.factors", parts["factors"], (cells, width, rank), torch.float32)
    embedded = parts["means"][:, :-columns]
    if bool((parts["counts"] < 0).any()) or not parts["counts"].any() or not bool(embedded.isfinite().all()):
        raise ValueError("prototypes that are not finite or of no utterance")
    arrays = {name: tensor.numpy() for name, tensor in parts.items()}
    return Prototypes(**arrays, acoustic_shape=rows.acoustic, dimensions=columns)


def _sums(parts: Tensors, info: BundleInfo) -> dict[tuple[str, ...], Sums]:
    """Sums by the dimensions that are rated; the symmetric products are kept as one triangle."""
    strategy = model_of(info)
    assert isinstance(strategy, ClosedFormStrategy)
    f, found = strategy.columns, dict[str, Tensors]()
    for name, tensor in parts.items():
        pattern, _, part = name.rpartition(".")
        found.setdefault(pattern, {})[part] = tensor
    made = {}
    for pattern, own in found.items():
        names = tuple(pattern.split("+"))
        k = len(names)
        if names != tuple(each for each in info.dimensions if each in names):
            raise ValueError(f"sums of {pattern}")
        shapes = {
            "n": (),
            "features": (f,),
            "products": (f * (f + 1) // 2,),
            "cross": (f, k),
            "targets": (k,),
            "squares": (k,),
        }
        _refuse_names(own, shapes)
        for part, shape in shapes.items():
            _check(f"sums.{part}", own[part], shape, torch.int64 if part == "n" else torch.float64)
        products = np.zeros((f, f), order="F")
        products[np.tril_indices(f)] = own["products"].numpy()
        products.T[np.tril_indices(f)] = own["products"].numpy()
        arrays = {part: tensor.numpy() for part, tensor in own.items() if part not in ("n", "products")}
        made[names] = Sums(int(own["n"]), products=products, **arrays)
    return made


def _refuse_names(tensors: Mapping[str, Tensor], expected: Mapping[str, Any] | Sequence[str]) -> None:
    if set(tensors) != set(expected):
        raise ValueError(f"tensors {listing(sorted(tensors))} instead of {listing(sorted(expected))}")


def _check(
    name: str, tensor: Tensor, shape: tuple[int, ...], kind: torch.dtype, *, finite: bool = True
) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != kind:
        raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)} instead of {kind} {shape}")
    if finite and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} has values that are not finite")
