"""BERT-class text encoders."""

from __future__ import annotations

import threading
from typing import Any, cast

import torch
from torch import Tensor

from ser_memory.common.errors import SerError
from ser_memory.extract.encoders.contract import EXACT, TextEncoder, TextIdentity, relative_error
from ser_memory.extract.huggingface import config_revision, load_model

# Two texts that begin in the same way and then differ, in letters and in digits: some vocabularies lack one of them.
_PROBES = ["1 good day 2", "1 bad day 3"]
# Texts of one length, and of several, to measure whether a row depends on its batch mates.
_EQUAL = ["1 good day 2", "2 day good 1"]
_MIXED = ["1 good day 2", "1 bad day 3 " * 12, ""]


class BertEncoder(TextEncoder):
    """A BERT-class model: the last hidden state of the first token (CLS).

    Texts are padded to a batch. Whether a row depends on its batch mates is measured when the model is loaded (FNet,
    for instance, mixes padding into every token). If so, a batch has texts of equal length, or one text.
    """

    def __init__(self, model: Any, tokenizer: Any, identity: TextIdentity) -> None:
        super().__init__(identity)
        self._model = model
        self._tokenizer = tokenizer
        self._one_at_a_time = threading.Lock()  # a fast tokenizer refuses to be used by two threads at once
        self.pads_exactly = self.batches_exactly = True
        self._limit = min(tokenizer.model_max_length, model.config.max_position_embeddings - _reserved(model))

    @classmethod
    def load(cls, name: str, device: torch.device | str) -> BertEncoder:
        """From a Hugging Face name or local folder.

        Raises SerError for a model of another kind, and for one that gives different texts the same row:
        transformers makes up a tokenizer if the folder has none, and every word is unknown to it.
        """
        identity = cls.identify(name)
        model = load_model(name, device)
        encoder = cls(model, _load_tokenizer(name, model), identity)
        encoder._refuse_if_causal()
        encoder.batches_exactly = encoder._is_exact(_EQUAL)
        encoder.pads_exactly = encoder.batches_exactly and encoder._is_exact(_MIXED)
        return encoder

    @classmethod
    def identify(cls, name: str) -> TextIdentity:
        """From the model's configuration alone. Raises SerError for a model of another kind."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(name)
        _refuse_other_kinds(config, name)
        return TextIdentity(name, config_revision(config, name), "last hidden state of the first token")

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self._model.device)

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> Tensor:
        """Texts -> (B, E) float32 on the device; a text longer than the model's input is cut at its end."""
        if self.pads_exactly or len(texts) == 1:
            return self._padded(texts)
        groups = self._equal_lengths(texts) if self.batches_exactly else [[i] for i in range(len(texts))]
        rows = torch.cat([self._padded([texts[i] for i in group]) for group in groups])
        return rows[torch.tensor([i for group in groups for i in group]).argsort().to(rows.device)]

    def _padded(self, texts: list[str]) -> Tensor:
        with self._one_at_a_time:
            tokens = self._tokenizer(
                texts, padding=True, truncation=True, max_length=self._limit, return_tensors="pt"
            )
        states = self._model(**tokens.to(self._model.device)).last_hidden_state
        return cast(Tensor, states[:, 0].float())

    def _equal_lengths(self, texts: list[str]) -> list[list[int]]:
        """The places of the texts, those with equally many tokens together."""
        with self._one_at_a_time:
            tokens = self._tokenizer(texts, truncation=True, max_length=self._limit)["input_ids"]
        groups: dict[int, list[int]] = {}
        for place, numbers in enumerate(tokens):
            groups.setdefault(len(numbers), []).append(place)
        return list(groups.values())

    def _is_exact(self, texts: list[str]) -> bool:
        """Whether these texts have the same rows together and apart."""
        with torch.inference_mode():
            apart = torch.cat([self._padded([text]) for text in texts])
            return relative_error(self._padded(texts).cpu(), apart.cpu()) < EXACT

    def _refuse_if_causal(self) -> None:
        """In a model that reads from left to right, the first token's state does not depend on the text."""
        one, other = self.encode(_PROBES).cpu().split(1)
        if relative_error(one, other) < EXACT:
            raise SerError(
                f"{self.name} holds a {type(self._model).__name__}, whose first token does not depend on the text "
                "after it: give a BERT-class model, which reads in both directions."
            )


def _refuse_other_kinds(config: Any, name: str) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise SerError(
            f"{name} holds a {config.model_type} model, an encoder with a decoder, and no token of it represents "
            "the whole text: give a BERT-class model."
        )
    if not hasattr(config, "max_position_embeddings"):
        raise SerError(
            f"{name} holds a {config.model_type} model, which does not take text: give a BERT-class model."
        )


def _load_tokenizer(name: str, model: Any) -> Any:
    """The model's tokenizer. Raises SerError if it is missing or belongs to another model."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        one, other = (tokenizer(text)["input_ids"] for text in _PROBES)
    except OSError:
        raise  # the hub cannot be reached: `loading` reports it
    except Exception as error:  # each class fails in its own way if its files are missing
        raise SerError(
            f"{name} has no tokenizer that can be loaded: copy the tokenizer's files of the same model into it; without a "
            "tokenizer.json the package sentencepiece may be needed too."
        ) from error
    if one == other or set(one) <= set(tokenizer.all_special_ids):
        raise SerError(
            f"{name} has no tokenizer that knows words: copy the tokenizer's files of the same model into it."
        )
    if tokenizer.pad_token is None or not tokenizer("")["input_ids"]:
        raise SerError(f"{name} has a tokenizer without padding or a first token: give a BERT-class model.")
    known, largest = getattr(model.config, "vocab_size", None), max(tokenizer.get_vocab().values())
    if known is not None and largest >= known:
        raise SerError(
            f"{name} has a tokenizer of {largest + 1} tokens and a model of {known}: copy the tokenizer's files of "
            "the same model into it."
        )
    return tokenizer


def _reserved(model: Any) -> int:
    """Positions that hold no token: RoBERTa and similar models count positions from after the padding's number."""
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1
