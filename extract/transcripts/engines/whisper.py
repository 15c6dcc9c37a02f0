"""Whisper through transformers: greedy decoding in batches, on CPU or GPU, by name or from a folder."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.extract.huggingface import WHISPER, config_revision, load_weights, loading
from ser_memory.extract.transcripts.engines.contract import TranscriberOptions, Transcription
from ser_memory.extract.windows import windows

if TYPE_CHECKING:
    import torch

    from ser_memory.extract.audio import Waveform

_START, _NO_TIMESTAMPS = "<|startoftranscript|>", "<|notimestamps|>"
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
_TASKS = ("transcribe", "translate")
_MULTILINGUAL_VOCABULARY = 51_865  # tokens at least; models of English alone have one fewer
_TOKENS_PER_SECOND = 12  # fast speech has six: a text with more is a loop, and is cut off
_TOKENS_AT_LEAST = 32
_POSITIONS, _PROMPT = (
    448,
    8,
)  # tokens that a decoder of the published models can hold, and those of its prompt


def load(options: TranscriberOptions) -> WhisperTranscriber:
    """Load a model by Hugging Face name or from a local folder.

    Raises SerError if the model or the language cannot be used.
    """
    from ser_memory.common.machine import resolve_devices

    model, processor = _load_model(options.model)
    device = resolve_devices(options.device)[0]  # one GPU transcribes; the encoders may use several
    return WhisperTranscriber(
        model.to(device), processor, options.model, options.language, options.batch_size
    )


def version(options: TranscriberOptions) -> str:
    """The version of the transcriber that `load` would return, without loading the weights."""
    source = options.model
    with loading(source, WHISPER):
        from transformers import AutoConfig, GenerationConfig, WhisperTokenizer

        config = AutoConfig.from_pretrained(source)
        try:
            generation = GenerationConfig.from_pretrained(source)
        except OSError:  # older checkpoints have none
            generation = GenerationConfig.from_model_config(config)
        _complete(generation, config, lambda: WhisperTokenizer.from_pretrained(source).get_vocab())
    return _version(source, config, _check_language(options.language, _languages(generation), source))


class WhisperTranscriber:
    """A WhisperForConditionalGeneration in float32.

    A recording longer than the model's window (30 s) is cut at quiet moments, and the texts of the pieces are joined.
    Confidence is the geometric mean of the token probabilities.
    """

    name = "whisper"
    concurrency = 1
    paid = False

    def __init__(
        self, model: Any, processor: Any, source: str, language: str | None = None, batch_size: int = 16
    ) -> None:
        self.batch_size = batch_size
        self._model, self._processor = model, processor
        _complete(model.generation_config, model.config, processor.tokenizer.get_vocab)
        self._languages = _languages(model.generation_config)
        self._language = _check_language(language, self._languages, source)
        self.version = _version(source, model.config, self._language)

    def transcribe(self, waveforms: list[Waveform]) -> list[Transcription]:
        window = self._processor.feature_extractor.n_samples
        cut = [list(windows([waveform], window)) for waveform in waveforms]
        parts = iter(self._transcribe_windows([piece for each in cut for piece in each]))
        return [_join(list(islice(parts, len(each)))) for each in cut]

    def close(self) -> None:
        pass

    def _transcribe_windows(self, waveforms: list[Waveform]) -> list[Transcription]:
        import torch

        with torch.inference_mode():
            features = self._processor.feature_extractor(
                waveforms, sampling_rate=SAMPLING_RATE, return_tensors="pt"
            ).input_features.to(self._model.device, self._model.dtype)
            states = self._model.get_encoder()(features)
            languages = self._detect_languages(states)
            no_speech = self._no_speech(states)
            seconds = [len(waveform) / SAMPLING_RATE for waveform in waveforms]
            tokens, confidences = self._decode(states, languages, seconds)
        texts = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [
            Transcription(text.strip(), language, confidence, silence)
            for text, language, confidence, silence in zip(
                texts, languages, confidences, no_speech, strict=True
            )
        ]

    def _detect_languages(self, states: Any) -> list[str]:
        """The language of each window: the given or only one, or else the one that the model detects."""
        rows = states.last_hidden_state.shape[0]
        if self._language is not None:
            return [self._language] * rows
        names = {token: name for name, token in self._languages.items()}
        found = self._model.detect_language(
            encoder_outputs=states, generation_config=self._model.generation_config
        )
        return [names[int(token)] for token in found]

    def _no_speech(self, states: Any) -> list[float | None]:
        """The probability of <|nospeech|> as the first token; None if the vocabulary does not have it."""
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
        """The tokens of each window and their geometric mean probability, None without tokens."""
        from transformers import LogitsProcessorList

        config = self._model.generation_config
        room = self._model.config.max_target_positions - _PROMPT
        limits = [min(room, most_tokens(each)) for each in seconds]
        chosen = _ChosenLogProbabilities()
        prompt = {"language": languages, "task": "transcribe"} if self._languages else {}
        generated = self._model.generate(
            encoder_outputs=states,
            do_sample=False,
            num_beams=1,
            return_timestamps=False,
            max_new_tokens=max(limits),
            logits_processor=LogitsProcessorList([chosen]),
            **prompt,
        )
        tokens, confidences = [], []
        for row, (limit, log_probabilities) in enumerate(zip(limits, chosen.rows(), strict=True)):
            # The new tokens are the last ones. Each row has its own limit, so that it does not depend on its batch.
            new = generated[row, -len(chosen.steps) :].tolist()[:limit]
            end = new.index(config.eos_token_id) if config.eos_token_id in new else len(new)
            tokens.append(new[:end])
            counted = log_probabilities[: min(end + 1, limit)]
            confidences.append(math.exp(sum(counted) / len(counted)) if counted else None)
        return tokens, confidences


class _ChosenLogProbabilities:
    """The last of generate's logits processors: records the log probability of the token that greedy search takes."""

    def __init__(self) -> None:
        self.steps: list[list[float]] = []  # step, row

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(scores.float().log_softmax(dim=-1).max(dim=-1).values.tolist())
        return scores

    def rows(self) -> list[list[float]]:
        return [list(row) for row in zip(*self.steps, strict=True)]


def most_tokens(seconds: float) -> int:
    """The largest number of tokens that speech of this many seconds can need."""
    return min(_POSITIONS - _PROMPT, _TOKENS_AT_LEAST + math.ceil(_TOKENS_PER_SECOND * seconds))


def _version(source: str, config: Any, language: str | None) -> str:
    """Name, revision (a commit of the hub or a digest of the local files) and language."""
    name = Path(source).name if Path(source).exists() else source
    return f"{name} {config_revision(config, source, digits=16)}, {language or 'language detected'}"


def _join(parts: list[Transcription]) -> Transcription:
    """Join the windows of one utterance; confidence and probability of no speech are the lowest of all windows."""
    if len(parts) == 1:
        return parts[0]
    confidences = [part.confidence for part in parts if part.confidence is not None]
    no_speech = [part.no_speech for part in parts if part.no_speech is not None]
    return Transcription(
        " ".join(part.text for part in parts if part.text),
        parts[0].language,
        min(confidences, default=None),
        min(no_speech, default=None),
    )


def _load_model(source: str) -> tuple[Any, Any]:
    with loading(source, WHISPER):
        from transformers import AutoConfig, WhisperForConditionalGeneration, WhisperProcessor

        kind = AutoConfig.from_pretrained(source).model_type
        if kind != "whisper":
            raise SerError(f"{source} holds a {kind} model: give {WHISPER.option} {WHISPER.usable}.")
        processor = WhisperProcessor.from_pretrained(source)
        # The output layer shares its weights with the embeddings.
        model = load_weights(WhisperForConditionalGeneration, source, unused=("proj_out",))
    _refuse_other_tokenizers(processor.tokenizer.get_vocab(), model.generation_config, source)
    return model, processor


def _refuse_other_tokenizers(vocabulary: dict[str, int], generation: Any, source: str) -> None:
    """Raise SerError if the tokenizer is not the model's.

    transformers makes an empty tokenizer if there is none, and every text would be empty. Multilingual and
    English-only models have different numbers for the tokens compared here.
    """
    start = generation.decoder_start_token_id
    no_timestamps = getattr(generation, "no_timestamps_token_id", None)
    if vocabulary.get(_START) != start or no_timestamps not in (None, vocabulary.get(_NO_TIMESTAMPS)):
        raise SerError(
            f"{source} has no tokenizer, or that of another model: copy the tokenizer's files of the same Whisper "
            "model into it."
        )


def _complete(generation: Any, config: Any, vocabulary: Callable[[], dict[str, int]]) -> None:
    """Add what the generation configuration of an older checkpoint does not say about languages.

    `vocabulary` gives token -> number; it is called only if needed. A model that lists its languages is
    multilingual. Otherwise the size of the vocabulary decides, as in OpenAI's own code.
    """
    if getattr(generation, "is_multilingual", None) is None:
        listed = bool(getattr(generation, "lang_to_id", None))
        generation.is_multilingual = listed or config.vocab_size >= _MULTILINGUAL_VOCABULARY
    wanted = ("lang_to_id", "task_to_id", "no_timestamps_token_id")
    absent = [name for name in wanted if getattr(generation, name, None) is None]
    if not generation.is_multilingual or not absent:
        return
    numbers = vocabulary()
    found = {
        "lang_to_id": {token: number for token, number in numbers.items() if _LANGUAGE.fullmatch(token)},
        "task_to_id": {task: numbers[f"<|{task}|>"] for task in _TASKS if f"<|{task}|>" in numbers},
        "no_timestamps_token_id": numbers.get(_NO_TIMESTAMPS),
    }
    for name in absent:
        setattr(generation, name, found[name])


def _languages(generation: Any) -> dict[str, int]:
    """Code -> token number of the languages of a model; empty for a model of English alone."""
    if not generation.is_multilingual:
        return {}
    return {token.strip("<|>"): number for token, number in generation.lang_to_id.items()}


def _check_language(language: str | None, known: dict[str, int], source: str) -> str | None:
    """`en` of `en` or `en-US`; None if the language is to be detected.

    Raises UsageError for a language that the model does not know.
    """
    if language is None:
        return None if known else "en"
    code = language.split("-")[0].lower()
    if code not in (known or {"en"}):
        raise UsageError(
            f"{source} does not know the language {language!r}: it knows {listing(sorted(known) or ['en'])}."
        )
    return code
