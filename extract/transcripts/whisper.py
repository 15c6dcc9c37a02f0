"""Whisper through transformers: greedy, batched, on CPU or GPU, by name or from a folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.extract.revisions import digest
from ser_memory.extract.transcripts.contract import Heard, Options

if TYPE_CHECKING:
    import torch

    from ser_memory.extract.audio import Waveform

_RATE = 16_000  # Hz
_START, _NO_TIMESTAMPS = "<|startoftranscript|>", "<|notimestamps|>"
_CUT_WITHIN = 5.0  # seconds before a piece's latest end in which the quietest moment is looked for
_TOKENS_PER_SECOND = 12  # quick speech has six: what is beyond is a loop, and is cut off
_TOKENS_AT_LEAST = 32
_POSITIONS, _PROMPT = 448, 8  # tokens a decoder of the published models has room for; its prompt takes a few


def load(options: Options) -> WhisperTranscriber:
    """By Hugging Face name or local folder. Raises SerError when it cannot be loaded or used as asked."""
    from ser_memory.common.machine import resolve_devices

    model, processor = _from_pretrained(options.model)
    device = resolve_devices(options.device)[0]  # one card hears; the encoders may have several
    return WhisperTranscriber(
        model.to(device), processor, options.model, options.language, options.batch_size
    )


def version(options: Options) -> str:
    """The version of the transcriber that `load` would give, told without loading the weights."""
    from transformers import AutoConfig, GenerationConfig

    with _loading(options.model):
        config = AutoConfig.from_pretrained(options.model)
        try:
            told = GenerationConfig.from_pretrained(options.model)
        except OSError:  # older checkpoints have none
            told = GenerationConfig.from_model_config(config)
    return _version(options.model, config, _checked(options.language, _languages(told), options.model))


class WhisperTranscriber:
    """A WhisperForConditionalGeneration in float32.

    What is longer than the model's window (30 s) is cut at quiet moments, and the pieces' texts are joined.
    Confidence is the geometric mean of the probabilities of the tokens.
    """

    name = "whisper"
    concurrency = 1
    paid = False

    def __init__(
        self, model: Any, processor: Any, source: str, language: str | None = None, batch_size: int = 16
    ) -> None:
        self.batch_size = batch_size
        self._model, self._processor = model, processor
        self._languages = _languages(model.generation_config)
        self._language = _checked(language, self._languages, source)
        self.version = _version(source, model.config, self._language)

    def transcribe(self, waveforms: list[Waveform]) -> list[Heard]:
        window = self._processor.feature_extractor.n_samples
        cut = [pieces(waveform, window) for waveform in waveforms]
        parts = self._transcribe_windows([piece for each in cut for piece in each])
        heard, start = [], 0
        for each in cut:
            heard.append(_joined(parts[start : start + len(each)]))
            start += len(each)
        return heard

    def close(self) -> None:
        pass

    def _transcribe_windows(self, waveforms: list[Waveform]) -> list[Heard]:
        import torch

        with torch.inference_mode():
            features = self._processor.feature_extractor(
                waveforms, sampling_rate=_RATE, return_tensors="pt"
            ).input_features.to(self._model.device, self._model.dtype)
            states = self._model.get_encoder()(features)
            languages = self._detected(states)
            silent = self._no_speech(states)
            tokens, sure = self._decode(states, languages, [len(waveform) / _RATE for waveform in waveforms])
        texts = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [
            Heard(text.strip(), language, confidence, no_speech)
            for text, language, confidence, no_speech in zip(texts, languages, sure, silent, strict=True)
        ]

    def _detected(self, states: Any) -> list[str]:
        """The language of each window: the one asked for (or the model's only one), or what it hears."""
        rows = states.last_hidden_state.shape[0]
        if self._language is not None:
            return [self._language] * rows
        names = {token: name for name, token in self._languages.items()}
        found = self._model.detect_language(
            encoder_outputs=states, generation_config=self._model.generation_config
        )
        return [names[int(token)] for token in found]

    def _no_speech(self, states: Any) -> list[float | None]:
        """The probability of <|nospeech|> as the first token, where the vocabulary has it."""
        import torch

        rows = states.last_hidden_state.shape[0]
        tokenizer = self._processor.tokenizer
        names = ("<|nospeech|>", "<|nocaptions|>")  # the second is the older name
        known = [tokenizer.convert_tokens_to_ids(name) for name in names if name in tokenizer.get_vocab()]
        if not known:
            return [None] * rows
        start = torch.full(
            (rows, 1), self._model.generation_config.decoder_start_token_id, device=self._model.device
        )
        logits = self._model(encoder_outputs=states, decoder_input_ids=start).logits[:, 0].float()
        return [float(each) for each in logits.softmax(dim=-1)[:, known[0]]]

    def _decode(
        self, states: Any, languages: list[str], seconds: list[float]
    ) -> tuple[list[list[int]], list[float | None]]:
        """Tokens of each window, and their geometric mean probability."""
        from transformers import LogitsProcessorList

        config = self._model.generation_config
        room = self._model.config.max_target_positions - _PROMPT
        most = [min(room, most_tokens(each)) for each in seconds]
        watch = _ChosenLogProbabilities()
        spoken = {"language": languages, "task": "transcribe"} if self._languages else {}
        made = self._model.generate(
            encoder_outputs=states,
            do_sample=False,
            num_beams=1,
            return_timestamps=False,
            max_new_tokens=max(most),
            logits_processor=LogitsProcessorList([watch]),
            **spoken,
        )
        steps = len(watch.steps)
        log_probabilities = watch.rows()
        tokens, sure = [], []
        for row, limit in enumerate(most):
            # The new tokens are the last ones. A row's own limit, so that it does not depend on its batch mates.
            new = made[row, -steps:].tolist()[:limit]
            end = new.index(config.eos_token_id) if config.eos_token_id in new else len(new)
            tokens.append(new[:end])
            counted = log_probabilities[row][: min(end + 1, limit)]
            sure.append(math.exp(sum(counted) / len(counted)) if counted else None)
        return tokens, sure


class _ChosenLogProbabilities:
    """Stands last among generate's logits processors and notes the log probability of what greedy search takes."""

    def __init__(self) -> None:
        self.steps: list[list[float]] = []  # step, row

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(scores.float().log_softmax(dim=-1).max(dim=-1).values.tolist())
        return scores

    def rows(self) -> list[list[float]]:
        return [list(row) for row in zip(*self.steps, strict=True)]


def pieces(waveform: Waveform, most: int) -> list[Waveform]:
    """A waveform in pieces of at most `most` samples, cut where it is quietest shortly before it must be."""
    cut = []
    while len(waveform) > most:
        first = max(1, most - int(_CUT_WITHIN * _RATE), most // 2)
        tail = waveform[first:most].astype(np.float64)
        frame = min(_RATE // 10, len(tail))
        level = np.convolve(tail**2, np.ones(frame), mode="valid")
        end = first + int(level.argmin()) + frame // 2
        cut.append(waveform[:end])
        waveform = waveform[end:]
    return [*cut, waveform]


def most_tokens(seconds: float) -> int:
    """How many tokens a window of so much audio can need, at most."""
    return min(_POSITIONS - _PROMPT, _TOKENS_AT_LEAST + math.ceil(_TOKENS_PER_SECOND * seconds))


def _version(source: str, config: Any, language: str | None) -> str:
    """Name, the hub's commit or for a local folder a digest of its files, and language."""
    name = Path(source).name if Path(source).exists() else source
    commit = getattr(config, "_commit_hash", None)
    revision = str(commit)[:16] if commit else digest(Path(source))
    return f"{name} {revision}, {language or 'language detected'}"


def _joined(parts: list[Heard]) -> Heard:
    """One utterance of the windows it was cut into; confidence and belief in silence are the least favourable."""
    if len(parts) == 1:
        return parts[0]
    sure = [part.confidence for part in parts if part.confidence is not None]
    silent = [part.no_speech for part in parts if part.no_speech is not None]
    return Heard(
        " ".join(part.text for part in parts if part.text),
        parts[0].language,
        min(sure) if sure else None,
        min(silent) if silent else None,
    )


def _from_pretrained(source: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig, WhisperForConditionalGeneration, WhisperProcessor

    whisper: Any = WhisperForConditionalGeneration
    with _loading(source):
        kind = AutoConfig.from_pretrained(source).model_type
        if kind != "whisper":
            raise SerError(f"{source} holds no usable Whisper model but a {kind} one: give a Whisper model.")
        processor = WhisperProcessor.from_pretrained(source)
        model, report = whisper.from_pretrained(source, output_loading_info=True, dtype=torch.float32)
    missing = [key for key in report["missing_keys"] if "proj_out" not in key]  # tied to the embeddings
    if missing:
        raise SerError(f"{source} lacks weights of a Whisper model, {listing(missing, most=1)} among them.")
    _refuse_other_tokenizers(processor.tokenizer.get_vocab(), model.generation_config, source)
    return model.eval().requires_grad_(False), processor


def _refuse_other_tokenizers(vocabulary: dict[str, int], config: Any, source: str) -> None:
    """transformers makes up a tokenizer where there is none, and that reads whatever was heard as nothing.

    Multilingual models and those of English alone number the tokens looked at differently.
    """
    start, none = config.decoder_start_token_id, getattr(config, "no_timestamps_token_id", None)
    if vocabulary.get(_START) != start or none not in (None, vocabulary.get(_NO_TIMESTAMPS)):
        raise SerError(
            f"{source} has no tokenizer, or that of another model: copy the tokenizer's files of the same Whisper "
            "model into it."
        )


@contextmanager
def _loading(source: str) -> Iterator[None]:
    """Turns Hugging Face's many ways of failing to load a model into SerErrors."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not source.strip():
        raise UsageError("--whisper-model is empty: give a Hugging Face name or a local folder.")
    folder = Path(source)
    if folder.exists() and not (folder / "config.json").exists():
        raise UsageError(
            f"{source} holds no Whisper model, there is no config.json: give a folder that save_pretrained wrote."
        )
    try:
        yield
    except SerError:
        raise
    except Exception as error:  # a folder of another kind fails in any way at all
        if folder.exists():
            reason = (str(error).strip().splitlines() or ["it cannot be read"])[0]
            raise SerError(f"{source} holds no usable Whisper model: {reason}") from error
        raise SerError(
            f"The Whisper model {source} is neither a folder here nor could it be had from the Hugging Face hub: "
            "check the name and the connection, or download it elsewhere and give its folder as --whisper-model FOLDER."
        ) from error


def _languages(config: Any) -> dict[str, int]:
    """Code -> token of the languages a generation configuration knows; none for a model of English alone."""
    if not getattr(config, "is_multilingual", False):
        return {}
    return {token.strip("<|>"): number for token, number in config.lang_to_id.items()}


def _checked(language: str | None, known: dict[str, int], source: str) -> str | None:
    """`en` of `en` or `en-US`; None is found out. Raises UsageError for a language the model does not have."""
    if language is None:
        return None if known else "en"
    code = language.split("-")[0].lower()
    if code not in (known or {"en"}):
        raise UsageError(
            f"{source} does not know the language {language!r}: it knows {listing(sorted(known) or ['en'])}."
        )
    return code
