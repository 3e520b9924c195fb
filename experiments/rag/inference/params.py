"""The settings of `rag`, each declared once: command line, search space, cache key and tables follow from here."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from experiments.models.address import Address
from experiments.models.chat_settings import TEMPLATE_DATE, IsoDate
from harness.stage import Decides, Params

_QUESTIONS = Decides("which answers are judged")
_ANSWERS = Decides("what is answered, and so the labels")
TIERS = {"high": 0.8, "medium": 0.5, "low": 0.2}  # share of a context's passages that are relevant


def _tiers(text: str) -> str:
    """The tiers in the one form that equal lists share, so that they share a cache key."""
    asked = {name.strip() for name in text.split(",")}
    if len(asked) == 1 and asked <= {"all", "retrieved"}:
        return asked.pop()
    if not asked <= set(TIERS):
        raise ValueError(f"all, retrieved, or some of {', '.join(TIERS)} with commas between them")
    return "all" if asked == set(TIERS) else ",".join(name for name in TIERS if name in asked)


class RagInfer(Params):
    """What decides the records: data, retrieval, the model that answers, and what the detectors read."""

    dataset: Annotated[str, _QUESTIONS] = Field(
        "builtin",
        description="`builtin`, a folder of passages.jsonl and questions.jsonl, or of BEIR, or a HaluEval-style JSONL"
        " of answers",
    )
    limit: Annotated[int | None, _QUESTIONS] = Field(None, ge=1, description="keep the first so many questions")
    label: Annotated[Literal["auto", "answers", "given"], Decides("what counts as hallucinated")] = Field(
        "auto", description="hallucinated: as the data say (given), or no accepted answer in it (answers); auto: given"
        " where the data do")  # fmt: skip
    answered_by: Annotated[Literal["auto", "model", "nobody"], _QUESTIONS] = Field(
        "auto",
        description="auto: answers that the data bring along, where they do; model: the model answers anyway; nobody:"
        " retrieval alone is measured, as where the data hold no accepted answer",
    )
    retriever: Annotated[Literal["bm25", "dense", "hybrid"], _ANSWERS] = Field(
        "bm25", description="what ranks passages: words, sentence embeddings, or both by reciprocal rank"
    )
    bm25_k1: Annotated[float, _ANSWERS] = Field(
        1.5, ge=0, le=10, description="BM25: how soon a repeated word stops counting"
    )
    bm25_b: Annotated[float, _ANSWERS] = Field(
        0.75, ge=0, le=1, description="BM25: how much long passages are held back"
    )
    encoder: str | None = Field(
        None,
        description="sentence-transformers folder or name: ranks passages when dense, and is a detector of its own",
    )
    k: Annotated[int, _ANSWERS] = Field(10, ge=1, le=100, description="passages in a context")
    tier: Annotated[str, _ANSWERS, AfterValidator(_tiers)] = Field(
        "all",
        description="`high`, `medium`, `low`: 80, 50 or 20 % of the k passages relevant; some of them (`high,low`);"
        " `all`; or the k `retrieved`, as they are",
    )
    distractors: Annotated[Literal["random", "hard"], _ANSWERS] = Field(
        "random", description="irrelevant passages: any, or those ranked highest"
    )
    model: Annotated[str, _ANSWERS] = Field(
        "builtin", description="model that answers: `builtin`, a folder, a hub name, or a name at `endpoint`"
    )
    endpoint: Annotated[Address, _ANSWERS] = Field(
        None, description="OpenAI-compatible address that answers; unset: the model runs here"
    )
    precision: Literal["fp32", "bf16", "fp16", "int8", "nf4", "fp4"] = Field("fp32", description="weights' precision")
    chat_template: Annotated[bool, _ANSWERS] = Field(
        True, description="put the prompt through the tokenizer's chat template if it has one"
    )
    template_date: Annotated[IsoDate, _ANSWERS] = Field(
        TEMPLATE_DATE, description="what a chat template that asks for today's date is told (ISO)"
    )
    max_new_tokens: Annotated[int, _ANSWERS] = Field(64, ge=1, le=4096, description="tokens of an answer at most")
    batch_size: int = Field(16, ge=1, le=4096, description="answers generated at once")
    nli: str = Field(
        "builtin", description="cross-encoder for inference: `builtin` (knows no English), a folder, a hub name, `off`"
    )
    nli_label: str | None = Field(
        None, description="name or index of the cross-encoder's label that means support; unset: the one for entailment"
    )
    nli_batch: int = Field(64, ge=1, le=4096, description="pairs of passage and sentence judged at once")
    redeep_model: str = Field(
        "auto",
        description="language model that ReDeEP is read in: the one that answers, if it runs here (`auto`); a folder or"
        " hub name; `off`",
    )
    redeep_embedder: str = Field(
        "model",
        description="ReDeEP: a sentence's vector by the model, alone (`model`) or where it stands in the pass"
        " (`states`: no second pass), or a sentence-transformers folder or name",
    )
    redeep_tokens: int = Field(1024, ge=1, le=10**6, description="tokens that ReDeEP computes at once")
    detector_workers: int = Field(1, ge=1, le=8, description="detectors that read at once; 1: in turn")
    judge_endpoint: Address = Field(
        None,
        description="OpenAI-compatible address for RAGAS; unset: its string metrics stand in, under their own name",
    )
    judge_model: str = Field("gpt-4o-mini", description="model at `judge_endpoint`")
    judge_embedder: str | None = Field(
        None, description="embedding model at `judge_endpoint`, for response relevancy (unset: left out)"
    )
    in_flight: int = Field(
        16, ge=1, le=256, description="requests to an endpoint at once, at most; as many as it bears"
    )
    request_timeout: float = Field(
        60,
        gt=0,
        le=3600,
        description="seconds after which a reply is late: then fewer are asked for at once, and it is waited for",
    )
    retries: int = Field(
        4,
        ge=0,
        le=20,
        description="further attempts at a request that failed, or times that a late one is waited for again",
    )
    max_error_rate: float = Field(
        0.1, ge=0, le=1, description="fail the run when an endpoint could not serve more of the answers than this"
    )
