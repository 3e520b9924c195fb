"""The settings of `detect`, each declared once: command line, search space, cache key and tables follow from here."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from harness.stage import Params

# "all", or layer.head pairs such as "3.0,3.7,5.2"
HEADS = r"\d+\.\d+(,\d+\.\d+)*"


class DetectInfer(Params):
    """What decides the records: model, data, and how ECS and PKS are read."""

    model: str = Field("builtin", description="language model: `builtin`, a folder, or a Hugging Face name")
    dataset: str = Field("builtin", description="`builtin`, a RAGTruth folder, or a JSONL of own data")
    generator: str | None = Field(None, description="RAGTruth: keep the responses of this model only")
    split: str | None = Field(None, description="keep the samples of this split only")
    task: str | None = Field(None, description="keep the samples of this task type only")
    limit: int | None = Field(None, ge=1, description="keep the first so many samples")
    prompt_chars: int | None = Field(None, ge=1, description="cut longer prompts here (published ReDeEP: 12000)")
    max_sequence_length: int | None = Field(
        None, ge=16, description="tokens; longer prompts are cut at their end (unset: the model's window)"
    )
    chat_template: bool = Field(True, description="put the prompt through the tokenizer's chat template if it has one")
    level: Literal["chunk", "token"] = Field("chunk", description="one record a response span, or one a token")
    span_chars: int = Field(
        0, ge=0, le=100_000, description="join sentences into spans of up to so many characters (0: one a span)"
    )
    pks: Literal["jsd", "published"] = Field(
        "jsd", description="Jensen-Shannon divergence (nats), or the published variant"
    )
    extract_heads: Annotated[str, StringConstraints(pattern=rf"^(all|{HEADS})$")] = Field(
        "all", description="heads to read ECS from: `all`, or layer.head pairs such as 3.0,5.2"
    )
    embedder: str = Field(
        "model", description="chunk level: `model` (its own mean-pooled states) or a sentence-transformers name"
    )
    batch_tokens: int = Field(
        1024, ge=1, le=10**6, description="response tokens computed at once; responses to one prompt share a batch"
    )
    precision: Literal["fp32", "bf16", "fp16", "int8", "nf4", "fp4"] = Field("fp32", description="weights' precision")


class DetectScore(Params):
    """What turns records into a detector and judges it."""

    protocol: Literal["crossfit", "published"] = Field(
        "crossfit", description="choose on training folds and judge out of fold, or fit and judge on all (published)"
    )
    scorer: Literal["linear", "logistic", "ensemble"] = Field(
        "linear", description="m*PKS - alpha*ECS as published; logistic regression on response aggregates; both"
    )
    heads: Annotated[str, StringConstraints(pattern=rf"^(auto|all|{HEADS})$")] = Field(
        "auto", description="copying heads: the `top_n` best on training folds, `all`, or layer.head pairs"
    )
    select: Literal["auc", "mutual_info"] = Field("auc", description="what ranks heads and layers")
    top_n: int = Field(3, ge=1, le=1024, description="heads summed into ECS when heads=auto")
    top_k: int = Field(3, ge=1, le=256, description="layers summed into PKS")
    alpha: float = Field(0.6, ge=0, le=10, description="weight of ECS")
    m: float = Field(1.0, ge=0, le=10, description="weight of PKS")
    threshold: Literal["auto"] | Annotated[float, Field(ge=-20, le=20)] = Field(
        "auto", description="score called hallucinated; auto: F1-best in training"
    )
    folds: int = Field(5, ge=2, le=50, description="cross-fitting folds, grouped by prompt and stratified by label")
    fold_seed: int = Field(0, ge=0, lt=2**32, description="seed of folds and bootstrap")
