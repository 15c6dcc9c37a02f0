"""Loading Hugging Face models by name or from a folder, with every failure told in one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract.revisions import digest

_CONFIG_FILE = "config.json"
# Weights a checkpoint may lack without harm: neither takes part in inference of hidden states.
_UNUSED_WEIGHTS = ("masked_spec_embed", "pooler.")


@contextmanager
def loading(name: str, kind: str) -> Iterator[None]:
    """Turns Hugging Face's many ways of failing to load an acoustic or text model into SerErrors."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # WavLM hands torch a bool and a float mask; torch says so at every call, and handles it well.
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    if not name.strip():
        raise UsageError(f"--{kind}-encoder is empty: give a Hugging Face name or a local folder.")
    folder = Path(name)
    if folder.exists() and not (folder / _CONFIG_FILE).exists():
        raise UsageError(
            f"{name} holds no {kind} model, there is no {_CONFIG_FILE}: give a folder that save_pretrained wrote."
        )
    if not folder.exists() and (folder.is_absolute() or name.startswith(".")):
        raise UsageError(
            f"There is no folder {name}: give the {kind} model's folder or its Hugging Face name."
        )
    try:
        yield
    except SerError:
        raise
    except SafetensorError as error:
        raise SerError(
            f"The weights of {name} cannot be read ({error}): copy or download them again."
        ) from error
    except Exception as error:  # a folder of another kind fails in any way at all, with TypeError for one
        if folder.exists():
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            wanted = "wav2vec2-family or Whisper" if kind == "acoustic" else "BERT-class"
            raise SerError(
                f"{name} holds no usable {kind} model, give a {wanted} one (transformers says: {said})"
            ) from error
        raise SerError(
            f"The {kind} model {name} is neither a folder here nor could it be had from the Hugging Face hub: check "
            f"the name and the connection, or download it elsewhere and give its folder as --{kind}-encoder FOLDER."
        ) from error


def load_model(name: str, device: torch.device | str) -> Any:
    """The bare model of a checkpoint, frozen, in eval mode and float32."""
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(name, output_loading_info=True, dtype=torch.float32)
    missing = [key for key in report["missing_keys"] if not any(part in key for part in _UNUSED_WEIGHTS)]
    if missing:
        # Hugging Face would fill them with random numbers and only warn.
        raise SerError(
            f"{name} lacks weights of a {type(model).__name__}, {missing[0]} among them: it is damaged."
        )
    broken = next((key for key, weight in model.named_parameters() if not weight.isfinite().all()), None)
    if broken is not None:
        raise SerError(f"{name} has weights that are not finite, {broken} among them: it is damaged.")
    # Float32 means float32: TF32 would be off by 1e-3 on the cards that have it.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return model.eval().requires_grad_(False).to(device)


def revision(model: Any, name: str) -> str:
    """The hub's commit, or for a local folder a digest of its configuration and weights."""
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return str(commit)
    return digest(Path(name))
