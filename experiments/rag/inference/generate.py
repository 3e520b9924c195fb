"""Questions and their passages -> answers: by a model here, or by an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from experiments.models import chat, endpoint, generate, language
from experiments.models.thinking import Said
from experiments.rag.inference.params import RagInfer
from harness.progress import counted, working
from harness.running.work import came
from harness.stage import BadInput

_INSTRUCTION = (
    "Answer the question from the context alone, in one sentence for each thing that is asked."
    " If the context does not tell, say: I don't know."
)


class Prompt(NamedTuple):
    """What is asked, and the texts to answer from."""

    question: str
    passages: Sequence[str]


class Answered(NamedTuple):
    """Answers in the order of the prompts, None where there is none, and why; tokens and padding computed.

    `dated` prompts went through a chat template that asked for today's date.
    """

    said: list[Said | None]
    reasons: list[str]
    tokens: int = 0
    padding: int = 0
    dated: int = 0


class Generator(Protocol):
    """What answers: `fitting` says how many of the passages it can take, `answer` answers a few prompts."""

    def fitting(self, prompt: Prompt) -> int:
        """How many passages, from the first, it can take."""

    def answer(self, prompts: Sequence[Prompt]) -> Answered:
        """Answer some prompts."""


def plain(prompt: Prompt) -> str:
    """A prompt for a model that only continues text; the form that the built-in one was trained on."""
    return f"Context: {' '.join(prompt.passages)} Request: {prompt.question} Answer:"


def messages(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt for a model that chats."""
    told = "\n".join(f"[{i}] {passage}" for i, passage in enumerate(prompt.passages, 1))
    return [{"role": "user", "content": f"{_INSTRUCTION}\n\nContext:\n{told}\n\nQuestion: {prompt.question}"}]


class Local:
    """A language model in this process, greedy."""

    def __init__(self, params: RagInfer, device: str) -> None:
        self._params = params
        self.model = language.load(params.model, params.precision, device)
        generate.prepare(self.model)

    def warm_up(self) -> None:
        """Continue a few tokens, so that imports and first calls are behind the model when it is timed."""
        generate.answer(self.model, [self.model.tokenizer("Context:")["input_ids"]], 2)

    def fitting(self, prompt: Prompt) -> int:
        """How many passages, from the first, leave room for an answer in the model's window."""
        for count in range(len(prompt.passages), 0, -1):
            needed = len(self._encode(prompt._replace(passages=prompt.passages[:count]))) + self._params.max_new_tokens
            if needed <= self.model.window:
                return count
        raise BadInput(
            f"model {self._params.model}: its window of {self.model.window} tokens does not hold one passage and"
            f" max_new_tokens = {self._params.max_new_tokens}; shorten either"
        )

    def answer(self, prompts: Sequence[Prompt]) -> Answered:
        """Answer in batches of about one length; which answers share a batch changes none of them in fp32."""
        encoded, dated = zip(*map(self._read, prompts), strict=True) if prompts else ((), ())
        said: list[Said | None] = [None] * len(prompts)
        tokens = padding = 0
        batches = generate.by_length([len(ids) for ids in encoded], self._params.batch_size)
        for chosen in counted(batches, "generate", "batches"):
            found = generate.answer(self.model, [encoded[i] for i in chosen], self._params.max_new_tokens)
            for i, each in zip(chosen, found.said, strict=True):
                said[i] = each
            tokens, padding = tokens + found.useful, padding + found.padding
        return Answered(said, [""] * len(prompts), tokens, padding, sum(dated))

    def _encode(self, prompt: Prompt) -> list[int]:
        return self._read(prompt)[0]

    def _read(self, prompt: Prompt) -> tuple[list[int], bool]:
        """A prompt's token ids, and whether its chat template asked for today's date."""
        tokenizer = self.model.tokenizer
        if self._params.chat_template and tokenizer.chat_template:
            told = chat.Told(self._params.template_date)
            rendered = chat.render(self.model, messages(prompt), told, f"question {prompt.question}")
            return list(tokenizer(rendered.text, add_special_tokens=False)["input_ids"]), rendered.dated
        return list(tokenizer(plain(prompt))["input_ids"]), False


class Remote:
    """A chat model behind an OpenAI-compatible endpoint, at temperature 0."""

    def __init__(self, params: RagInfer, tally: endpoint.Tally) -> None:
        if params.model == "builtin":
            raise BadInput(f"endpoint = {params.endpoint}: needs the name of a model there, not model = builtin")
        self._params, self._tally, self._found = params, tally, tally.kept_before

    def fitting(self, prompt: Prompt) -> int:
        """All of them: what an endpoint's window holds, only the endpoint knows."""
        return len(prompt.passages)

    def answer(self, prompts: Sequence[Prompt]) -> Answered:
        """Answer all prompts, `in_flight` at a time; one that fails has a reason in the place of its answer."""
        with working("ask", len(prompts), "answers") as advance:
            found = asyncio.run(self._answer(prompts, advance))
        return Answered([said for said, _ in found], [reason for _, reason in found])

    async def _answer(self, prompts: Sequence[Prompt], advance: Callable[..., object]) -> list[tuple[Said | None, str]]:
        params = self._params
        async with endpoint.client(
            str(params.endpoint),
            in_flight=params.in_flight,
            request_timeout=params.request_timeout,
            retries=params.retries,
            tally=self._tally,
        ) as client:

            async def one(prompt: Prompt) -> tuple[Said | None, str]:
                said, why = None, ""
                try:
                    said = await endpoint.complete(client, params.model, messages(prompt), params.max_new_tokens)
                except endpoint.Failed as failed:
                    why = str(failed)
                found = min(1, self._tally.kept_before - self._found)  # a reply that was there costs nothing
                self._found += found
                advance(1, self._tally.note, found=found)
                if not params.judge_endpoint:  # else it has come when it is judged
                    came(1, self._tally.note, found=found)
                return said, why

            return list(await asyncio.gather(*map(one, prompts)))
