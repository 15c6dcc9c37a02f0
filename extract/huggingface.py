"""Hugging Face models, by name or from a local folder: load them, check them and identify their revision.

The acoustic encoders, the text encoders and the Whisper transcriber use it. Every failure becomes one sentence that
says which option to change.
"""

from __future__ import annotations

import hashlib
import json
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_memory.common.errors import SerError, UsageError

if TYPE_CHECKING:
    import torch

_CONFIG_FILE = "config.json"
_MODEL_FILES = {".json", ".txt", ".safetensors", ".bin", ".model"}  # configuration, vocabulary and weights
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
_TOKENIZERS = (
    "tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "spm.model",
    "sentencepiece.bpe.model", "bpe.codes", "tokenizer_config.json",
)  # fmt: skip
_ABSENT = re.compile(r"does not appear to have a file named (?P<file>[\w.-]+\w)")
# Packages that import others: of a failed import, the last other package is the cause.
_INNOCENT = {"ser_memory", "importlib", "_frozen_importlib", "_frozen_importlib_external", "transformers", "",
             "__main__", "contextlib", "inspect", "typing", "functools", "threading"}  # fmt: skip
# Weights that an encoder does not need: its hidden states do not depend on them.
_UNUSED_BY_ENCODERS = ("masked_spec_embed", "pooler.")


@dataclass(frozen=True)
class Role:
    """What a model is loaded for, in the words of the messages."""

    model: str  # what the messages call it
    option: str  # the command-line option that names the model
    usable: str  # the models that can be used, with their article


ACOUSTIC = Role("acoustic model", "--acoustic-encoder", "a wav2vec2-family or Whisper model")
TEXT = Role("text model", "--text-encoder", "a BERT-class model")
WHISPER = Role("Whisper model", "--whisper-model", "a Whisper model")


@contextmanager
def loading(source: str, role: Role) -> Iterator[None]:
    """Turn every error of the block, which loads a model by name or from a folder, into a SerError.

    The message names what is missing or broken: a file of the model, a package, the name, the connection or a
    permission. Raises UsageError before the block runs if `source` is empty, or a folder that does not exist or holds
    no model. transformers shows no warnings and no progress bars afterwards.
    """
    with importable():
        from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # WavLM gives torch a bool mask and a float mask. torch warns at every call, and its result is right.
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    _check_source(source, role)
    before = _states(source)
    try:
        with importable():
            yield
    except SerError:
        raise
    except Exception as error:  # each kind of wrong folder raises another type of error, even TypeError
        raise SerError(explain(error, source, role)) from error
    if _states(source) != before:
        raise SerError(
            f"The files of {source} were changed while they were loaded: run the same command again."
        )


@contextmanager
def importable() -> Iterator[None]:
    """Turn the failed import of an installed package into a SerError that names the package."""
    try:
        yield
    except SerError:
        raise
    except Exception as error:
        package = _unimportable(error)
        if package is None:
            raise
        cause = _first_line(_causes(error)[-1])
        raise SerError(
            f"The installed package {package} cannot be imported ({cause}): install it again in a version that fits "
            "the other packages, or remove it if nothing needs it."
        ) from error


def explain(error: Exception, source: str, role: Role) -> str:  # noqa: PLR0911  one for each cause
    """One sentence about why a model could not be loaded."""
    local = Path(source).exists()
    give = f"give another model with {role.option}"
    denied = next((each for each in _causes(error) if isinstance(each, PermissionError)), None)
    if denied is not None:
        return f"There is no permission to read {denied.filename or source}: ask for it, or {give}."
    kinds = {type(each).__name__ for each in _causes(error)}
    status = next((each.response.status_code for each in _causes(error) if hasattr(each, "response")
                   and hasattr(each.response, "status_code")), None)  # fmt: skip
    if not local and (kinds & {"GatedRepoError", "DisabledRepoError"} or status in (401, 403)):
        return (
            f"The hub does not give you {source}: it does not exist, or it is private or needs an agreement. Check "
            f"the name, agree on its page, and log in with `hf auth login` (or HF_TOKEN), or {give}."
        )
    if not local and "RepositoryNotFoundError" in kinds:
        return f"The hub has no model {source}: check the name, or {give}."
    missing = _missing(error, source, role)
    if missing is not None and local:
        return f"{source} lacks {missing}: copy the file from where the {role.model} comes from, or {give}."
    if missing is not None:
        return (
            f"The {role.model} {source} is in the cache of the hub without {missing}, and the file could not be "
            f"downloaded{_offline()}: download the whole model, or give its folder with {role.option} FOLDER."
        )
    if "SafetensorError" in kinds or "UnpicklingError" in kinds:
        return f"The weights of {source} cannot be read ({_first_line(error)}): copy or download them again, or {give}."
    absent = _ABSENT.search(str(error))
    if absent is not None:
        return f"The {role.model} {source} has no file {absent['file']} on the hub: {give}."
    if local or _in_cache(source, _CONFIG_FILE):
        return f"{source} holds no usable {role.model}: give {role.option} {role.usable}{_reason(error)}."
    return (
        f"There is no folder {source}, the cache of the hub does not have this {role.model}, and it could not be "
        f"loaded from the Hugging Face hub{_offline()}: check the name and the connection, or download it elsewhere "
        f"and give its folder with {role.option} FOLDER."
    )


def _reason(error: Exception) -> str:
    """What was wrong, unless it is the advice that transformers gives in every case."""
    said = _first_line(_causes(error)[-1])
    unhelpful = any(words in said for words in ("local directory", "huggingface.co", "from_pretrained"))
    return "" if unhelpful or not said else f" (the model's files say: {said.rstrip('.')})"


def _missing(error: Exception, source: str, role: Role) -> str | None:
    """The file that the model lacks, in its folder or in the hub's cache."""
    if not _has(source, _CONFIG_FILE):
        return None if not Path(source).exists() else _CONFIG_FILE
    index = next((name for name in _INDICES if _has(source, name)), None)
    if index is not None:
        absent = [name for name in _shards(source, index) if not _has(source, name)]
        if absent:
            return f"{absent[0]}, a part of its weights"
    elif not any(_has(source, name) for name in _WEIGHTS):
        return f"its weights ({_WEIGHTS[0]})"
    if role is not TEXT and not any(_has(source, name) for name in _PREPROCESSING):
        return _PREPROCESSING[0]
    if role is not ACOUSTIC and not any(_has(source, name) for name in _TOKENIZERS):
        return f"its tokenizer ({_TOKENIZERS[0]})"
    broken = next(
        (each for each in _causes(error) if isinstance(each, FileNotFoundError) and each.filename), None
    )
    return None if broken is None else str(broken.filename)


def _has(source: str, name: str) -> bool:
    return (Path(source) / name).is_file() or _in_cache(source, name)


def _in_cache(source: str, name: str) -> bool:
    return isinstance(_cached(source, name), str)


def _cached(source: str, name: str) -> object:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return None if Path(source).exists() else try_to_load_from_cache(source, name)
    except (HFValidationError, OSError, ValueError):
        return None


def _shards(source: str, index: str) -> list[str]:
    path = Path(source) / index
    try:
        text = (path if path.is_file() else Path(str(_cached(source, index)))).read_text()
        return sorted(set(json.loads(text)["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError):
        return []


def _offline() -> str:
    from huggingface_hub import constants

    return " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it was raised from, the first cause last."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _unimportable(error: Exception) -> str | None:
    """The package in which an import failed; None if the error is of another kind."""
    for cause in reversed(_causes(error)):
        if isinstance(cause, ImportError) and cause.name and not cause.name.startswith("transformers"):
            return cause.name.partition(".")[0]
        names = []
        importing = isinstance(cause, ImportError) or "Failed to import" in str(error)
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            importing = importing or frame.f_code.co_name == "<module>"
            names.append(str(frame.f_globals.get("__name__", "")).partition(".")[0])
        blamed = [name for name in names if name not in _INNOCENT]
        if importing and (blamed or names):
            return blamed[-1] if blamed else "transformers"
    return None


def _states(source: str) -> list[tuple[str, int, int]]:
    """Size and time of a folder's model files, to notice that they are replaced between two readings."""
    folder = Path(source)
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.iterdir() if path.suffix in _MODEL_FILES and path.is_file())
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def _check_source(source: str, role: Role) -> None:
    if not source.strip():
        raise UsageError(f"{role.option} is empty: give a Hugging Face name or a local folder.")
    folder = Path(source)
    if folder.exists() and not (folder / _CONFIG_FILE).exists():
        raise UsageError(
            f"{source} holds no {role.model}, there is no {_CONFIG_FILE}: give {role.option} a folder that "
            "save_pretrained wrote."
        )
    if not folder.exists() and (folder.is_absolute() or source.startswith(".")):
        raise UsageError(
            f"There is no folder {source}: give {role.option} the model's folder or its Hugging Face name."
        )


def load_weights(model_class: Any, source: str, unused: tuple[str, ...] = ()) -> Any:
    """Load a model in float32 on the CPU, in evaluation mode and without gradients.

    `model_class` is a class of transformers. A weight may be missing if its name contains one of `unused`. Raises
    SerError if another weight is missing or not finite; other errors are for `loading` to explain.
    """
    import torch

    model, report = model_class.from_pretrained(source, output_loading_info=True, dtype=torch.float32)
    missing = [key for key in report["missing_keys"] if not any(part in key for part in unused)]
    if missing:
        # transformers would fill them with random numbers and only warn.
        raise SerError(
            f"{source} lacks weights of a {type(model).__name__}, {missing[0]} among them: it is damaged. "
            "Copy or download it again."
        )
    broken = next((key for key, weight in model.named_parameters() if not weight.isfinite().all()), None)
    if broken is not None:
        raise SerError(
            f"{source} has weights that are not finite, {broken} among them: it is damaged. "
            "Copy or download it again."
        )
    return model.eval().requires_grad_(False)


def load_model(source: str, device: torch.device | str) -> Any:
    """Load the model of an encoder, without a head, as `load_weights` does, and move it to `device`."""
    import torch
    from transformers import AutoModel

    model = load_weights(AutoModel, source, _UNUSED_BY_ENCODERS)
    # TF32 has a relative error of 1e-3: float32 must mean float32 on the GPUs that have it too.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return model.to(device)


def config_revision(config: Any, source: str, digits: int | None = None) -> str:
    """The hub's commit of a model by its configuration, or only its first `digits`; for a local folder its `digest`."""
    commit = getattr(config, "_commit_hash", None)
    return str(commit)[:digits] if commit else digest(Path(source))


def digest(folder: Path) -> str:
    """`sha256:` and the first 16 digits of the SHA-256 over the names and contents of a model's files."""
    return _digest_of(folder, tuple(_states(str(folder))))


@cache
def _digest_of(folder: Path, _: tuple[tuple[str, int, int], ...]) -> str:
    """Once for each state of the folder: an encoder is identified, and then loaded."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _MODEL_FILES:
            total.update(path.name.encode())
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{total.hexdigest()[:16]}"
