"""Every acoustic and text encoder: a batched row is the same as for the utterance alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoFeatureExtractor, AutoModel, AutoTokenizer

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract.audio import Waveform
from ser_memory.extract.encoders import (
    ACOUSTIC_ENCODERS,
    EXACT,
    AcousticEncoder,
    EncoderOptions,
    TextEncoder,
    load_acoustic,
    load_text,
    relative_error,
    wav2vec2,
)
from ser_memory.extract.encoders.contract import IMPRECISE
from ser_memory.extract.encoders.wav2vec2 import Wav2Vec2Encoder
from ser_memory.extract.settings import POOLINGS, PRECISIONS
from tests.models import ACOUSTIC, save_acoustic, save_text, save_whisper

_E = TypeVar("_E", AcousticEncoder, TextEncoder)

# Padding within the batch for these; the others fall back to batches of equal length.
PADDED = {kind for kind in ACOUSTIC if not any(word in kind for word in ("sew", "adapter", "conformer"))}
SECONDS = (3.0, 4.123, 7.7, 30.0, 12.0213)
TEXTS = ["", "it was a good day", "awful", "so very very not lovely " * 30, "the late day is bad and unheard"]


def waveforms() -> list[Waveform]:
    """Noise of 3 to 30 s whose level and colour change over time, as speech does."""
    random = np.random.default_rng(5)
    made = []
    for seconds in SECONDS:
        n = int(seconds * SAMPLING_RATE)
        envelope = np.interp(np.arange(n), np.linspace(0, n, 12), random.uniform(0.01, 1.0, 12))
        made.append((envelope * random.standard_normal(n)).astype(np.float32))
    return made


def save(kind: str, folder: Path) -> str:
    """A name or folder for `load_acoustic`, for a key of tests.models.ACOUSTIC or of ACOUSTIC_ENCODERS."""
    if kind == "log-mel":
        return kind
    if kind == "whisper":
        return save_whisper(folder, seconds=30)
    return save_acoustic(folder, "wav2vec2 with group norm" if kind == "wav2vec2" else kind)


def wide(kind: str, folder: Path) -> str:
    """The same, with at least 16 channels in a group of a convolution: right in bfloat16 on every processor."""
    if kind in ("log-mel", "whisper"):
        return save(kind, folder)
    return save_acoustic(folder, "wav2vec2 with group norm", num_conv_pos_embedding_groups=2)


def on_meta(encoder: _E) -> _E:
    """Move a loaded encoder to the device `meta`, which refuses to compute with tensors of any other device.

    Loading itself cannot be done there: the checks of weights and exactness look at values, and meta has none.
    """
    getattr(encoder, "pads_exactly", None)  # measured before the first batch, by values
    for name, value in vars(encoder).items():
        if isinstance(value, torch.nn.Module | torch.Tensor):
            setattr(encoder, name, value.to("meta"))
        elif isinstance(value, torch.device):
            setattr(encoder, name, torch.device("meta"))
    return encoder


@torch.no_grad()
def one_at_a_time(folder: str, batch: list[Waveform], layers: tuple[int, ...] | None = None) -> np.ndarray:
    """What Hugging Face gives without any of our code: the mean of hidden states over time."""
    extractor, model = AutoFeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for waveform in batch:
        values = extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt").input_values
        output = model(values, output_hidden_states=True)
        states = [output.last_hidden_state] if layers is None else [output.hidden_states[k] for k in layers]
        rows.append(np.stack([state[0].mean(dim=0).numpy() for state in states]))
    return np.stack(rows) if layers is not None else np.stack(rows)[:, 0]


def equally_long() -> list[Waveform]:
    """Three waveforms of 4 s at different levels."""
    random = np.random.default_rng(7)
    return [(level * random.standard_normal(64_000)).astype(np.float32) for level in (0.1, 0.01, 0.3)]


@pytest.mark.parametrize("kind", ACOUSTIC)
def test_a_batched_acoustic_row_is_exact(kind: str, tmp_path: Path) -> None:
    """All classes of transformers that take waveforms, in batches of equal and of mixed lengths."""
    folder = save_acoustic(tmp_path, kind)
    encoder = load_acoustic(folder)
    errors = {}
    for lengths, batch in (("equal", equally_long()), ("mixed", waveforms())):
        rows = encoder.encode(batch)
        errors[lengths] = relative_error(rows, one_at_a_time(folder, batch))
        assert tuple(rows.shape) == (len(batch), 32)
    print(
        f"{kind}: largest relative error " + ", ".join(f"{key} {error:.1e}" for key, error in errors.items())
    )
    assert max(errors.values()) < EXACT
    assert isinstance(encoder, Wav2Vec2Encoder)
    assert encoder.pads_exactly == (kind in PADDED)
    assert encoder.batches_exactly


@pytest.mark.parametrize("lengths", ["equal", "mixed"])
def test_a_model_whose_rows_depend_on_batch_mates_gets_one_waveform_at_a_time(
    lengths: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that normalises over the batch, of equal lengths too."""
    folder = save_acoustic(tmp_path, "hubert")
    batch = equally_long() if lengths == "equal" else waveforms()[:3]
    reference = one_at_a_time(folder, batch)
    project: Any = transformers.models.hubert.modeling_hubert.HubertFeatureProjection.forward

    def over_the_batch(self: Any, states: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = project(self, states)
        return projected + projected.mean(dim=0, keepdim=True) - projected / len(projected)

    monkeypatch.setattr(
        transformers.models.hubert.modeling_hubert.HubertFeatureProjection, "forward", over_the_batch
    )
    encoder = load_acoustic(folder)
    assert isinstance(encoder, Wav2Vec2Encoder)
    assert not encoder.batches_exactly
    assert not encoder.pads_exactly
    assert relative_error(encoder.encode(batch), reference) < EXACT


@pytest.mark.parametrize(
    ("kind", "extractor", "settings", "says"),
    [
        ("Wav2Vec2Bert", "SeamlessM4T", {}, "does not take waveforms"),
        ("Encodec", "Encodec", {}, "does not take waveforms"),
        (
            "Moonshine",
            "Wav2Vec2",
            {
                f"{half}_num_{what}": 1
                for half in ("encoder", "decoder")
                for what in ("hidden_layers", "attention_heads")
            },
            "does not take waveforms",
        ),
        (
            "Wav2Vec2",
            "SeamlessM4T",
            {"conv_dim": (16,) * 7},
            "preprocessor_config.json is that of another model",
        ),
    ],
)
def test_models_of_another_kind_are_refused(
    kind: str, extractor: str, settings: dict[str, object], says: str, tmp_path: Path
) -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{kind}Config")(**({} if kind == "Encodec" else size) | settings)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    getattr(transformers, f"{extractor}FeatureExtractor")().save_pretrained(tmp_path)
    with pytest.raises(SerError, match=says):
        load_acoustic(str(tmp_path))


@pytest.mark.parametrize("kind", ["wav2vec2 with group norm", "wav2vec2 with layer norm", "wavlm", "sew"])
def test_every_layer_is_exact(kind: str, tmp_path: Path) -> None:
    folder = save_acoustic(tmp_path, kind)
    batch = waveforms()[:3]
    rows = load_acoustic(folder, options=EncoderOptions(layers="all")).encode(batch)
    assert tuple(rows.shape) == (3, 3, 32)
    assert relative_error(rows, one_at_a_time(folder, batch, (0, 1, 2))) < EXACT
    some = load_acoustic(folder, options=EncoderOptions(layers="0,2")).encode(batch)
    assert relative_error(some, rows[:, [0, 2]]) < EXACT


@pytest.mark.parametrize("kind", ACOUSTIC_ENCODERS)
@pytest.mark.parametrize("pooling", POOLINGS)
class TestEveryAcousticEncoder:
    """The contract, over the registry."""

    def test_a_row_does_not_depend_on_its_batch(self, kind: str, pooling: str, tmp_path: Path) -> None:
        encoder = load_acoustic(save(kind, tmp_path), options=EncoderOptions(pooling=pooling))
        batch = waveforms()
        together, apart = encoder.encode(batch), torch.cat([encoder.encode([waveform]) for waveform in batch])
        assert together.dtype == torch.float32
        assert relative_error(together, apart) < EXACT

    def test_short_and_silent_utterances_have_finite_rows(
        self, kind: str, pooling: str, tmp_path: Path
    ) -> None:
        encoder = load_acoustic(save(kind, tmp_path), options=EncoderOptions(pooling=pooling))
        short = np.random.default_rng(0).standard_normal(encoder.min_samples).astype(np.float32)
        rows = encoder.encode([short, np.zeros(48_000, np.float32), np.ones(60_000, np.float32)])
        assert torch.isfinite(rows).all()

    def test_its_graph_gives_the_row_of_one_waveform(self, kind: str, pooling: str, tmp_path: Path) -> None:
        encoder = load_acoustic(save(kind, tmp_path), options=EncoderOptions(pooling=pooling))
        graph = encoder.graph().eval()
        for waveform in waveforms()[:2]:
            with torch.no_grad():
                row = graph(torch.from_numpy(waveform)[None])
            assert relative_error(row, encoder.encode([waveform])) < EXACT

    def test_it_says_what_it_is(self, kind: str, pooling: str, tmp_path: Path) -> None:
        name = save(kind, tmp_path)
        encoder = load_acoustic(name, options=EncoderOptions(pooling=pooling))
        assert (encoder.name, encoder.pooling, encoder.device.type) == (name, pooling, "cpu")
        assert encoder.revision


def test_whisper_pools_the_frames_of_the_utterance_alone(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path, seconds=30)
    waveform = waveforms()[1]  # 4.123 s: 207 frames of 20 ms, the last begun
    extractor, model = AutoFeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        features = extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt").input_features
        states = model.get_encoder()(features).last_hidden_state[0]
    row = load_acoustic(folder).encode([waveform])
    assert relative_error(row, states[:207].mean(dim=0)[None]) < EXACT


def test_log_mel_is_its_definition(tmp_path: Path) -> None:
    """40 triangles on the HTK mel scale over the power spectrum, frame by frame in numpy."""
    waveform = waveforms()[0][:4000]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42) / 2595) - 1)
    hertz = np.linspace(0, 8000, 257)
    bands = np.array([np.interp(hertz, edges[k : k + 3], [0, 1, 0], left=0, right=0) for k in range(40)])
    frames = [
        np.log(np.maximum(bands @ np.abs(np.fft.rfft(waveform[s : s + 400] * window, 512)) ** 2, 1e-10))
        for s in range(0, 4000 - 400 + 1, 160)
    ]
    expected = np.concatenate([np.mean(frames, axis=0), np.std(frames, axis=0)])
    rows = load_acoustic("log-mel").encode([waveform, waveforms()[1]])
    assert tuple(rows.shape) == (2, 80)
    np.testing.assert_allclose(rows[0], expected, rtol=1e-3, atol=1e-3)


def test_an_encoder_that_was_never_exported_has_no_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_acoustic(save_acoustic(tmp_path, "hubert"))
    monkeypatch.setattr(wav2vec2, "EXPORTED", wav2vec2.EXPORTED - {"hubert"})
    with pytest.raises(
        SerError, match=r"is a HubertModel, which cannot be exported as a whole: .* --head-only"
    ):
        encoder.graph()


@pytest.mark.parametrize("layers", ["3", "1,1", "2,1", "-1", "x", "1,", ""])
def test_layers_that_do_not_exist(layers: str, tmp_path: Path) -> None:
    folder = save_acoustic(tmp_path, "hubert")
    with pytest.raises(UsageError, match="rising order from 0 to 2"):
        load_acoustic(folder, options=EncoderOptions(layers=layers))
    with pytest.raises(UsageError, match="log-mel"):
        load_acoustic("log-mel", options=EncoderOptions(layers=layers))


class TestHalfPrecision:
    @pytest.mark.parametrize("kind", ACOUSTIC_ENCODERS)
    def test_is_near_and_not_exact(self, kind: str, tmp_path: Path) -> None:
        folder = wide(kind, tmp_path)
        batch = waveforms()[:2]
        half = load_acoustic(folder, options=EncoderOptions(precision="bfloat16")).encode(batch)
        assert half.dtype == torch.float32
        assert 1e-5 < relative_error(half, load_acoustic(folder).encode(batch)) < IMPRECISE

    @pytest.mark.parametrize("kind", ACOUSTIC_ENCODERS)
    @pytest.mark.parametrize("wrong", [2.0, torch.nan, torch.inf])
    def test_that_is_wrong_is_refused_at_loading(
        self, kind: str, wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = save(kind, tmp_path)
        encoder = type(load_acoustic(folder))
        right = encoder._states

        def states(self: AcousticEncoder, batch: list[Waveform]) -> list[tuple[torch.Tensor, torch.Tensor]]:
            factor = wrong if torch.is_autocast_enabled("cpu") else 1.0
            return [(layer * factor, frames) for layer, frames in right(self, batch)]

        monkeypatch.setattr(encoder, "_states", states)
        with pytest.raises(SerError, match=r"wrong in bfloat16 on cpu, .* use --precision float32"):
            load_acoustic(folder, options=EncoderOptions(precision="bfloat16"))
        load_acoustic(folder)

    def test_of_narrow_groups_is_right_or_refused(self, tmp_path: Path) -> None:
        """8 channels in a group: wrong on processors with AMX, right on others, never wrong without an error."""
        folder = save("wav2vec2", tmp_path)
        try:
            half = load_acoustic(folder, options=EncoderOptions(precision="bfloat16"))
        except SerError as error:
            assert "use --precision float32" in str(error)  # noqa: PT017  either outcome is right
            return
        batch = waveforms()[:2]
        assert relative_error(half.encode(batch), load_acoustic(folder).encode(batch)) < IMPRECISE


class TestDevices:
    """A row is computed where the encoder is; `meta` finds every tensor that was left on the CPU."""

    @pytest.fixture(autouse=True)
    def without_looking_at_the_mask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """transformers drops an attention mask that is all true, for which it reads its values."""
        monkeypatch.setattr(
            "transformers.masking_utils._ignore_bidirectional_mask_sdpa", lambda *_: False, raising=False
        )

    @pytest.mark.parametrize("kind", [*ACOUSTIC, "log-mel", "whisper"])
    @pytest.mark.parametrize("layers", ["last", "all"])
    def test_acoustic(self, kind: str, layers: str, tmp_path: Path) -> None:
        if (kind == "log-mel" and layers == "all") or kind == "sew-d":
            return  # log-mel has no layers; transformers computes a scale of SEW-D on the CPU
        encoder = on_meta(load_acoustic(save(kind, tmp_path), options=EncoderOptions(layers=layers)))
        assert encoder.device.type == "meta"
        for batch in (waveforms()[:3], waveforms()[:1]):
            rows = encoder.encode(batch)
            assert rows.device.type == "meta"
            assert rows.shape[0] == len(batch)

    def test_text(self, tmp_path: Path) -> None:
        rows = on_meta(load_text(save_text(tmp_path))).encode(TEXTS)
        assert (rows.device.type, tuple(rows.shape)) == ("meta", (len(TEXTS), 32))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_encoder_describes_what_it_determines(precision: str, tmp_path: Path) -> None:
    folder = wide("wav2vec2", tmp_path)
    options = EncoderOptions(layers="0,2", pooling="mean+std", precision=precision)
    told = load_acoustic(folder, options=options).attributes()
    assert told.pop("acoustic_revision").startswith("sha256:")
    assert told == {
        "acoustic_encoder": folder,
        "acoustic_pooling": "mean+std",
        "acoustic_layers": "0,2",
        "precision": precision,
    }
    assert load_text(save_text(tmp_path / "text")).attributes().keys() == {
        "text_encoder",
        "text_revision",
        "text_pooling",
    }


def test_plain_padding_would_not_be_exact(tmp_path: Path) -> None:
    """The check above can fail: Hugging Face's own padded batch is far off."""
    folder = save_acoustic(tmp_path, "wav2vec2 with group norm")
    batch = waveforms()
    extractor, model = AutoFeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    padded = extractor(batch, sampling_rate=SAMPLING_RATE, padding=True, return_tensors="pt")
    with torch.no_grad():
        rows = model(padded.input_values).last_hidden_state.mean(dim=1).numpy()
    assert relative_error(rows, one_at_a_time(folder, batch)) > 1e-2


def test_a_batched_text_row_is_exact(tmp_path: Path) -> None:
    folder = save_text(tmp_path)
    rows = load_text(folder).encode(TEXTS)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    alone = []
    with torch.no_grad():
        for text in TEXTS:
            tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
            alone.append(model(**tokens).last_hidden_state[0, 0].numpy())
    error = relative_error(rows, np.stack(alone))
    print(f"bert: largest relative error {error:.1e}")
    assert error < EXACT
    assert rows.shape == (len(TEXTS), 32)


@pytest.mark.parametrize(
    ("kind", "settings", "pads"),
    [
        ("Bert", {}, True),
        ("Roberta", {"pad_token_id": 0}, True),
        ("FNet", {}, False),
        ("ConvBert", {"embedding_size": 32}, False),
    ],
)
def test_a_text_row_is_exact_in_models_that_do_not_hide_padding(
    kind: str, settings: dict[str, int], pads: bool, tmp_path: Path
) -> None:
    folder = save_text(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{kind}Config")(
        **size, vocab_size=100, max_position_embeddings=80, **settings
    )
    torch.manual_seed(0)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    encoder = load_text(folder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for texts in (TEXTS, ["a good day", "a bad day", "the late day"]):
        with torch.no_grad():
            alone = [
                model(
                    **tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
                ).last_hidden_state[0, 0]
                for text in texts
            ]
        assert relative_error(encoder.encode(texts), torch.stack(alone)) < EXACT
    assert getattr(encoder, "pads_exactly") == pads  # noqa: B009  the contract of a text encoder lacks it


def test_revisions_tell_weights_apart(tmp_path: Path) -> None:
    revisions = [
        load_acoustic(save_acoustic(tmp_path / str(i), "hubert", seed)).revision
        for i, seed in enumerate((0, 0, 1))
    ]
    assert revisions[0] == revisions[1] != revisions[2]


def test_a_long_transcript_fits_a_model_that_counts_positions_otherwise(tmp_path: Path) -> None:
    """RoBERTa's positions begin beyond the padding's, so two fewer tokens fit than its configuration says."""
    save_text(tmp_path)
    config = transformers.RobertaConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=34, pad_token_id=0,
    )  # fmt: skip
    (tmp_path / "model.safetensors").unlink()
    transformers.RobertaModel(config).save_pretrained(tmp_path)
    rows = load_text(str(tmp_path)).encode(["good day " * 100, "good"])
    assert torch.isfinite(rows).all()


class TestTextModelsThatWouldGiveNonsense:
    """Each loads in transformers without a warning, and its rows mean nothing."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return Path(save_text(tmp_path))

    def replace_model(self, folder: Path, kind: str, **settings: int) -> None:
        (folder / "model.safetensors").unlink()
        config = getattr(transformers, f"{kind}Config")(vocab_size=100, **settings)
        getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)

    def refuses(self, folder: Path, says: str) -> None:
        with pytest.raises(SerError, match=says):
            load_text(str(folder))

    @pytest.mark.parametrize("kind", ["Bert", "Roberta", "Electra"])
    def test_without_a_tokenizer(self, kind: str, folder: Path) -> None:
        size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        self.replace_model(folder, kind, **size)
        for name in ("vocab.txt", "tokenizer_config.json"):
            (folder / name).unlink()
        self.refuses(folder, "has no tokenizer that knows words: copy the tokenizer's files")

    def test_whose_tokenizer_cannot_be_loaded(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{")
        self.refuses(folder, "has no tokenizer that can be loaded: copy the tokenizer's files")

    def test_that_read_from_left_to_right(self, folder: Path) -> None:
        self.replace_model(folder, "GPT2", n_embd=16, n_layer=1, n_head=2)
        self.refuses(folder, "holds a GPT2Model, whose first token does not depend on the text after it")

    def test_with_a_decoder(self, folder: Path) -> None:
        self.replace_model(folder, "T5", d_model=16, num_layers=1, num_heads=2, d_ff=16, d_kv=8)
        self.refuses(folder, "holds a t5 model, an encoder with a decoder")

    def test_with_the_tokenizer_of_another_model(self, tmp_path: Path) -> None:
        folder = Path(save_text(tmp_path, vocab_size=60))
        self.refuses(folder, "has a tokenizer of 71 tokens and a model of 60")

    def test_of_sound(self, tmp_path: Path) -> None:
        folder = Path(save_acoustic(tmp_path, "hubert"))
        self.refuses(folder, "holds a hubert model, which does not take text: give a BERT-class model.")


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    folder = save_acoustic(tmp_path, "hubert")
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        model.feature_projection.projection.bias[3] = torch.nan
    model.save_pretrained(folder)
    with pytest.raises(SerError, match="weights that are not finite, feature_projection"):
        load_acoustic(folder)


@pytest.mark.parametrize(
    ("name", "says"), [("", "--acoustic-encoder is empty"), ("LogMel", "did you mean log-mel")]
)
def test_names_that_do_not_exist(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_acoustic(name)
