"""The settings that score the records of `montecarlo`."""

from typing import Annotated, Literal

from pydantic import Field

from harness.stage import OneOf, Params

STATISTICS = {
    "trace_post": 1,
    "trace_pre": 1,
    "trace_weighted": 1,
    "largest": 1,
    "norm_variance": 1,
    "angular_variance": 1,
    "cosine_deviation": 0,
}
"""What may be called an image's uncertainty, and how many of T passes it spends on a mean of its own: the variance over
trials of what is taken over normal passes is in inverse proportion to the rest of them."""


class MontecarloScore(Params):
    """What turns records into a verdict on the uncertainty."""

    statistic: Annotated[str, OneOf(*STATISTICS)] = Field(
        "trace_post", description="what is called an image's uncertainty"
    )
    judged_passes: Literal["most"] | Annotated[int, Field(ge=2, le=10**6)] = Field(
        "most", description="T that the headline figures are of; most: the largest that the records hold"
    )
