"""What stages that put prompts through chat templates doubt about them."""

from __future__ import annotations

from collections.abc import Iterator

from harness.stage import Audited, Doubt, check


@check("a chat template asked for today's date", "set template_date where another date is meant")
def template_asks_for_date(audited: Audited) -> Iterator[Doubt]:
    origin = audited.records.origin
    counts = origin.get("counts", {})
    if asked := max(counts.get("template_dates", 0), counts.get("read_by_dated_template", 0)):
        yield (
            "info",
            f"the chat template asked for today's date in {asked} prompts and was told"
            f" {origin.get('infer', {}).get('template_date')}, so that records do not depend on the day;"
            " set template_date where another date is meant",
        )


@check(
    "answers stand inside an open chain of thought",
    'set template_options={"enable_thinking": false}, where the chat template reads that',
)
def answers_inside_thinking(audited: Audited) -> Iterator[Doubt]:
    counts = audited.records.origin.get("counts", {})
    if inside := counts.get("answers_inside_thinking", 0):
        yield (
            "warn",
            f"{inside} of {counts.get('kept', inside)} responses follow a chat template that opens a chain of thought"
            " and does not end it, so the model reads them as thoughts, not as answers; set"
            ' template_options={"enable_thinking": false}, where the template reads that, or chat_template=false',
        )
