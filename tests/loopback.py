"""An OpenAI-compatible endpoint on this machine that answers as told, and its faults."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def completion(content: Any, finish: str | None = "stop", usage: Any = None, **message: Any) -> Reply:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    body: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    body |= {"usage": usage} if usage else {}
    return 200, {}, json.dumps(body).encode()


def refusing(*names: str) -> Callable[[dict[str, Any]], Reply]:
    """Answer only requests without these settings, as OpenAI's reasoning models do."""

    def answer(request: dict[str, Any]) -> Reply:
        for name in names:
            if name in request:
                told = f"Unsupported parameter: '{name}' is not supported with this model."
                fault = {"message": told, "type": "invalid_request_error", "code": "unsupported_parameter"}
                return 400, {}, json.dumps({"error": fault | {"param": name}}).encode()
        return completion("reply to " + request["messages"][-1]["content"])

    return answer


def judge(request: dict[str, Any]) -> Reply:
    """Judge as RAGAS asks: a statement is supported, and a passage useful, when it holds the word `true`."""
    if "input" in request:
        texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
        data = [{"object": "embedding", "index": i, "embedding": [1.0, len(text) % 3]} for i, text in enumerate(texts)]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return 200, {}, json.dumps({"object": "list", "model": "e", "data": data, "usage": usage}).encode()
    text = "\n".join(message["content"] for message in request["messages"])
    asked = text[text.rindex("Now perform the same") :] if "Now perform the same" in text else text
    given = json.loads(asked[asked.index("{") : asked.rindex("}") + 1])
    if "statements" in given:
        found: Any = [{"statement": s, "reason": "", "verdict": int("true" in s)} for s in given["statements"]]
        return completion(json.dumps({"statements": found}))
    if "context" in given:
        return completion(json.dumps({"reason": "", "verdict": int("true" in given["context"])}))
    if "answer" in given:
        return completion(json.dumps({"statements": given["answer"].split(". ")}))
    return completion(json.dumps({"question": "Is it true?", "noncommittal": 0}))


@dataclass
class Endpoint:
    """What the server does, and what it has seen."""

    address: str = ""
    answer: Callable[[dict[str, Any]], Reply] = judge
    latency: float = 0.0
    slots: int = 1000  # requests that are computed at once; the others wait, and one whose client is gone goes on
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0


@contextmanager
def serve(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Serve on loopback until left."""
    lock, at_once = threading.Lock(), 0
    slots = threading.Semaphore(endpoint.slots)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal at_once
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                endpoint.requests.append(request)
                endpoint.keys[self.headers.get("Authorization", "")] += 1
                at_once += 1
                endpoint.most_at_once = max(endpoint.most_at_once, at_once)
            try:
                with slots:
                    time.sleep(endpoint.latency)
                status, headers, body = endpoint.answer(request)
            finally:
                with lock:
                    at_once -= 1
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

        def handle(self) -> None:
            try:
                super().handle()
            except (BrokenPipeError, ConnectionResetError):  # a client that has waited long enough
                return

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    endpoint.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
