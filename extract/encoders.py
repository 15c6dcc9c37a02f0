"""Frozen encoders: a batch of utterances in, one pooled row each out.

An encoder has a `name`, a `revision`, a `pooling` and `encode(batch) -> (B, width) float32`. A row never
depends on its batch mates: it agrees with inference on that utterance alone.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from common.errors import SerError, UsageError
from extract.audio import SAMPLING_RATE, Waveform

Rows = npt.NDArray[np.float32]  # (B, width)

EXACT = 1e-5  # relative: a batched row may differ from the utterance alone by rounding only
_CONFIG_FILE = "config.json"
# Weights a checkpoint may lack without harm: neither takes part in inference of the last hidden state.
_UNUSED_WEIGHTS = ("masked_spec_embed", "pooler.")


class AcousticEncoder:
    """A self-supervised speech model of the wav2vec2 family, mean of its last hidden states over time.

    Raw waveforms are zero-padded to a batch. Three places where padding would leak into the valid frames
    are closed: a group norm over time takes its statistics over the valid frames only, position
    convolutions see zeros beyond the end as they would for the utterance alone, and attention is masked.
    Whether that makes the model at hand exact is measured when it is loaded; a model that it does not
    make exact is given batches of equal length, which need no padding.
    """

    pooling = "mean over time of the last hidden states"

    def __init__(
        self, model: nn.Module, normalise: Callable[[Waveform], Waveform], name: str, revision: str
    ) -> None:
        self.name = name
        self.revision = revision
        self._model: Any = model
        self._normalise = normalise
        self._padding = _Padding(model)
        self.pads_exactly = self._measure_exactness()

    @classmethod
    def from_pretrained(cls, name: str, device: torch.device | str = "cpu") -> AcousticEncoder:
        """Load by Hugging Face name or local folder. Raises SerError when it cannot be."""
        from transformers import AutoFeatureExtractor, AutoModel

        with _loading(name, "acoustic"):
            feature_extractor = AutoFeatureExtractor.from_pretrained(name)
            model = _load_model(AutoModel, name)
        if not hasattr(model, "_get_feat_extract_output_lengths"):
            raise SerError(
                f"{name} holds a {type(model).__name__}, which does not take waveforms: give a model of the "
                "wav2vec2 family (Wav2Vec2, HuBERT, WavLM, Data2Vec audio)."
            )
        if feature_extractor.sampling_rate != SAMPLING_RATE:
            raise SerError(
                f"{name} works at {feature_extractor.sampling_rate} Hz; recordings are prepared at {SAMPLING_RATE} Hz."
            )

        def normalise(waveform: Waveform) -> Waveform:
            ready = feature_extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="np")
            return cast(Waveform, ready["input_values"][0].astype(np.float32, copy=False))

        return cls(model.to(device), normalise, name, _revision(model, name))

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self._model.device)

    @property
    def min_samples(self) -> int:
        """Samples that make one frame: anything shorter has no row."""
        samples = 1
        config = self._model.config
        for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
            samples = (samples - 1) * stride + kernel
        return int(samples)

    @torch.inference_mode()
    def encode(self, waveforms: list[Waveform]) -> Rows:
        """(samples,) float32 waveforms at 16 kHz, each at least `min_samples` long -> (B, D) float32."""
        ready = [torch.from_numpy(self._normalise(waveform)) for waveform in waveforms]
        if self.pads_exactly:
            return self._encode_padded(ready)
        rows: dict[int, Rows] = {}
        for group in _equal_lengths(ready):
            rows.update(zip(group, self._encode_padded([ready[i] for i in group]), strict=True))
        return np.stack([rows[i] for i in range(len(ready))])

    def _encode_padded(self, waveforms: list[Tensor]) -> Rows:
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        batch = pad_sequence(waveforms, batch_first=True).to(self.device)
        same_length = bool((lengths == lengths[0]).all())
        mask = None if same_length else _valid(lengths, batch.shape[1]).to(self.device)
        with self._padding.hidden(lengths), warnings.catch_warnings():
            # WavLM hands torch a bool and a float mask; torch says so at every call, and handles it well.
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            states = self._model(batch, attention_mask=mask).last_hidden_state
        return _mean_over_valid(states, self._padding.frames(lengths)).float().cpu().numpy()

    @torch.inference_mode()
    def _measure_exactness(self) -> bool:
        """Encode noise of three lengths together and apart, and compare."""
        noise = torch.Generator().manual_seed(0)
        waveforms = [torch.randn(n, generator=noise) for n in (16_000, 12_000, 7_000)]
        together = self._encode_padded(waveforms)
        apart = np.concatenate([self._encode_padded([waveform]) for waveform in waveforms])
        return relative_error(together, apart) < EXACT


class TextEncoder:
    """A BERT-class model: the last hidden state of the first token (CLS)."""

    pooling = "last hidden state of the first token"

    def __init__(self, model: nn.Module, tokenizer: Any, name: str, revision: str) -> None:
        self.name = name
        self.revision = revision
        self._model: Any = model
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, name: str, device: torch.device | str = "cpu") -> TextEncoder:
        """Load by Hugging Face name or local folder. Raises SerError when it cannot be."""
        from transformers import AutoModel, AutoTokenizer

        with _loading(name, "text"):
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = _load_model(AutoModel, name)
        if "input_ids" not in getattr(tokenizer, "model_input_names", ()) or not hasattr(
            model.config, "max_position_embeddings"
        ):
            raise SerError(
                f"{name} holds a {type(model).__name__}, which does not take text: give a BERT-class model."
            )
        return cls(model.to(device), tokenizer, name, _revision(model, name))

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> Rows:
        """Texts -> (B, E) float32; what exceeds the model's length is cut at its end."""
        limit = min(self._tokenizer.model_max_length, self._model.config.max_position_embeddings)
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        states = self._model(**tokens.to(self._model.device)).last_hidden_state
        return cast(Rows, states[:, 0].float().cpu().numpy())


def relative_error(rows: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """The largest difference of a row from its reference, relative to the reference's largest value."""
    a, b = np.asarray(rows, np.float64), np.asarray(reference, np.float64)
    return float((np.abs(a - b).max(axis=1) / np.abs(b).max(axis=1)).max())


class _Padding:
    """Keeps a batch's padding from being seen inside a wav2vec2-like model, by hooks on its own modules."""

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._lengths: Tensor | None = None  # samples of each waveform while a padded batch is under way
        for index, layer in enumerate(getattr(getattr(model, "feature_extractor", None), "conv_layers", ())):
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                layer.layer_norm = _ValidFramesGroupNorm(norm, partial(self._frames_after, index))
        positions = getattr(getattr(model, "encoder", None), "pos_conv_embed", None)
        for module in positions.modules() if positions is not None else ():
            if isinstance(module, nn.Conv1d):
                module.register_forward_pre_hook(self._silence_padding)

    @contextmanager
    def hidden(self, lengths: Tensor) -> Iterator[None]:
        self._lengths = lengths
        try:
            yield
        finally:
            self._lengths = None

    def frames(self, lengths: Tensor) -> Tensor:
        """Samples -> frames of the last hidden states, both (B,)."""
        return cast(Tensor, self._model._get_feat_extract_output_lengths(lengths)).long()

    def _frames_after(self, depth: int) -> list[int] | None:
        """Valid frames after convolution `depth` of the front end; None outside a batch."""
        if self._lengths is None:
            return None
        frames = self._lengths
        config = self._model.config
        for kernel, stride in list(zip(config.conv_kernel, config.conv_stride, strict=True))[: depth + 1]:
            frames = (frames - kernel) // stride + 1
        return frames.tolist()

    def _silence_padding(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Zero (B, C, T) states beyond each utterance's end, as the convolution's own padding would be."""
        if self._lengths is None or len(self._lengths) == 1:
            return None
        states = inputs[0]
        valid = _valid(self.frames(self._lengths), states.shape[-1]).to(states.device)
        return (states * valid[:, None, :].to(states.dtype), *inputs[1:])


class _ValidFramesGroupNorm(nn.Module):
    """A group norm over time whose statistics come from each row's valid frames only.

    Row by row through the model's own norm: that is what the utterance alone would get, to the last bit.
    Beyond the valid frames the output is zero.
    """

    def __init__(self, norm: nn.GroupNorm, valid_frames: Callable[[], list[int] | None]) -> None:
        super().__init__()
        self.norm = norm
        self._valid_frames = valid_frames

    def forward(self, states: Tensor) -> Tensor:  # (B, C, T)
        frames = self._valid_frames()
        if frames is None or min(frames) == states.shape[-1]:
            return cast(Tensor, self.norm(states))
        normed = torch.zeros_like(states)
        for row, n in enumerate(frames):
            normed[row : row + 1, :, :n] = self.norm(states[row : row + 1, :, :n])
        return normed


def _valid(lengths: Tensor, longest: int) -> Tensor:
    """(B,) lengths -> (B, longest) bool, true before each row's end."""
    return torch.arange(longest)[None, :] < lengths[:, None]


def _mean_over_valid(states: Tensor, frames: Tensor) -> Tensor:
    """(B, T, D) states, (B,) valid frames -> (B, D)."""
    return torch.stack([row[:n].mean(dim=0) for row, n in zip(states, frames.tolist(), strict=True)])


def _equal_lengths(waveforms: list[Tensor]) -> Iterable[list[int]]:
    groups: dict[int, list[int]] = {}
    for index, waveform in enumerate(waveforms):
        groups.setdefault(len(waveform), []).append(index)
    return groups.values()


def _load_model(auto: Any, name: str) -> Any:
    model, report = auto.from_pretrained(name, output_loading_info=True, dtype=torch.float32)
    missing = [key for key in report["missing_keys"] if not any(part in key for part in _UNUSED_WEIGHTS)]
    if missing:
        # Hugging Face would fill them with random numbers and only warn.
        raise SerError(
            f"{name} lacks weights of a {type(model).__name__}, {missing[0]} among them: it is damaged."
        )
    return model.eval().requires_grad_(False)


@contextmanager
def _loading(name: str, kind: str) -> Iterator[None]:
    """Hugging Face's many ways of failing to load, as one sentence each."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
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
    except SafetensorError as error:
        raise SerError(
            f"The weights of {name} cannot be read ({error}): copy or download them again."
        ) from error
    except SerError:
        raise
    except Exception as error:  # a folder of another kind fails in any way at all, with TypeError for one
        if folder.exists():
            reason = str(error).strip().splitlines()[0]
            raise SerError(f"{name} holds no usable {kind} model: {reason}") from error
        raise SerError(
            f"The {kind} model {name} is neither a folder here nor could it be had from the Hugging Face hub: check "
            f"the name and the connection, or download it elsewhere and give its folder as --{kind}-encoder FOLDER."
        ) from error


def _revision(model: Any, name: str) -> str:
    """The hub's commit, or for a local folder a digest of its configuration and weights."""
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return str(commit)
    digest = hashlib.sha256()
    for path in sorted(Path(name).iterdir()):
        if path.suffix in {".json", ".txt", ".safetensors", ".bin", ".model"}:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"
