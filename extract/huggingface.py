"""Hugging Face models, by name or from a local folder: load them, check them and identify their revision.

The acoustic encoders, the text encoders and the Whisper transcriber use it. Every failure becomes one sentence that
says which option to change.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_memory.common.errors import SerError, UsageError

if TYPE_CHECKING:
    import torch

_CONFIG_FILE = "config.json"
_MODEL_FILES = {".json", ".txt", ".safetensors", ".bin", ".model"}  # configuration, vocabulary and weights
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

    Raises UsageError before the block runs if `source` is empty, or a folder that does not exist or holds no model.
    transformers shows no warnings and no progress bars afterwards.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # WavLM gives torch a bool mask and a float mask. torch warns at every call, and its result is right.
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    _check_source(source, role)
    try:
        yield
    except SerError:
        raise
    except SafetensorError as error:
        raise SerError(
            f"The weights of {source} cannot be read ({error}): copy or download them again, or give another model "
            f"with {role.option}."
        ) from error
    except Exception as error:  # each kind of wrong folder raises another type of error, even TypeError
        if Path(source).exists():
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SerError(
                f"{source} holds no usable {role.model}: give {role.option} {role.usable} "
                f"(transformers says: {reason})"
            ) from error
        raise SerError(
            f"There is no folder {source}, and the {role.model} could not be loaded from the Hugging Face hub: check "
            f"the name and the connection, or download it elsewhere and give its folder with {role.option} FOLDER."
        ) from error


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


def revision(model: Any, source: str) -> str:
    """The hub's commit of a loaded model, or for a local folder its `digest`."""
    return config_revision(model.config, source)


def config_revision(config: Any, source: str, digits: int | None = None) -> str:
    """As `revision`, from the model's configuration alone; of a commit, only the first `digits` if given."""
    commit = getattr(config, "_commit_hash", None)
    return str(commit)[:digits] if commit else digest(Path(source))


def digest(folder: Path) -> str:
    """`sha256:` and the first 16 digits of the SHA-256 over the names and contents of a model's files."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _MODEL_FILES:
            total.update(path.name.encode())
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{total.hexdigest()[:16]}"
