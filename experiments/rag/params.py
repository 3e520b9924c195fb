"""The settings of `rag`, each declared once: command line, search space, cache key and tables follow from here."""

from typing import Annotated, Literal

from pydantic import Field

from harness.stage import Params

TIERS = {"high": 0.8, "medium": 0.5, "low": 0.2}  # share of a context's passages that are relevant
FUSED = "fused"


class RagInfer(Params):
    """What decides the records: data, retrieval, the model that answers, and what the detectors read."""

    dataset: str = Field(
        "builtin",
        description="`builtin`, a folder of passages.jsonl and questions.jsonl, or a HaluEval-style JSONL of answers",
    )
    limit: int | None = Field(None, ge=1, description="keep the first so many questions")
    label: Literal["auto", "answers", "given"] = Field(
        "auto", description="hallucinated: as the data say (given), or no accepted answer in it (answers); auto: given"
        " where the data do")  # fmt: skip
    retriever: Literal["bm25", "dense", "hybrid"] = Field(
        "bm25", description="what ranks passages: words, sentence embeddings, or both by reciprocal rank"
    )
    bm25_k1: float = Field(1.5, ge=0, le=10, description="BM25: how soon a repeated word stops counting")
    bm25_b: float = Field(0.75, ge=0, le=1, description="BM25: how much long passages are held back")
    encoder: str | None = Field(
        None,
        description="sentence-transformers folder or name: ranks passages when dense, and is a detector of its own",
    )
    k: int = Field(10, ge=1, le=100, description="passages in a context")
    tier: Literal["all", "high", "medium", "low", "retrieved"] = Field(
        "all", description="80, 50 or 20 % of the k passages relevant; all three; or the k retrieved, as they are"
    )
    distractors: Literal["random", "hard"] = Field(
        "random", description="irrelevant passages: any, or those ranked highest"
    )
    model: str = Field(
        "builtin", description="model that answers: `builtin`, a folder, a hub name, or a name at `endpoint`"
    )
    endpoint: str | None = Field(None, description="OpenAI-compatible address that answers; unset: the model runs here")
    precision: Literal["fp32", "bf16", "fp16", "int8", "nf4", "fp4"] = Field("fp32", description="weights' precision")
    chat_template: bool = Field(True, description="put the prompt through the tokenizer's chat template if it has one")
    max_new_tokens: int = Field(64, ge=1, le=4096, description="tokens of an answer at most")
    batch_size: int = Field(16, ge=1, le=4096, description="answers generated at once")
    nli: str = Field(
        "builtin", description="cross-encoder for inference: `builtin` (knows no English), a folder, a hub name"
    )
    nli_batch: int = Field(64, ge=1, le=4096, description="pairs of passage and sentence judged at once")
    detector_workers: int = Field(1, ge=1, le=8, description="detectors that read at once; 1: in turn")
    judge_endpoint: str | None = Field(
        None,
        description="OpenAI-compatible address for RAGAS; unset: its string metrics stand in, under their own name",
    )
    judge_model: str = Field("gpt-4o-mini", description="model at `judge_endpoint`")
    judge_embedder: str | None = Field(
        None, description="embedding model at `judge_endpoint`, for response relevancy (unset: left out)"
    )
    in_flight: int = Field(16, ge=1, le=256, description="requests to an endpoint at once")
    request_timeout: float = Field(60, gt=0, le=3600, description="seconds that an endpoint has for one answer")
    retries: int = Field(4, ge=0, le=20, description="further attempts at a request that failed, with growing pauses")
    max_error_rate: float = Field(
        0.1, ge=0, le=1, description="fail the run when an endpoint could not serve more of the answers than this"
    )


class RagScore(Params):
    """What turns the detectors' readings into scores, calls and one fused detector, and judges them."""

    detector: Literal["fused", "lexical", "nli", "similarity", "string", "ragas"] = Field(
        "fused", description="detector that the metrics without a name after them are of"
    )
    fusion: Literal["rank", "logistic"] = Field(
        "rank", description="mean of the ranks among training answers, or logistic regression fitted on them"
    )
    aggregation: Literal["min", "mean"] = Field(
        "min", description="sentences of an answer: its least supported one, or their mean"
    )
    overlap: Literal["tokens", "entities", "both"] = Field(
        "both", description="lexical: share of words, of names and numbers, or the mean of the two"
    )
    string_metric: Literal["rouge", "chrf", "levenshtein"] = Field(
        "rouge", description="which of RAGAS' string metrics"
    )
    ragas_metric: Literal["faithfulness", "relevancy", "precision"] = Field(
        "faithfulness", description="which of RAGAS' judged metrics"
    )
    threshold: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto",
        description="score of `detector` called hallucinated; auto, and the others': F1-best in training",
    )
    folds: int = Field(5, ge=2, le=50, description="cross-fitting folds, grouped by question and stratified by label")
    fold_seed: int = Field(0, ge=0, lt=2**32, description="seed of folds and bootstrap")
