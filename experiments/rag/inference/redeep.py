"""The ReDeEP detector: what a language model attended to while it read an answer, and what it knew by heart.

The model that answers here reads its own answers, each behind the very prompt that it was given; another one that is
named reads anybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from experiments.models import chat, language, packed
from experiments.models.language import LanguageModel
from experiments.rag.inference import generate
from experiments.rag.inference.generate import Prompt
from experiments.rag.inference.params import RagInfer
from experiments.rag.inference.reading import Answer, Read, Readings, Setup
from experiments.redeep import extract
from experiments.redeep.embed import embedder
from experiments.redeep.encode import Encoded, encode
from experiments.redeep.extract import Features, Head
from experiments.redeep.sample import Sample
from harness.progress import working
from harness.stage import BadInput

_UNREAD = "error_redeep_"  # why all columns that begin so are missing


def load(setup: Setup) -> Read | str | None:
    """Read by the model that answers, where it runs here and can be read, or by the one that the settings name."""
    params = setup.params
    if params.redeep_model not in {"auto", "off"}:
        return _Reader.of(language.load(params.redeep_model, params.precision, setup.device), params)
    if params.redeep_model == "off" or setup.model is None:
        return None
    try:
        return _Reader.of(setup.model, params)
    except BadInput as reason:  # it answers well enough, but its numbers could not be believed
        return str(reason)


@dataclass(frozen=True)
class _Reader:
    """A model, and how ECS of `heads` and PKS of all layers are read from some responses.

    `asked`: the settings name it, so that what it cannot read is a failure; else it only goes unread.
    """

    model: LanguageModel
    params: RagInfer
    asked: bool
    heads: list[Head]
    extract: Callable[[list[Encoded]], list[Features]]

    @classmethod
    def of(cls, model: LanguageModel, params: RagInfer) -> _Reader:
        """Prove that the model can be read, and prepare to."""
        with packed.attending(model):
            heads = [(layer, head) for layer, count in sorted(model.proof.heads.items()) for head in range(count)]
            named = params.redeep_embedder
            embed = None if named == "states" else embedder(named, model, params.redeep_tokens, "redeep_embedder")
            return cls(
                model,
                params,
                params.redeep_model == model.name,
                heads,
                extract.extractor(model, heads, "chunk", "jsd", embed),
            )

    def __call__(self, answers: Sequence[Answer]) -> list[Readings]:
        """Means over an answer's sentences; an answer that cannot be read has the reason instead."""
        encoded = [self._fitting(answer) for answer in answers]
        sound = [each for each in encoded if isinstance(each, Encoded)]
        found: dict[tuple[bytes, str, str], Features] = {}
        with ExitStack() as stack:
            stack.enter_context(packed.attending(self.model))
            advance = stack.enter_context(working("read as ReDeEP", len(sound), "answers"))
            for batch in extract.batches(sound, self.params.redeep_tokens):
                found |= zip((each.key for each in batch), self.extract(batch), strict=True)
                advance(len(batch))
        rows = [each if isinstance(each, str) else self._row(each, found[each.key]) for each in encoded]
        return [{_UNREAD: row} if isinstance(row, str) and not self.asked else row for row in rows]

    def _fitting(self, answer: Answer) -> Encoded | str:
        """An answer behind as many of its passages, from the first, as the window has room for; or why there is none.

        It is the passages that are left out, as where answers are generated: the question stands behind them.
        """
        for count in range(len(answer.passages), 0, -1):
            encoded = self._encode(replace(answer, passages=answer.passages[:count]))
            if isinstance(encoded, str) or not encoded.cut:
                return encoded if isinstance(encoded, str) else replace(encoded, cut=count < len(answer.passages))
        return f"the window of {self.model.name}, {self.model.window} tokens, does not hold it and one passage"

    def _encode(self, answer: Answer) -> Encoded | str:
        """An answer behind its prompt, as the model that gave it would have seen both; or why that cannot be."""
        prompt, params = Prompt(answer.question, answer.passages), self.params
        chats = params.chat_template and self.model.tokenizer.chat_template
        asked = generate.messages(prompt)[0]["content"] if chats else generate.plain(prompt)
        text = answer.text if chats else f" {answer.text}"
        try:
            return encode(
                Sample(answer.question, asked, text, None, ""),
                self.model,
                chat_template=params.chat_template,
                max_length=None,
                span_chars=0,
                told=chat.Told(params.template_date),
            )
        except BadInput as reason:
            return str(reason)

    def _row(self, encoded: Encoded, features: Features) -> Readings:
        ecs, pks = features.ecs.mean(axis=0), features.pks.mean(axis=0)
        if not (np.isfinite(ecs).all() and np.isfinite(pks).all()):
            return "what was read is not finite; a higher precision may help"
        row = {f"redeep_ecs_{layer}_{head}": float(ecs[i]) for i, (layer, head) in enumerate(self.heads)}
        row |= {f"redeep_pks_{layer}": float(value) for layer, value in enumerate(pks)}
        told = {"cut": encoded.cut, "dated": encoded.dated, "thinking": encoded.thinking}
        return row | {f"redeep_{name}": float(value) for name, value in told.items()}
