"""The typed config of a run: data, model, training, decoding, report."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from unrolled.core.config import Config
from unrolled.core.errors import unknown
from unrolled.decoding.settings import Search
from unrolled.nn.build import LAYERS, LayerConfig
from unrolled.nn.image_settings import EncoderConfig
from unrolled.tasks.names import TASKS
from unrolled.training.adapting import AdapterConfig
from unrolled.training.alignment import AlignConfig
from unrolled.training.settings import TrainingConfig

Pieces = Literal["chars", "jamo", "words", "whitespace", "bpe", "unigram", "bytes"]
# the last one is how the checkpoint of another program, which training begins with, cuts text
Cuts = Literal[
    "chars", "jamo", "words", "whitespace", "bpe", "unigram", "bytes", "published"
]


class DataConfig(Config):
    """Which file is read and how."""

    train: str | None = Field(None, description="the data file")
    dev: str | None = Field(
        None, description="a file of held-out rows; by default part of `train`"
    )
    train_target: str | None = Field(
        None, description="the file whose lines are the answers to the lines of `train`"
    )
    dev_target: str | None = Field(
        None, description="the file whose lines are the answers to the lines of `dev`"
    )
    text: str | list[str] | None = Field(
        None, description="the column of text, or several"
    )
    image: str | None = Field(None, description="the column that names images")
    numbers: list[str] | None = Field(
        None, description="the columns of numbers that are read; [] for none"
    )
    categories: list[str] | None = Field(
        None,
        description="the columns of kinds, such as a city, that are read; [] for none; for tags "
        "those next to each word",
    )
    dates: list[str] | None = Field(
        None,
        description="the columns of dates that are read, by their parts; of steps by those that "
        "come round; [] for none",
    )
    label: str | None = Field(None, description="the column to predict")
    sheet: str | None = Field(
        None, description="the sheet of a workbook; by default the first"
    )
    missing: Literal["median", "mean", "drop", "error"] = Field(
        "median",
        description="what stands in for a number that is missing; drop leaves its row out; a row "
        "without an answer is left out, or with error refused",
    )
    decimal: Literal[".", ","] | None = Field(
        None,
        description="the mark before decimals in numbers such as 1,234; by default told from the "
        "file",
    )
    header: bool | None = Field(
        None,
        description="whether the first row of a table names the columns; by default told from it",
    )
    rows: Literal["examples", "steps"] | None = Field(
        None,
        description="whether a row is an example, or one step of a sequence of numbers",
    )
    sequence: str | None = Field(
        None,
        description="steps: rows of equal value here are one sequence; else the whole file",
    )
    time: str | None = Field(
        None,
        description="steps: the column of dates or numbers that puts them in order; by default the "
        "first of dates",
    )
    group: str | None = Field(
        None,
        description="rows of equal value here, such as a customer, are never in both parts",
    )
    by: str | None = Field(
        None,
        description="evaluate: also the scores of the rows of each value of this column, numbers "
        "in bins where there are many",
    )
    window: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="steps: answer for every stretch of so many, not for whole sequences; tagging "
        "learns from pieces of so many",
    )
    ahead: int = Field(
        1,
        ge=0,
        le=10**6,
        description="window: how many steps after its last one the answer stands",
    )
    difference: bool = Field(
        False,
        description="window: learn the change from the last step and add it to that",
    )
    encoding: str | None = Field(
        None, description="the file's encoding, such as cp949; by default UTF-8"
    )
    tokenizer: Cuts | None = Field(
        None,
        description="pieces a text is cut into; chars for a language model, rewrite and write, bpe "
        "for translate, else unigram; published: as the checkpoint that `model.init` names",
    )
    vocabulary: int = Field(
        16000, ge=5, le=10**7, description="the most pieces a tokenizer learns"
    )
    template: Literal["turns", "plain", "chatml", "llama", "alpaca"] | None = Field(
        None,
        description="chat: what tells the turns of a talk apart; turns adds tokens of its own, "
        "plain writes on from a prompt, the others are those of published checkpoints; by default "
        "that of `model.init`, else turns",
    )
    target_tokenizer: Pieces | None = Field(
        None, description="pieces an answer is cut into; by default as the texts"
    )
    target_vocabulary: int | None = Field(
        None,
        ge=5,
        le=10**7,
        description="the most pieces of answers; by default as `vocabulary`",
    )
    joint: bool = Field(False, description="one vocabulary for texts and answers")
    target_without: str = Field(
        "",
        description="rewrite: characters left out of the answers, such as 012, marks of stress",
    )
    copy_unknown: bool = Field(
        True,
        description="words, whitespace: put in the source word that attention looks at where the "
        "answer is unknown",
    )
    score_tokenizer: Literal[
        "13a", "none", "char", "intl", "zh", "ja-mecab", "ko-mecab"
    ] = Field(
        "13a",
        description="translate: how sacrebleu cuts text into words; none for text that is",
    )
    min_count: int = Field(
        1,
        ge=1,
        le=10**9,
        description="pieces rarer than this are unknown (chars, jamo, words)",
    )
    max_tokens: int | None = Field(
        512,
        ge=2,
        le=10**7,
        description="a longer text is cut here; translate, rewrite, parse, write: a longer side "
        "is a faulty row",
    )
    train_list: str | None = Field(
        None,
        description="images: a file whose lines name those to train on; by default one beside the "
        "images whose name holds train",
    )
    dev_list: str | None = Field(
        None,
        description="images: a file whose lines name those to score on; by default one beside the "
        "images whose name holds dev or val",
    )
    holdout: float = Field(
        0.1, gt=0, lt=1, description="share held out when there is no `dev`"
    )
    limit: int | None = Field(
        None, ge=1, le=10**12, description="read only the first rows"
    )
    documents: Literal["joined", "apart"] = Field(
        "joined",
        description="language model: joined reads rows of text as one text; apart: no row sees "
        "another",
    )
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="what a faulty row does"
    )
    max_row: int = Field(
        1_000_000,
        ge=1,
        le=2**31,
        description="the most bytes of a row; running text has no limit",
    )
    shards: Literal["auto", "always", "never"] = Field(
        "auto",
        description="encode text into files that are mapped, not held in memory; auto does for "
        "128 MB or more, a packed file counting four times",
    )

    @field_validator("numbers", "categories", "dates", mode="before")
    @classmethod
    def _several(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names


class ModelConfig(LayerConfig):
    """The model around the layer."""

    init: str | None = Field(
        None,
        description="begin with the weights of this run (its folder, or its name in runs), or of "
        "another program's checkpoint (a folder of Hugging Face, a GGUF file, a file of "
        "llama2.c), as far as they fit; its tokenizer, layer and sizes are taken where no key "
        "says otherwise",
    )
    embedding: int = Field(
        128, ge=1, le=2**31 - 1, description="width of the token embedding"
    )
    embedding_std: float = Field(
        0.1, gt=0, le=100, description="spread of the embedding's first weights"
    )
    tie: bool = Field(False, description="output weights are the embedding's")
    share: bool = Field(
        False,
        description="unaligned: source and target have one embedding; needs data.joint",
    )
    scale_embedding: bool = Field(
        False, description="unaligned: embeddings times the square root of their width"
    )
    head_bias: bool = Field(
        True, description="language model, unaligned: output weights have a bias"
    )
    decoder: str | None = Field(
        None, description="unaligned: layer that writes; by default the one that reads"
    )
    decoder_layers: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="unaligned: stacked layers that write; by default as `layers`",
    )
    attention: Literal["additive", "multiplicative", "none"] = Field(
        "additive",
        description="unaligned: how a recurrent decoder looks back at the source",
    )
    input_feeding: bool = Field(
        True,
        description="unaligned, multiplicative: attention's output is read at the next step",
    )
    fusion: Literal["film", "relation", "hops", "attention", "joined"] = Field(
        "film",
        description="ask-image: how image and question come together: feature-wise modulation, "
        "pairs of places, attention several times or once, or side by side",
    )
    fusion_width: int = Field(
        256, ge=1, le=2**20, description="ask-image: width of what joins them"
    )
    pooling: Literal["last", "mean", "max", "attention", "mean-max"] = Field(
        "mean-max", description="many to one: how the steps become one vector"
    )
    ngrams: int = Field(
        0,
        ge=0,
        le=1000,
        description="many to one: add a linear model over n-grams of up to n characters; tagging: "
        "read those of each word's pieces",
    )
    ngram_dropout: float = Field(
        0.5, ge=0, lt=1, description="share of n-grams left out in training"
    )
    spelling: int = Field(
        64,
        ge=0,
        le=2**31 - 1,
        description="tag, parse: width of what reads each word's characters; 0 is none",
    )
    token_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of tokens dropped whole"
    )
    embedding_dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout after the embedding"
    )
    head_dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout before the output weights"
    )


class ReportConfig(Config):
    """What ``report.html`` shows. It may change when a run is resumed."""

    samples: bool = Field(
        True,
        description="show rows of the data, and texts that a language model writes",
    )
    rows: int = Field(
        20, ge=0, le=10_000, description="rows shown of those with the worst answers"
    )
    inside: bool = Field(
        True, description="look inside the model on three held-out rows (inside.html)"
    )


class Recipe(Config):
    """A run, complete: saved as ``config.yaml`` in its folder."""

    name: str = Field("run", description="name of the run; its folder is runs/<name>")
    task: str | None = Field(
        None, description=f"{', '.join(TASKS)}; by default inferred from the data"
    )
    layer: str = Field("gru", description=", ".join(LAYERS))
    seed: int = Field(
        0,
        ge=0,
        le=2**63 - 1,
        description="equal seeds, versions and threads give equal runs on one machine",
    )
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    encoder: EncoderConfig = EncoderConfig()
    training: TrainingConfig = TrainingConfig()
    adapter: AdapterConfig = AdapterConfig()
    align: AlignConfig = AlignConfig()
    decoding: Search = Search()
    report: ReportConfig = ReportConfig()

    @field_validator("task")
    @classmethod
    def _known_task(cls, name: str | None) -> str | None:
        if name is not None and name not in TASKS:
            raise ValueError(unknown("task", name, TASKS))
        return name

    @field_validator("layer")
    @classmethod
    def _known_layer(cls, name: str) -> str:
        if name in ("transformer", "gpt"):
            raise ValueError(f"a {name} is layer=attention here")
        if name not in LAYERS:
            own = "one of your own comes with --plugin FILE"
            raise ValueError(f"{unknown('layer', name, LAYERS)}; {own}")
        return name


class About(Config):
    """What a shipped recipe says of itself."""

    pattern: str
    what: str
    minutes: float | None = Field(
        None, description="wall time on 2 cores; None: it takes GPUs"
    )
    source: str | None = Field(
        None, description="where data that does not ship comes from"
    )
    checkpoint: str | None = Field(
        None, description="where the checkpoint comes from that it begins with"
    )
    licence: str | None = None
    size: str | None = None
