"""How much batching gains: cross-encoder pairs in buckets, and requests to an endpoint in flight."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing import get_context
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from experiments.models import cross_encoder
from experiments.rag.inference import data, judge
from experiments.rag.inference.params import RagInfer
from experiments.rag.inference.reading import Answer
from harness.progress import working

_LATENCY = 0.2  # seconds that the loopback endpoint takes for each answer
_PAIRS, _BATCH = 2000, 64
_ANSWERS, _IN_FLIGHT = 50, 16


def bench(device: str, repeats: int, quick: bool) -> pd.DataFrame:
    """One row a case: median seconds of the baseline and of ours, in turn and warm, and their ratio."""
    cases = [nli_in_buckets, ragas_in_flight][: 1 if quick else None]
    rows = []
    with working("bench", len(cases), "cases") as advance:
        for case in cases:
            rows.append(case(device, repeats))
            advance(1, f"{rows[-1]['case']}: {rows[-1]['ratio']:.1f}")
    return pd.DataFrame(rows)


def nli_in_buckets(device: str, repeats: int, pairs: int = _PAIRS) -> dict[str, Any]:
    """Pairs of one to ten passages and a sentence, judged in buckets of one length and one at a time."""
    model = cross_encoder.load("builtin", device)
    dataset, rng = data.builtin(), random.Random(0)
    passages = list(dataset.passages.values())
    some = [
        (" ".join(rng.sample(passages, rng.randint(1, 10))), rng.choice(dataset.questions).accepted[0][0])
        for _ in range(pairs)
    ]

    def one_at_a_time() -> list[float]:
        scores = []
        for pair in some:
            ids, segments, _ = model.encode([pair])
            scores += model.entails(ids, segments)
        return scores

    def in_buckets() -> list[float]:
        ids, segments, _ = model.encode(some)
        scores = np.empty(len(some))
        for chosen in model.batches(ids, _BATCH):
            scores[chosen] = model.entails([ids[i] for i in chosen], [segments[i] for i in chosen])
        return [float(each) for each in scores]

    baseline, ours = _in_turn(one_at_a_time, in_buckets, repeats)
    difference = float(np.abs(np.subtract(one_at_a_time(), in_buckets())).max())
    row = _row(f"NLI, {pairs} pairs, buckets of {_BATCH}", "one pair at a time", pairs, baseline, ours)
    return row | {"largest_difference": difference}


def ragas_in_flight(device: str, repeats: int, answers: int = _ANSWERS) -> dict[str, Any]:
    """RAGAS' faithfulness and context precision of answers, from a loopback endpoint that takes 200 ms a request."""
    del device
    fresh = count()

    def asking(address: str, in_flight: int) -> Callable[[], object]:
        params = RagInfer.model_validate({"judge_endpoint": address, "in_flight": in_flight, "retries": 0})

        def ask() -> object:
            number = next(fresh)  # questions never asked before, or their replies would be on disk
            some = [Answer(f"Question {number}.{i}?", f"Answer {i}.", (f"Passage {i}.",)) for i in range(answers)]
            found = judge.judged(params, some)
            assert all(isinstance(row, dict) for row in found), found
            return found

        return ask

    with (
        _loopback() as address,
        tempfile.TemporaryDirectory() as scratch,
        patch.dict(os.environ, RIGSWEEP_CACHE=scratch),
    ):
        baseline, ours = _in_turn(asking(address, 1), asking(address, _IN_FLIGHT), repeats)
    return _row(f"RAGAS, {answers} answers, {_IN_FLIGHT} requests in flight", "one in flight", answers, baseline, ours)


@contextmanager
def _loopback() -> Iterator[str]:
    """An endpoint in a process of its own that calls everything supported and useful, 200 ms a request."""
    with get_context("spawn").Pool(1) as pool, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        pool.apply_async(_serve, [port])
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"
        pool.terminate()


def _serve(port: int) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                request = (await reader.readexactly(length)).decode()
                await asyncio.sleep(_LATENCY)
                body = json.dumps(
                    {"choices": [{"index": 0, "message": {"role": "assistant", "content": _say(request)}}]}
                )
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
                await writer.drain()

    async def forever() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(forever())


def _say(request: str) -> str:
    """What RAGAS wants to hear, by the schema that it sends along."""
    if "NLIStatementOutput" in request or "StatementFaithfulnessAnswer" in request:
        return json.dumps({"statements": [{"statement": "s", "reason": "r", "verdict": 1}]})
    if "statements" in request:
        return json.dumps({"statements": ["s"]})
    return json.dumps({"reason": "r", "verdict": 1})


def _in_turn(baseline: Callable[[], object], ours: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of each, after a warm-up of ours, in turn."""
    ours()
    times = [(_seconds(baseline), _seconds(ours)) for _ in range(repeats)]
    return median(each[0] for each in times), median(each[1] for each in times)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _row(case: str, baseline: str, done: int, baseline_seconds: float, seconds: float) -> dict[str, Any]:
    return {
        "case": case,
        "baseline": baseline,
        "baseline_seconds": baseline_seconds,
        "seconds": seconds,
        "per_second": done / seconds,
        "ratio": baseline_seconds / seconds,
    }
