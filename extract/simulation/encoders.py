"""Small untrained encoders of the real Hugging Face classes, saved in the format of downloaded ones."""

from __future__ import annotations

import json
from pathlib import Path

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract.simulation.words import vocabulary

ACOUSTIC, TEXT = "simulated-wav2vec2", "simulated-bert"  # folder names
SEED = 0
ATTENTION_GAIN = 4.0


def write_encoders(folder: Path) -> tuple[Path, Path]:
    """Write an acoustic and a text encoder below `folder` and return their two folders.

    Both have random weights, the same in every call, and can be loaded with transformers' AutoModel,
    AutoFeatureExtractor and AutoTokenizer. Random features still carry information: those of speech about
    activation, those of words about valence.
    """
    import torch
    from transformers.utils import logging

    acoustic, text = folder / ACOUSTIC, folder / TEXT
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # it would appear for a moment inside the caller's progress bar
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            _write_acoustic(acoustic)
            _write_text(text)
    finally:
        if bars:
            logging.enable_progress_bar()
    return acoustic, text


def _write_acoustic(folder: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=(32,) * 7,  # with the kernels and strides of wav2vec2
        # Group norm or normalised audio would remove the loudness, from which activation can be predicted.
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(
        sampling_rate=SAMPLING_RATE, do_normalize=False, return_attention_mask=True
    ).save_pretrained(folder)


def _write_text(folder: Path) -> None:
    from torch import nn
    from transformers import BertConfig, BertModel

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *vocabulary()]
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        pad_token_id=0,
    )
    model = BertModel(config)
    # With the usual small weights, CLS would differ between sentences by 1 % only: too little for a network to learn.
    for name, weights in model.named_parameters():
        if name.endswith("attention.self.value.weight"):
            nn.init.orthogonal_(weights, ATTENTION_GAIN)
        elif name.endswith("attention.output.dense.weight"):
            nn.init.orthogonal_(weights)
    model.save_pretrained(folder)
    # The format of BERT's checkpoints. The tokenizer's constructor differs between versions of transformers, and
    # this file does not.
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": config.max_position_embeddings,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
