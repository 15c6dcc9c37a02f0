"""Small models of the real classes, saved as `save_pretrained` does, for tests to load from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

_CONV: dict[str, Any] = {
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
_LAYER_NORM: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}

# name -> (class, configuration class, what differs from the small common configuration)
ACOUSTIC: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wav2vec2 with group norm": ("Wav2Vec2Model", "Wav2Vec2Config", {}),
    "wav2vec2 with layer norm": ("Wav2Vec2Model", "Wav2Vec2Config", _LAYER_NORM),
    "hubert": ("HubertModel", "HubertConfig", {}),
    "hubert with batch norm": ("HubertModel", "HubertConfig", {"conv_pos_batch_norm": True}),
    "wavlm": ("WavLMModel", "WavLMConfig", {}),
    "data2vec": ("Data2VecAudioModel", "Data2VecAudioConfig", {"num_conv_pos_embeddings": 5}),
    "sew": (
        "SEWModel",
        "SEWConfig",
        {"conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2)},
    ),
}
WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *(
        "the",
        "a",
        "it",
        "was",
        "is",
        "we",
        "good",
        "bad",
        "awful",
        "lovely",
        "day",
        "late",
        "so",
        "very",
        "not",
    ),
]


def save_whisper(folder: Path, seed: int = 0) -> str:
    """Save a small Whisper with its feature extractor; returns the folder's name."""
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=60, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3,
    )  # fmt: skip
    torch.manual_seed(seed)
    transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return str(folder)


def save_acoustic(folder: Path, kind: str, seed: int = 0, **changes: Any) -> str:
    """Save a small model of this kind with its feature extractor; returns the folder's name."""
    model_class, config_class, differing = ACOUSTIC[kind]
    config = getattr(transformers, config_class)(**{**_SIZE, **_CONV, **differing, **changes})
    torch.manual_seed(seed)
    getattr(transformers, model_class)(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(
        folder
    )
    return str(folder)


def save_text(folder: Path, seed: int = 0, **changes: Any) -> str:
    """Save a small BERT with a WordPiece tokenizer over WORDS; returns the folder's name."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    letters = [f"{mark}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" for mark in ("", "##")]
    tokens = list(dict.fromkeys(WORDS + letters))
    vocabulary.write_text("\n".join(tokens) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = transformers.BertConfig(
        **{**_SIZE, "vocab_size": len(tokens), "max_position_embeddings": 64, **changes}
    )
    torch.manual_seed(seed)
    transformers.BertModel(config).save_pretrained(folder)
    return str(folder)
