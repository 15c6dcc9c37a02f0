"""BERT-class text encoders."""

from __future__ import annotations

import threading
from typing import Any, cast

import torch
from torch import Tensor

from common.errors import SerError
from extract.encoders.loading import load_model, revision


class BertEncoder:
    """A BERT-class model: the last hidden state of the first token (CLS)."""

    pooling = "last hidden state of the first token"

    def __init__(self, model: Any, tokenizer: Any, name: str, revision: str) -> None:
        self.name = name
        self.revision = revision
        self._model = model
        self._tokenizer = tokenizer
        self._one_at_a_time = threading.Lock()  # a fast tokenizer refuses to be used by two threads at once
        self._limit = min(tokenizer.model_max_length, model.config.max_position_embeddings - _reserved(model))

    @classmethod
    def load(cls, name: str, device: torch.device | str) -> BertEncoder:
        """From a Hugging Face name or local folder."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(name)
        model = load_model(name, device)
        takes_tokens = "input_ids" in getattr(tokenizer, "model_input_names", ())
        if not takes_tokens or not hasattr(model.config, "max_position_embeddings"):
            raise SerError(
                f"{name} holds a {type(model).__name__}, which does not take text: give a BERT-class model."
            )
        if tokenizer.pad_token is None or not tokenizer("")["input_ids"]:
            raise SerError(
                f"{name} has a tokenizer without padding or a first token: give a BERT-class model."
            )
        return cls(model, tokenizer, name, revision(model, name))

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> Tensor:
        """Texts -> (B, E) float32 on the device; what exceeds the model's length is cut at its end."""
        with self._one_at_a_time:
            tokens = self._tokenizer(
                texts, padding=True, truncation=True, max_length=self._limit, return_tensors="pt"
            )
        states = self._model(**tokens.to(self._model.device)).last_hidden_state
        return cast(Tensor, states[:, 0].float())


def _reserved(model: Any) -> int:
    """Positions that hold no token: RoBERTa and its kin count positions from beyond the padding's."""
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1
