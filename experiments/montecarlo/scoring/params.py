"""The settings that score the records of `montecarlo`."""

from typing import Annotated, Literal

from pydantic import Field

from harness.stage import Params

Statistic = Literal[
    "trace_post", "trace_pre", "trace_weighted", "largest", "norm_variance", "angular_variance", "cosine_deviation"
]


class MontecarloScore(Params):
    """What turns records into a verdict on the uncertainty."""

    statistic: Statistic = Field("trace_post", description="what is called an image's uncertainty")
    judged_passes: Literal["most"] | Annotated[int, Field(ge=2, le=10**6)] = Field(
        "most", description="T that the headline figures are of; most: the largest that the records hold"
    )
    bootstrap_seed: int = Field(0, ge=0, lt=2**32, description="seed of the bootstrap over images")
