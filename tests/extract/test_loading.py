"""Every failure to load a model names its cause: a file, a package, a permission, the name or the connection."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ser_memory.common.errors import SerError
from ser_memory.extract.encoders import load_acoustic, load_text
from ser_memory.extract.huggingface import ACOUSTIC, importable, loading
from ser_memory.extract.transcripts.engines import TRANSCRIBERS, TranscriberOptions
from tests.models import save_acoustic, save_text, save_whisper


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, without a connection."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(hub: Path, name: str) -> Path:
    """The folder of a model in the hub's cache."""
    model = hub / f"models--{name.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("aaaa")
    return model / "snapshots" / "aaaa"


def message(load: object, *arguments: object) -> str:
    assert callable(load)
    with pytest.raises(SerError) as caught:
        load(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert "local directory" not in text
    return text


@pytest.mark.parametrize("file", ["preprocessor_config.json", "model.safetensors", "config.json"])
def test_a_file_that_an_acoustic_model_lacks(file: str, tmp_path: Path) -> None:
    folder = save_acoustic(tmp_path / "model", "hubert")
    (Path(folder) / file).unlink()
    assert file in message(load_acoustic, folder)


def test_weights_in_parts_of_which_one_is_missing(tmp_path: Path) -> None:
    folder = Path(save_acoustic(tmp_path / "model", "hubert"))
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00001-of-00002.safetensors, a part of its weights" in message(
        load_acoustic, str(folder)
    )


def test_a_whisper_model_without_its_preprocessing(tmp_path: Path) -> None:
    folder = Path(save_whisper(tmp_path / "model"))
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)
    assert "lacks preprocessor_config.json" in message(load_acoustic, str(folder))
    assert "lacks preprocessor_config.json" in message(
        TRANSCRIBERS["whisper"], TranscriberOptions(str(folder), device="cpu")
    )


@pytest.mark.parametrize("file", ["preprocessor_config.json", "model.safetensors"])
def test_a_file_that_the_cache_of_the_hub_lacks(file: str, hub: Path) -> None:
    folder = put(hub, "someone/emotion")
    save_acoustic(folder, "hubert")
    (folder / file).unlink()
    text = message(load_acoustic, "someone/emotion")
    assert "someone/emotion is in the cache of the hub without" in text
    assert file in text
    assert "HF_HUB_OFFLINE is set" in text


def test_a_tokenizer_that_the_cache_of_the_hub_lacks(hub: Path) -> None:
    folder = put(hub, "someone/words")
    save_text(folder)
    for name in ("vocab.txt", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)
    assert "tokenizer" in message(load_text, "someone/words")


def test_a_name_that_the_cache_of_the_hub_does_not_have(hub: Path) -> None:
    text = message(load_acoustic, "someone/nothing")
    assert "There is no folder someone/nothing" in text
    assert "check the name and the connection" in text


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_acoustic(tmp_path / "model", "hubert")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", f"{folder}/model.safetensors")

    monkeypatch.setattr("transformers.AutoModel.from_pretrained", denied)
    assert f"no permission to read {folder}/model.safetensors" in message(load_acoustic, folder)


class TestAPackageThatCannotBeImported:
    @pytest.fixture
    def broken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "torchvisionary").mkdir()
        (tmp_path / "torchvisionary" / "__init__.py").write_text('raise RuntimeError("no operator nms")')
        (tmp_path / "imports_it.py").write_text("import torchvisionary")
        (tmp_path / "imports_nothing.py").write_text("import not_installed.inside")
        monkeypatch.syspath_prepend(tmp_path)
        for name in ("torchvisionary", "imports_it", "imports_nothing"):
            sys.modules.pop(name, None)

    def test_is_named(self, broken: None, tmp_path: Path) -> None:
        def load() -> None:
            with loading(save_acoustic(tmp_path / "model", "hubert"), ACOUSTIC):
                import imports_it  # type: ignore[import-not-found]  # noqa: F401

        assert "package torchvisionary cannot be imported (no operator nms)" in message(load)

    def test_is_named_where_transformers_wraps_the_error(self, broken: None) -> None:
        def load() -> None:
            with importable():
                try:
                    import torchvisionary  # type: ignore[import-not-found]  # noqa: F401
                except RuntimeError as error:
                    raise ModuleNotFoundError(
                        f"Failed to import transformers.x because of {error}"
                    ) from error

        assert "package torchvisionary cannot be imported" in message(load)

    def test_is_named_if_it_is_not_installed(self, broken: None) -> None:
        def load() -> None:
            with importable():
                import imports_nothing  # type: ignore[import-not-found]  # noqa: F401

        assert "package not_installed" in message(load)

    def test_other_errors_are_not_blamed_on_packages(self) -> None:
        with pytest.raises(ValueError, match="something else"), importable():
            raise ValueError("something else")


def test_a_model_that_is_replaced_while_it_is_loaded(tmp_path: Path) -> None:
    """Its revision would be that of other weights."""
    folder = save_acoustic(tmp_path / "model", "hubert")

    def load() -> None:
        with loading(folder, ACOUSTIC):
            save_acoustic(tmp_path / "model", "wavlm")

    assert "were changed while they were loaded" in message(load)
