"""Retrieve at each tier, generate, let every detector read -> Records: one row an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from experiments.models import endpoint, thinking
from experiments.models.thinking import Said
from experiments.rag.inference import data, retrieve
from experiments.rag.inference.abstention import abstains
from experiments.rag.inference.corpus import Kept
from experiments.rag.inference.data import Dataset, Question
from experiments.rag.inference.embedding import Embed, sentence_encoder
from experiments.rag.inference.generate import Generator, Local, Prompt, Remote
from experiments.rag.inference.matching import ambiguous, correct, denies_accepted
from experiments.rag.inference.params import RagInfer
from experiments.rag.inference.reading import Answer, Load, Read, Readings, Setup, warm_up
from experiments.rag.inference.retrieve import Ranking, Selection
from experiments.rag.inference.text import normalise, sentences
from experiments.rag.inference.verdicts import JUDGED, UNKNOWN, UNLABELLED
from harness.measuring.clock import Clock
from harness.running.work import Failure, Part, here, records, work
from harness.stage import BadInput, Context, Records

_LABELS = {"hallucinated": 1, "faithful": 0, "abstained": 0}  # of the others there is none


@dataclass(frozen=True)
class Query:
    """An answer that is to be had, or that the data bring along with its label; and what it is held against."""

    id: str
    question: Question
    tier: str
    texts: tuple[str, ...]
    shown: Selection | None = None
    ranking: Ranking | None = None
    answer: str | None = None
    given: int | None = None


def infer(params: RagInfer, context: Context, *, readers: Mapping[str, Load]) -> Records:
    """Answer every question at every tier and read each answer with every detector, a chunk of answers at a time.

    `readers` are the detectors' ways to read, by detector; those with nothing to read with are left out.
    """
    clock = context.clock
    with clock.spending("io"):
        dataset = data.read(params.dataset, params.limit)
    given = not dataset.passages and params.answered_by == "auto"
    nobody = _nobody_answers(dataset, params)
    if params.label == "given" and not given:
        whose = params.dataset if dataset.passages else "a model's answer"
        raise BadInput(f"label = given: {whose} brings no labels along; label=answers")
    with clock.warmup():
        tally = endpoint.Tally()
        embed = sentence_encoder(params.encoder, context.device) if params.encoder else None
        generator = None if given or nobody else _generator(params, context.device, tally)
        setup = Setup(params, context.device, embed, tally, generator.model if isinstance(generator, Local) else None)
        loaded = {name: load(setup) for name, load in readers.items() if not nobody}
        reading = {name: read for name, read in loaded.items() if read is not None and not isinstance(read, str)}
        warm_up(reading.values())
        if isinstance(generator, Local):
            generator.warm_up()
    clock.forget_peak()
    kept = Kept(f"{context.hardware} {context.device}")
    with clock.spending("preprocessing"):
        queries = _given(dataset) if given else _queries(dataset, params, embed, kept, context.seed)
    frame, failures = work(
        context,
        here(partial(_compute, params, generator, reading, tally)),
        _chunks(queries, params),
        lambda query: query.id,
        [query.id for query in queries],
        "rag",
        max_error_rate=params.max_error_rate,
    )
    unanswered = sum(failure.row is None for failure in failures)
    counts = {"kept": len(frame), "questions": len(dataset.questions), "errors": unanswered}
    unable = {name: why for name, why in loaded.items() if isinstance(why, str)}
    told = {
        "unable": unable,
        "decided": setup.decided,
        "remade": kept.damaged,
        "told": list(dataset.told),
        "unanswered": nobody,
    }
    return records(context, frame, counts, judged=params.judge_endpoint is not None, given=given, **told)


def _nobody_answers(dataset: Dataset, params: RagInfer) -> bool:
    """Whether retrieval alone is to be measured; BadInput where that is all that could be, and more is asked for."""
    if params.answered_by == "nobody" and not dataset.passages:
        raise BadInput(f"answered_by = nobody: {params.dataset} holds no passages of its own, so nothing is retrieved")
    if params.answered_by == "model" and not dataset.answerable:
        raise BadInput(
            f"answered_by = model: {params.dataset} holds no accepted answers (metadata.answers of a query), so that no"
            " answer would have a label; auto or nobody measures how good retrieval is"
        )
    return params.answered_by == "nobody" or not dataset.answerable


def _generator(params: RagInfer, device: str, tally: endpoint.Tally) -> Generator:
    return Remote(params, tally) if params.endpoint else Local(params, device)


def _given(dataset: Dataset) -> list[Query]:
    return [
        Query(f"{question.id}/{number}", question, "given", question.knowledge, answer=answer, given=label)
        for question in dataset.questions
        for number, (answer, label) in enumerate(question.given)
    ]


def _queries(dataset: Dataset, params: RagInfer, embed: Embed | None, kept: Kept, seed: int) -> list[Query]:
    if not dataset.passages:  # each question has its own
        return [Query(f"{question.id}/own", question, "given", question.knowledge) for question in dataset.questions]
    queries = []
    for question, order in retrieve.rank(dataset, params, embed, kept):
        ranking = order.ranking(params.k)
        for tier in retrieve.tiers(params):
            shown = retrieve.select(question, order, tier, params, seed)
            texts = tuple(dataset.passages[name] for name in shown.passages)
            queries.append(Query(f"{question.id}/{tier}", question, tier, texts, shown, ranking))
    return queries


def _chunks(queries: Sequence[Query], params: RagInfer) -> Iterator[list[Query]]:
    """What is kept together: answers of about one length, enough of them to fill batches and requests in flight."""
    size = 4 * max(params.batch_size, params.in_flight if params.endpoint or params.judge_endpoint else 1)
    ordered = sorted(queries, key=lambda query: (-sum(map(len, query.texts)), query.id))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _compute(
    params: RagInfer,
    generator: Generator | None,
    readers: Mapping[str, Read],
    tally: endpoint.Tally,
    chunk: Sequence[Query],
    clock: Clock,
) -> Iterator[Part]:
    """Answer and read a chunk; what an endpoint has not served is a failure, with its row where there is an answer."""
    before = tally.counts()
    with clock.batch(samples=len(chunk)):
        queries, said, reasons, dated = _answer(chunk, generator, clock)
        answered = [(query, each) for query, each in zip(queries, said, strict=True) if each is not None]
        rows = [_row(query, each, params) for query, each in answered]
        answers = [Answer(query.question.text, each.text, query.texts) for query, each in answered]
        _read(rows, answers, readers, params.detector_workers, clock)
    whole = [row for row in rows if not _unread(row, readers)]
    failures = [Failure(query.id, why) for query, each, why in zip(queries, said, reasons, strict=True) if each is None]
    failures += [Failure(row["item"], why, row) for row in rows if (why := _unread(row, readers))]
    counts = _counts(whole, readers)
    counts |= {"template_dates": dated} | {name: count - before[name] for name, count in tally.counts().items()}
    done = [row["item"] for row in whole]
    yield Part(done, pd.DataFrame(whole, index=done), counts, failures)


def _answer(
    chunk: Sequence[Query], generator: Generator | None, clock: Clock
) -> tuple[Sequence[Query], Sequence[Said | None], Sequence[str], int]:
    """The queries less the passages that the window cannot hold, what is said to them, and why nothing is (None).

    Last, how many of them went through a chat template that asked for today's date.
    """
    if generator is None:
        return chunk, [_given_answer(query.answer or "") for query in chunk], [""] * len(chunk), 0
    prompts = []
    with clock.spending("tokenising"):
        for query in chunk:
            prompt = Prompt(query.question.text, query.texts)
            prompts.append(prompt._replace(passages=query.texts[: generator.fitting(prompt)]))
    with clock.part("generation"):
        found = generator.answer(prompts)
    clock.count(found.tokens, found.padding)
    fitted = [replace(query, texts=tuple(prompt.passages)) for query, prompt in zip(chunk, prompts, strict=True)]
    return fitted, found.said, found.reasons, found.dated


def _given_answer(text: str) -> Said:
    """An answer of the data, without what a model has thought before it."""
    parted = thinking.part(text)
    thought = thinking.estimated_tokens(parted.thinking)
    return Said(parted.answer, cut=not parted.whole, thought=thought, estimated=thought > 0)


def _row(query: Query, said: Said, params: RagInfer) -> dict[str, Any]:
    """What the records say of an answer before any detector has read it."""
    question, shown, ranking, passages = query.question, query.shown, query.ranking, len(query.texts)
    row: dict[str, Any] = {"group": question.id, "item": query.id, "tier": query.tier, "question": question.text}
    row |= {"passages": passages, "answer": said.text, "finish_reason": said.finish}
    row |= {"thinking_tokens": said.thought, "thinking_estimated": said.estimated}
    if shown and ranking:
        relevant = sum(name in question.relevant for name in shown.passages[:passages])
        row |= {"achieved": relevant / passages, "cut": passages < len(shown.passages)}
        row |= {"asked": shown.asked} if shown.asked is not None else {}
        row |= {"recall": ranking.recall, "reciprocal_rank": ranking.reciprocal_rank}
        row["matched"] = ranking.matched
    given = query.given is not None and params.label != "answers"
    verdict = _verdict(query, said, params)
    row |= {"verdict": verdict, "label": _LABELS.get(verdict, UNKNOWN), "length": len(normalise(said.text))}
    row["ambiguous"] = "" if given else ambiguous(question.text, question.accepted)
    if verdict == "hallucinated" and not row["ambiguous"] and not given:
        row["ambiguous"] = "denied" if denies_accepted(said.text, question.accepted, question.text) else ""
    return row | {"evidence": len(sentences(said.text)) if verdict in JUDGED else 0}


def _verdict(query: Query, said: Said, params: RagInfer) -> str:
    """What an answer is: as the data say, or by what is accepted; one that was cut off, or says nothing, is neither."""
    if query.given is not None and params.label != "answers":
        return "hallucinated" if query.given else "faithful"
    if not query.question.accepted or params.answered_by == "nobody":
        return UNLABELLED
    if said.cut:
        return "cut"
    if not sentences(said.text):
        return "empty"
    if query.given is None and abstains(said.text):
        return "abstained"
    return "faithful" if correct(said.text, query.question.accepted, query.question.text) else "hallucinated"


def _read(
    rows: Sequence[dict[str, Any]], answers: Sequence[Answer], readers: Mapping[str, Read], workers: int, clock: Clock
) -> None:
    """Let every detector read every answer that says something: in turn, or `workers` of them at once.

    Each is timed by itself, and all of them together.
    """
    telling = [row for row in rows if row["evidence"]]
    told = [answer for row, answer in zip(rows, answers, strict=True) if row["evidence"]]

    def read(name: str) -> Sequence[Readings]:
        with clock.part(name):
            return readers[name](told)

    with clock.part("detectors"), ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(read, readers))
    for name, readings in zip(readers, found, strict=True):
        for row, features in zip(telling, readings, strict=True):
            row |= features if isinstance(features, dict) else {f"error_{name}": features}


def _unread(row: dict[str, Any], readers: Mapping[str, Read]) -> str:
    """Why a detector has not read this answer ("": all of them have)."""
    return next((row[f"error_{name}"] for name in readers if f"error_{name}" in row), "")


def _counts(rows: list[dict[str, Any]], readers: Mapping[str, Read]) -> dict[str, int]:
    return {
        "abstained": sum(row["verdict"] == "abstained" for row in rows),
        "prompts_cut": sum(row.get("cut", False) for row in rows),
        "cut_to_window": _told(rows, readers, "cut"),
        "answers_inside_thinking": _told(rows, readers, "thinking"),
        "read_by_dated_template": _told(rows, readers, "dated"),
        "too_few_relevant": sum(
            row["achieved"] < row["asked"] - 0.5 / row["passages"] for row in rows if "asked" in row
        ),
    }


def _told(rows: Sequence[Mapping[str, Any]], readers: Mapping[str, Read], what: str) -> int:
    """Of how many answers a detector says so."""
    return sum(any(row.get(f"{name}_{what}", 0) > 0 for name in readers) for row in rows)
