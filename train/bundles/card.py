"""The model card of a bundle: README.md, as Hugging Face's hub reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_memory.common.conventions import in_split_order
from ser_memory.train.bundle import BundleInfo
from ser_memory.train.results import Figure

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_KEEPS = {
    "samples": "embeddings and labels of some training utterances of each corpus",
    "answers": "what an earlier model predicted for them",
    "parameters": "the parameters after each corpus",
    "importance": "how important each parameter is for each corpus",
    "rated": "which dimensions each corpus rates",
    "prototypes": "means and leading covariances of the embeddings and labels of each corpus, by cell of labels",
    "sums": "sums of products of embeddings and labels over all training utterances",
}


def card_of(info: BundleInfo) -> str:
    """The text of the card: metadata as YAML, then what the model is, its figures, and what it reveals."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        language=info.language,
        license="other",
        license_name="as-the-corpora",
        pipeline_tag="audio-classification",
        library_name="ser-memory",
        tags=["speech-emotion-recognition", "continual-learning", "ser-memory", info.strategy],
        base_model=[name for name in _encoders(info) if _is_of_the_hub(name)] or None,
        model_name=f"ser-memory {info.title}",
        eval_results=_results(info),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_body(info)}"


def kept_by(info: BundleInfo) -> str:
    """What its strategy keeps of earlier corpora, in words."""
    from ser_memory.train.strategies import STRATEGIES

    return "; ".join(_KEEPS[name] for name in STRATEGIES[info.strategy].keeps) or "nothing of earlier corpora"


def _encoders(info: BundleInfo) -> list[str]:
    return [info.encoders["acoustic_encoder"], info.encoders["text_encoder"]]


def _is_of_the_hub(encoder: str) -> bool:
    """Whether the name of an encoder is one of the hub, such as facebook/wav2vec2-base, and not a folder."""
    return encoder.count("/") == 1 and not encoder.startswith(("/", ".", "~"))


def _results(info: BundleInfo) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="audio-classification",
            dataset_type=each.corpus,
            dataset_name=each.corpus,
            dataset_split=each.split,
            metric_type=each.metric,
            metric_name=f"{each.metric.upper()} of {each.dimension} (n={each.n})",
            metric_value=round(each.value, 4),
        )
        for each in _tested(info)
    ]


def _tested(info: BundleInfo) -> list[Figure]:
    return [each for each in info.figures if each.split.startswith("test")]


def _body(info: BundleInfo) -> str:
    acoustic, text = (
        f"{name} (revision {info.encoders[f'{kind}_revision']}, {info.encoders[f'{kind}_pooling']})"
        for kind, name in zip(("acoustic", "text"), _encoders(info), strict=True)
    )
    keeps = kept_by(info)
    corpora = "\n".join(
        f"| {number} | {seen.name} | {seen.n} | {seen.scale_min:g} to {seen.scale_max:g} | {seen.transcriber} |"
        for number, seen in enumerate(info.seen, start=1)
    )
    return f"""# {info.stage_name}, {info.strategy}, seed {info.seed}

A model of {", ".join(info.dimensions)} in speech, between -1 and 1, by [ser-memory](https://pypi.org/project/ser-memory/).
It reads pooled embeddings of two frozen encoders:

- acoustic: {acoustic}
- text: {text}

```sh
ser-predict THIS_FOLDER recording.wav
ser-adapt THIS_FOLDER --corpus clinic.toml --root recordings --output adapted
```

## Learned from

| stage | corpus | training utterances | rating scale | transcripts |
| --- | --- | --- | --- | --- |
{corpora}

Recordings were between {info.min_duration:g} and {info.max_duration:g} s long.

## Figures

{_table(info)}

## What it reveals

To be adapted further, it keeps: {keeps}. Embeddings are reproducible: whoever has a recording can find out whether its row
is in here. `ser-bundle audit` measures it. The licence of the corpora applies; it may not allow to pass this on.
"""


def _table(info: BundleInfo) -> str:
    tested = _tested(info)
    if not tested:
        return "None were measured."
    splits = in_split_order(each.split for each in tested)
    rows = [
        f"| {each.corpus} | {each.split} | {each.dimension} | {each.metric.upper()} | {each.value:.3f} | {each.n} |"
        for split in splits
        for each in tested
        if each.split == split
    ]
    head = "| corpus | split | dimension | measure | value | n |\n| --- | --- | --- | --- | --- | --- |\n"
    return head + "\n".join(rows)
