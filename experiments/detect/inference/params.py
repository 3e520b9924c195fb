"""The settings of `detect`, each declared once: command line, search space, cache key and tables follow from here."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from experiments.models.chat_settings import TEMPLATE_DATE, IsoDate, JsonObject
from harness.stage import Decides, Params

SAMPLES = Decides("which samples are judged")
_ROWS = Decides("what one record is, and so which labels there are")
# "all", or layer.head pairs such as "3.0,3.7,5.2"
HEADS = r"\d+\.\d+(,\d+\.\d+)*"


class DetectInfer(Params):
    """What decides the records: model, data, and how ECS and PKS are read."""

    model: str = Field(
        "builtin", description="language model: `builtin`, a folder, a GGUF file, or a Hugging Face name"
    )
    dataset: Annotated[str, SAMPLES] = Field(
        "builtin", description="`builtin`, a RAGTruth folder, or own data: JSONL, JSON, CSV or Parquet"
    )
    skip_bad: Annotated[bool, SAMPLES] = Field(
        False, description="leave out rows that cannot be used, instead of refusing the data set"
    )
    generator: Annotated[str | None, SAMPLES] = Field(
        None, description="RAGTruth: keep the responses of this model only"
    )
    split: Annotated[str | None, SAMPLES] = Field(None, description="keep the samples of this split only")
    task: Annotated[str | None, SAMPLES] = Field(None, description="keep the samples of this task type only")
    limit: Annotated[int | None, SAMPLES] = Field(None, ge=1, description="keep the first so many samples")
    prompt_chars: int | None = Field(None, ge=1, description="cut longer prompts here (published ReDeEP: 12000)")
    max_sequence_length: int | None = Field(
        None, ge=16, description="tokens; longer prompts are cut at their end (unset: the model's window)"
    )
    chat_template: bool = Field(True, description="put the prompt through the tokenizer's chat template if it has one")
    template_date: IsoDate = Field(
        TEMPLATE_DATE, description="what a chat template that asks for today's date is told (ISO)"
    )
    system_prompt: str | None = Field(
        None, description="what the chat template is given as the system's words (unset: its own, if any)"
    )
    template_options: JsonObject | None = Field(
        None, description='further variables of the chat template, as JSON: {"enable_thinking": false}'
    )
    level: Annotated[Literal["chunk", "token"], _ROWS] = Field(
        "chunk", description="one record a response span, or one a token"
    )
    span_chars: Annotated[int, _ROWS] = Field(
        0, ge=0, le=100_000, description="join sentences into spans of up to so many characters (0: one a span)"
    )
    pks: Literal["jsd", "published"] = Field(
        "jsd", description="Jensen-Shannon divergence (nats), or the published variant"
    )
    extract_heads: Annotated[str, StringConstraints(pattern=rf"^(all|{HEADS})$")] = Field(
        "all", description="heads to read ECS from: `all`, or layer.head pairs such as 3.0,5.2"
    )
    embedder: str = Field(
        "model",
        description="chunk level: a sentence's vector by the model, alone (`model`) or where it stands in the"
        " pass (`states`: no second pass), or a sentence-transformers folder or name",
    )
    precision: Literal["fp32", "bf16", "fp16", "int8", "nf4", "fp4"] = Field("fp32", description="weights' precision")
    precision_check: int = Field(
        4, ge=0, le=1000, description="below fp32: responses computed again in fp32, to say what the precision changes"
    )
    attention: Literal["auto", "eager", "sdpa", "flash"] = Field(
        "auto", description="kernel; auto: sdpa, or eager where the model caps its scores"
    )
    compile: bool = Field(
        False, description="compile the feed-forward blocks and the divergence (needs a C++ compiler)"
    )
    batch_tokens: Literal["auto"] | Annotated[int, Field(ge=1, le=10**6)] = Field(
        "auto", description="tokens computed at once; auto: what fits into memory, found once on each hardware"
    )
    texts: bool = Field(False, description="keep the text of each span in the records")
    workers: int = Field(1, ge=1, le=64, description="processes that hold a model each, on GPUs of their own if any")
    device_map: Literal["single", "auto", "balanced", "sequential"] = Field(
        "single", description="one device, or the model spread over all and offloaded (accelerate's device maps)"
    )
    max_memory_gb: float | None = Field(
        None, gt=0, description="most memory of each device for weights (device maps) and for batches (auto)"
    )
    cleanup_every: int = Field(0, ge=0, le=10**6, description="free cached memory after so many batches (0: never)")
