"""RAGAS: its judged metrics by any OpenAI-compatible endpoint, or its string metrics where no model is to be had."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from experiments.models import endpoint
from experiments.rag.inference.params import RagInfer
from experiments.rag.inference.reading import Answer, Asks, Read, Readings, Setup
from harness.progress import working
from harness.running.work import came

os.environ.setdefault("RAGAS_DO_NOT_TRACK", "true")

STRINGS = ("rouge", "chrf", "levenshtein")


def load_strings(setup: Setup) -> Read | None:
    """Read by RAGAS' string metrics, which stand in for a judge."""
    return strings if setup.params.judge_endpoint is None else None


def load_judged(setup: Setup) -> Read | None:
    """Read by RAGAS' judged metrics, where there is a judge."""
    return Asks(partial(judged, setup.params, tally=setup.tally)) if setup.params.judge_endpoint is not None else None


def strings(answers: Sequence[Answer]) -> list[Readings]:
    """Likeness of an answer to its most similar passage by RAGAS' ROUGE-L precision, chrF and Levenshtein similarity.

    Never to an accepted answer: that is what the labels are made of.
    """
    from ragas.metrics.collections import CHRFScore, NonLLMStringSimilarity, RougeScore

    metrics = dict(
        zip(
            STRINGS,
            (RougeScore(rouge_type="rougeL", mode="precision"), CHRFScore(), NonLLMStringSimilarity()),
            strict=True,
        )
    )

    async def alike(metric: Any, answer: Answer) -> float:
        found = [await metric.ascore(reference=passage, response=answer.text) for passage in answer.passages]
        return max(float(each.value) for each in found)

    async def all_of_them() -> list[Readings]:
        return [
            {f"string_{name}": await alike(metric, answer) for name, metric in metrics.items()} for answer in answers
        ]

    return asyncio.run(all_of_them())


def judged(params: RagInfer, answers: Sequence[Answer], tally: endpoint.Tally | None = None) -> list[Readings]:
    """RAGAS' faithfulness, context precision (without reference) and response relevancy of each answer.

    All answers are under way at once, `params.in_flight` requests at a time.  What an endpoint does not serve is a
    reason in the place of the scores, never a score; a metric that is undefined (no statement to be faithful) is NaN.
    Relevancy needs an embedding model; it asks for one question back, not three: at temperature 0 they would be the
    same.
    """
    with working("judge", len(answers), "answers") as advance:
        return asyncio.run(_judged(params, answers, tally or endpoint.Tally(), advance))


async def _judged(
    params: RagInfer, answers: Sequence[Answer], tally: endpoint.Tally, advance: Callable[..., object]
) -> list[Readings]:
    from ragas.embeddings.openai_provider import OpenAIEmbeddings
    from ragas.llms import llm_factory
    from ragas.metrics.collections import AnswerRelevancy, ContextPrecisionWithoutReference, Faithfulness

    async with endpoint.client(
        str(params.judge_endpoint),
        in_flight=params.in_flight,
        request_timeout=params.request_timeout,
        retries=params.retries,
        tally=tally,
    ) as client:
        llm = llm_factory(params.judge_model, client=client, temperature=0, max_retries=params.retries)
        faithfulness, precision = Faithfulness(llm=llm), ContextPrecisionWithoutReference(llm=llm)
        relevancy: Any = None
        if params.judge_embedder:
            embeddings = OpenAIEmbeddings(client=client, model=params.judge_embedder)
            relevancy = AnswerRelevancy(llm=llm, embeddings=embeddings, strictness=1)

        async def scores(answer: Answer) -> dict[str, float]:
            shared = {"user_input": answer.question, "response": answer.text}
            passages = list(answer.passages)
            wanted = {
                "faithfulness": faithfulness.ascore(**shared, retrieved_contexts=passages),
                "precision": precision.ascore(**shared, retrieved_contexts=passages),
            } | ({"relevancy": relevancy.ascore(**shared)} if relevancy else {})
            results = await asyncio.gather(*wanted.values(), return_exceptions=True)
            values: dict[str, float] = {}
            for name, result in zip(wanted, results, strict=True):
                if isinstance(result, BaseException):
                    raise result
                values[f"ragas_{name}"] = float(result.value)
            return values

        async def row(answer: Answer) -> Readings:
            results: dict[str, float] | str
            try:
                results = await scores(answer)
            except Exception as error:  # whatever ragas, instructor or openai make of a bad reply
                results = endpoint.reason(error)
            advance(1, tally.note)
            came(1, tally.note)
            if isinstance(results, str):
                return results
            if lacking := [name for name, value in results.items() if math.isinf(value)]:
                return _lacks(lacking[0])
            return results | {f"error_{name}": _lacks(name) for name, value in results.items() if math.isnan(value)}

        return list(await asyncio.gather(*map(row, answers)))


def _lacks(name: str) -> str:
    return f"the judge gave no {name.removeprefix('ragas_')}"
