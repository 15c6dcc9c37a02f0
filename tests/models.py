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

_SEW: dict[str, Any] = {"conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2)}
_CONFORMER: dict[str, Any] = _LAYER_NORM | {"conv_depthwise_kernel_size": 5}

# name -> (class, configuration class, what differs from the small common configuration)
ACOUSTIC: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wav2vec2 with group norm": ("Wav2Vec2Model", "Wav2Vec2Config", {}),
    "wav2vec2 with layer norm": ("Wav2Vec2Model", "Wav2Vec2Config", _LAYER_NORM),
    "hubert": ("HubertModel", "HubertConfig", {}),
    "hubert with batch norm": ("HubertModel", "HubertConfig", {"conv_pos_batch_norm": True}),
    "wavlm": ("WavLMModel", "WavLMConfig", {}),
    "data2vec": ("Data2VecAudioModel", "Data2VecAudioConfig", {"num_conv_pos_embeddings": 5}),
    "sew": ("SEWModel", "SEWConfig", _SEW),
    "sew-d": ("SEWDModel", "SEWDConfig", _SEW | {"max_position_embeddings": 64, "position_buckets": 32}),
    "wav2vec2 with adapter": ("Wav2Vec2Model", "Wav2Vec2Config", {"add_adapter": True}),
    "wav2vec2 with layer norm and adapter": (
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        _LAYER_NORM | {"add_adapter": True, "output_hidden_size": 32},
    ),
    "mms": ("Wav2Vec2Model", "Wav2Vec2Config", _LAYER_NORM | {"adapter_attn_dim": 8}),
    "conformer, rotary": (
        "Wav2Vec2ConformerModel",
        "Wav2Vec2ConformerConfig",
        _CONFORMER | {"position_embeddings_type": "rotary"},
    ),
    "conformer, relative": (
        "Wav2Vec2ConformerModel",
        "Wav2Vec2ConformerConfig",
        _CONFORMER | {"position_embeddings_type": "relative"},
    ),
    "unispeech": ("UniSpeechModel", "UniSpeechConfig", {}),
    "unispeech with layer norm": ("UniSpeechModel", "UniSpeechConfig", _LAYER_NORM),
    "unispeech-sat": ("UniSpeechSatModel", "UniSpeechSatConfig", {}),
    "wavlm with layer norm and adapter": ("WavLMModel", "WavLMConfig", _LAYER_NORM | {"add_adapter": True}),
    "hubert with layer norm": ("HubertModel", "HubertConfig", _LAYER_NORM),
    "data2vec with adapter": (
        "Data2VecAudioModel",
        "Data2VecAudioConfig",
        {"num_conv_pos_embeddings": 5, "add_adapter": True},
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


# Sentences from which the small Whisper's vocabulary is made.
_SPOKEN = [f"{first} {verb} a {kind} day and {first} {verb} late" for first in ("we", "it", "she", "they")
           for verb in ("was", "had", "saw", "left") for kind in ("good", "bad", "lovely", "long", "short")]  # fmt: skip
_LANGUAGES = ("en", "de", "fr")


def save_whisper(
    folder: Path, seed: int = 0, multilingual: bool = True, seconds: int = 10, tokens: int = 64
) -> str:
    """Save a small Whisper with its processor, a window of `seconds` and room for `tokens`; returns the folder's name.

    Its weights are random, but large enough for what it writes to depend on what it hears.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _whisper_tokenizer(folder, multilingual)
    number = tokenizer.get_vocab()
    extractor = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=seconds)
    transformers.WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    end, start = number["<|endoftext|>"], number["<|startoftranscript|>"]
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=80, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_source_positions=50 * seconds, max_target_positions=tokens, init_std=0.4,
        bos_token_id=end, eos_token_id=end, pad_token_id=end, decoder_start_token_id=start,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.WhisperForConditionalGeneration(config)
    told: dict[str, Any] = {
        "is_multilingual": multilingual,
        "no_timestamps_token_id": number["<|notimestamps|>"],
        "max_length": tokens,
        # Whole words and the end only.
        "suppress_tokens": [
            i for word, i in number.items() if i != end and not (word[0] == "Ġ" and len(word) > 2)
        ],
        "begin_suppress_tokens": [end],
        "return_timestamps": False,
        **{name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "decoder_start_token_id": start,
    }
    if multilingual:
        told["lang_to_id"] = {f"<|{each}|>": number[f"<|{each}|>"] for each in _LANGUAGES}
        told["task_to_id"] = {each: number[f"<|{each}|>"] for each in ("transcribe", "translate")}
    model.generation_config = transformers.GenerationConfig(**told)
    model.save_pretrained(folder)
    return str(folder)


def _whisper_tokenizer(folder: Path, multilingual: bool) -> Any:
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(_SPOKEN, vocab_size=320, show_progress=False)
    languages = [f"<|{each}|>" for each in _LANGUAGES] if multilingual else []
    special = ["<|endoftext|>", "<|startoftranscript|>", *languages, "<|translate|>", "<|transcribe|>",
               "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
               *(f"<|{step * 0.02:.2f}|>" for step in range(1501))]  # fmt: skip
    words = trained.get_vocab()
    vocabulary = {**words, **{token: len(words) + i for i, token in enumerate(special)}}
    trained.save_model(str(folder))
    merges = [tuple(line.split()) for line in (folder / "merges.txt").read_text().splitlines()[1:] if line]
    tokenizer = transformers.WhisperTokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    (folder / "merges.txt").unlink()
    (folder / "vocab.json").unlink()
    return tokenizer
