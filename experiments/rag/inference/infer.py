"""Retrieve at each tier, generate, let every detector read -> Records: one row an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.models import cross_encoder, endpoint, language
from experiments.rag.inference import data, judge, lexical, nli, retrieve, similarity
from experiments.rag.inference.data import Dataset, Question
from experiments.rag.inference.generate import Generator, Local, Prompt, Remote
from experiments.rag.inference.judge import Answer, Row
from experiments.rag.inference.params import RagInfer
from experiments.rag.inference.retrieve import Embed, Ranking
from experiments.rag.inference.text import abstains, correct, normalise, sentences
from harness.measuring.clock import Clock
from harness.running.work import records
from harness.stage import BadInput, Context, Records

Read = Callable[[Sequence[Answer]], list[Row]]  # what a detector reads from each of some answers


@dataclass(frozen=True)
class Task:
    """An answer that is to be had, or that the data bring along with its label; and what it is held against."""

    id: str
    question: Question
    tier: str
    texts: tuple[str, ...]
    context: retrieve.Context | None = None
    ranking: Ranking | None = None
    answer: str | None = None
    given: int | None = None


def inputs(params: RagInfer) -> dict[str, str]:
    """Content digests of the data and of every model that will be used; an endpoint's has none but its name."""
    digests = {"data": data.digest(params.dataset), "nli": language.digest(cross_encoder.locate(params.nli))}
    if not Path(params.dataset).expanduser().is_file():
        digests["model"] = f"{params.model} at {params.endpoint}" if params.endpoint else language.digest(params.model)
    if params.encoder and Path(params.encoder).is_dir():
        digests["encoder"] = language.digest(params.encoder)
    return digests


def infer(params: RagInfer, context: Context) -> Records:
    """Answer every question at every tier and read each answer with every detector, a chunk of answers at a time."""
    clock = context.clock
    with clock.spending("io"):
        dataset = data.read(params.dataset, params.limit)
    given = not dataset.passages
    if params.label == "given" and not given:
        raise BadInput(f"label = given: {params.dataset} brings no labels along; label=answers")
    with clock.warmup():
        tally = endpoint.Tally()
        embed = retrieve.sentence_encoder(params.encoder, context.device) if params.encoder else None
        generator = None if given else _generator(params, context.device, tally)
        readers = _readers(params, context.device, embed, tally, alone=not isinstance(generator, Local))
    clock.forget_peak()
    with clock.spending("preprocessing"):
        tasks = _given(dataset) if given else _contexts(dataset, params, embed, context.seed)
    journal, place = context.journal, {task.id: i for i, task in enumerate(tasks)}
    failed: list[dict[str, Any]] = []  # not journalled: the same command asks an endpoint for them again
    with context.progress(len(tasks), "rag") as advance:
        advance(len(journal.done))
        for whole_chunk in _chunks(tasks, params):
            if not (chunk := [task for task in whole_chunk if task.id not in journal.done]):
                continue
            kept_before = tally.kept_before
            with clock.batch(samples=len(chunk)):
                rows = [_row(task, text, reason, params) for task, text, reason in _answers(chunk, generator, clock)]
                _read(rows, readers, params.detector_workers, clock)
            whole = [row for row in rows if not _reason(row)]
            failed += [row for row in rows if _reason(row)]
            with clock.spending("io"):
                counts = _counts(whole) | {"replies_kept_before": tally.kept_before - kept_before}
                journal.keep(_frame(whole), [row["item"] for row in whole], counts, clock.lap())
            _require_few(failed, len(tasks), params)
            advance(len(chunk))
    answered = [row for row in failed if row["answer"] is not None]  # by the model, but not read by the judge
    unanswered = len(failed) - len(answered)
    frame = pd.concat([each for each in (journal.frame(), _frame(answered)) if len(each)] or [pd.DataFrame()])
    if frame.empty:
        raise BadInput(f"no answer was had; the first failed for this reason: {_reason(failed[0])}")
    frame = frame.iloc[frame["item"].map(place).argsort(kind="stable")].reset_index(drop=True)
    counts = {"kept": len(frame), "questions": len(dataset.questions), "errors": unanswered}
    return records(context, frame, counts, judged=params.judge_endpoint is not None, given=given)


def _generator(params: RagInfer, device: str, tally: endpoint.Tally) -> Generator:
    return Remote(params, tally) if params.endpoint else Local(params, device)


def _given(dataset: Dataset) -> list[Task]:
    return [
        Task(f"{question.id}/{number}", question, "given", question.knowledge, answer=answer, given=label)
        for question in dataset.questions
        for number, (answer, label) in enumerate(question.given)
    ]


def _contexts(dataset: Dataset, params: RagInfer, embed: Embed | None, seed: int) -> list[Task]:
    rankings = retrieve.rank(dataset, params, embed)
    tasks = []
    for question in dataset.questions:
        for tier in retrieve.tiers(params):
            context = retrieve.context(question, rankings[question.id], tier, params, seed)
            texts = tuple(dataset.passages[name] for name in context.passages)
            tasks.append(Task(f"{question.id}/{tier}", question, tier, texts, context, rankings[question.id]))
    return tasks


def _chunks(tasks: Sequence[Task], params: RagInfer) -> Iterator[list[Task]]:
    """What is kept together: answers of about one length, enough of them to fill batches and requests in flight."""
    size = 4 * max(params.batch_size, params.in_flight if params.endpoint or params.judge_endpoint else 1)
    ordered = sorted(tasks, key=lambda task: (-sum(map(len, task.texts)), task.id))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _answers(chunk: Sequence[Task], generator: Generator | None, clock: Clock) -> list[tuple[Task, str | None, str]]:
    """Each task with its answer, or the reason why there is none; passages that the window cannot hold are gone."""
    if generator is None:
        return [(task, task.answer, "") for task in chunk]
    prompts = []
    with clock.spending("tokenising"):
        for task in chunk:
            prompt = Prompt(task.question.text, task.texts)
            prompts.append(prompt._replace(passages=task.texts[: generator.fitting(prompt)]))
    with clock.part("generation"):
        found = generator.answer(prompts)
    clock.count(found.tokens, found.padding)
    return [
        (replace(task, texts=tuple(prompt.passages)), text, reason)
        for task, prompt, text, reason in zip(chunk, prompts, found.texts, found.reasons, strict=True)
    ]


def _row(task: Task, answer: str | None, reason: str, params: RagInfer) -> dict[str, Any]:
    """What the records say of an answer before any detector has read it."""
    row: dict[str, Any] = {
        "group": task.question.id,
        "item": task.id,
        "tier": task.tier,
        "question": task.question.text,
    }
    row |= {"texts": task.texts, "passages": len(task.texts), "answer": answer, "error": reason}
    if task.context and task.ranking:
        relevant = sum(name in task.question.relevant for name in task.context.passages[: len(task.texts)])
        row |= {"achieved": relevant / len(task.texts), "cut": len(task.texts) < len(task.context.passages)}
        row |= {"asked": task.context.asked} if task.context.asked is not None else {}
        row |= {"recall": task.ranking.recall, "reciprocal_rank": task.ranking.reciprocal_rank}
    if answer is None:
        return row
    wrong = task.given if task.given is not None and params.label != "answers" else None
    if wrong is None:
        wrong = int(not correct(answer, task.question.accepted))
    silent = task.given is None and abstains(answer)
    verdict = "abstained" if silent else "hallucinated" if wrong else "faithful"
    row |= {"verdict": verdict, "label": int(verdict == "hallucinated"), "length": len(normalise(answer))}
    return row | {"evidence": 0 if silent else len(sentences(answer))}


def _readers(
    params: RagInfer, device: str, embed: Embed | None, tally: endpoint.Tally, *, alone: bool
) -> dict[str, Read]:
    """The detectors that can read with what there is."""
    readers: dict[str, Read] = {
        "lexical": lexical.read,
        "nli": partial(nli.read, cross_encoder.load(params.nli, device, alone=alone), params.nli_batch),
    }
    readers |= {"similarity": partial(similarity.read, embed)} if embed else {}
    if params.judge_endpoint is None:
        return readers | {"string": judge.strings}
    return readers | {"ragas": partial(judge.judged, params, tally=tally)}


def _read(rows: list[dict[str, Any]], readers: dict[str, Read], workers: int, clock: Clock) -> None:
    """Let every detector read every answer that says something: in turn, or `workers` of them at once.

    Each is timed by itself, and all of them together.
    """
    telling = [row for row in rows if row.get("evidence")]
    answers = [Answer(row["question"], row["answer"], row["texts"]) for row in telling]

    def read(name: str) -> list[Row]:
        with clock.part(name):
            return readers[name](answers)

    with clock.part("detectors"), ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(read, readers))
    for readings in found:
        for row, reading in zip(telling, readings, strict=True):
            row |= reading | _undefined(reading) if isinstance(reading, dict) else {"error_ragas": reading}


def _undefined(reading: dict[str, float]) -> dict[str, Any]:
    """Why a metric of RAGAS' is missing that its judge was asked for in vain; the others stand."""
    missing = [name for name, value in reading.items() if name.startswith("ragas_") and math.isnan(value)]
    return {f"error_{name}": f"the judge gave no {name.removeprefix('ragas_')}" for name in missing}


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {
        "abstained": sum(row["verdict"] == "abstained" for row in rows),
        "prompts_cut": sum(row.get("cut", False) for row in rows),
        "cut_to_window": sum(row.get("nli_cut", 0.0) > 0 for row in rows),
        "too_few_relevant": sum(
            row["achieved"] < row["asked"] - 0.5 / row["passages"] for row in rows if "asked" in row
        ),
    }


def _reason(row: dict[str, Any]) -> str:
    """Why an endpoint has not served all of this answer ("": it has)."""
    return str(row["error"] or row.get("error_ragas", ""))


def _require_few(failed: Sequence[dict[str, Any]], total: int, params: RagInfer) -> None:
    """End a run whose endpoint fails it too often."""
    if len(failed) > params.max_error_rate * total:
        raise BadInput(
            f"max_error_rate = {params.max_error_rate}: {len(failed)} of {total} answers were not served, the first for"
            f" this reason: {_reason(failed[0])}; what was served is kept, and the same command goes on from there"
        )


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([{name: row[name] for name in row if name not in {"texts", "error"}} for row in rows])
