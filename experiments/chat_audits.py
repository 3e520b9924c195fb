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
