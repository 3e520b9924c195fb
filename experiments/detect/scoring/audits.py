"""What only `detect` can doubt about its own result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.chat_audits import template_asks_for_date  # noqa: F401 - what stands here is asked
from harness.running.differences import CLEAR, lead
from harness.stage import Audited, Doubt, check

_NEGLIGIBLE = 0.01  # a shift of ECS, or a share of PKS, that is small beside what tells spans apart
_SAME = 1e-5


@check("the protocol chooses and judges on the same responses", "quote auc_out_of_fold, or run protocol=crossfit")
def in_sample(audited: Audited) -> Iterator[Doubt]:
    if audited.params.protocol == "published":
        yield (
            "warn",
            "protocol=published chooses heads, layers and threshold on the responses it is judged on, as papers did;"
            " quote auc_out_of_fold, or run protocol=crossfit, for what to expect on new data",
        )


def _not_shown(audited: Audited, part: str, weight: str) -> Iterator[Doubt]:
    """A part that is used, and whose worth cannot be told from chance."""
    metrics, name = audited.report.metrics, f"auc_{part}"
    area, p = metrics.get(name), metrics.get(f"{name}_p")
    if getattr(audited.params, weight) != 0 and area is not None and p is not None and (area < 0.5 or p > CLEAR):
        yield (
            "warn",
            f"that {part.upper()} tells hallucinations from the rest is not shown: alone it reaches {name} {area:.3f}"
            f" (p {p:.2g}); set its weight ({weight}) to 0 and see whether anything is lost, or score more data",
        )


@check("ECS or PKS alone is as good as their combination", "use other weights, or that part alone")
def part_beats_whole(audited: Audited) -> Iterator[Doubt]:
    metrics = audited.report.metrics
    if audited.params.alpha == 0 or audited.params.m == 0:
        return
    for part in ("auc_ecs", "auc_pks"):
        if part in metrics and "auc" in metrics and metrics[part] >= metrics["auc"]:
            worse, told = lead(audited.report, "auc", part)
            said = "the other part does harm" if worse else "that the other part adds anything is not shown"
            yield (
                "warn" if worse else "info",
                f"the combination's {metrics['auc']:.3f} is no better than {part} {metrics[part]:.3f} alone{told};"
                f" {said} at these weights",
            )


@check("a precision below fp32 was not compared with fp32", "see what kept it from being compared")
def precision_unchecked(audited: Audited) -> Iterator[Doubt]:
    checked, precision = _checked(audited)
    if "skipped" in checked:
        yield "warn", f"{precision} was not compared with fp32: {checked['skipped']}"


@check("a precision below fp32 moves ECS or PKS", "compare the AUC with that of precision=fp32")
def precision_changes_features(audited: Audited) -> Iterator[Doubt]:
    checked, precision = _checked(audited)
    if (moved := checked.get("fp32")) is not None:
        much = moved["ecs_median"] > _NEGLIGIBLE or moved["pks_median"] > _NEGLIGIBLE
        yield (
            "warn" if much else "info",
            f"against fp32, {precision} moves ECS by {moved['ecs_median']:.2g} (median; at most {moved['ecs_max']:.2g})"
            f" and PKS by {moved['pks_median']:.1%} (at most {moved['pks_max']:.1%}) on {checked.get('responses')}"
            " responses" + ("; compare the AUC with that of precision=fp32" if much else ""),
        )


@check(
    "the model cannot read: its loss on the prompts is no better than that of their unigrams",
    "look at how its weights were converted; generate a sentence with it",
)
def model_cannot_read(audited: Audited) -> Iterator[Doubt]:
    read = audited.records.origin.get("reads") or {}
    if read and read["loss"] >= read["unigram_loss"]:
        yield (
            "fail",
            f"the model's loss on {read['tokens']} tokens of the prompts is {read['loss']:.2f} nats a token, that of"
            f" their unigrams {read['unigram_loss']:.2f}: it cannot read them, and its features are noise; look at how"
            " its weights were converted, and whether it knows the language of the data",
        )


@check("in a precision below fp32 a response's features depend on its batch", "use precision=fp32 where that matters")
def batch_changes_features(audited: Audited) -> Iterator[Doubt]:
    checked, precision = _checked(audited)
    if (moved := checked.get("batch")) is not None and max(moved["ecs_max"], moved["pks_max"]) > _SAME:
        yield (
            "info",
            f"in {precision} a response's ECS depends by up to {moved['ecs_max']:.2g}, its PKS by up to"
            f" {moved['pks_max']:.1%}, on what shares its batch ({checked.get('responses')} responses looked at); fp32"
            " keeps to 1e-5",
        )


@check("the model takes no batch, or has layers without ECS", "none; it is slower, and no worse")
def slower_road(audited: Audited) -> Iterator[Doubt]:
    road = audited.records.origin.get("road") or {}
    if road.get("taken") == "alone":
        yield "info", f"texts were computed one at a time, for together they would give other numbers: {road['why']}"
    if (without := road.get("layers", 0) - road.get("attend", 0)) > 0:
        yield "info", f"{without} of {road['layers']} layers do not attend: they give PKS and no ECS"


@check("that ECS separates the responses is not shown", "set alpha to 0 and see whether anything is lost")
def ecs_uninformative(audited: Audited) -> Iterator[Doubt]:
    return _not_shown(audited, "ecs", "alpha")


@check("that PKS separates the responses is not shown", "set m to 0 and see whether anything is lost")
def pks_uninformative(audited: Audited) -> Iterator[Doubt]:
    return _not_shown(audited, "pks", "m")


@check("most responses, or most prompts, are one span", "set span_chars=0, or level=token where there are no sentences")
def one_span(audited: Audited) -> Iterator[Doubt]:
    origin, frame = audited.records.origin, audited.records.frame
    if origin.get("infer", {}).get("level") != "chunk":
        return
    sizes = frame.groupby("group").size()
    single, prompts = int((sizes == 1).sum()), origin.get("counts", {}).get("prompts_of_one_span", 0)
    if 2 * single > len(sizes):
        yield (
            "warn",
            f"{single} of {len(sizes)} responses are one span: a score can tell no part of them from another; see"
            " whether their sentences are found, and lower span_chars",
        )
    if 2 * prompts > len(sizes):
        yield (
            "warn",
            f"the prompts of {prompts} of {len(sizes)} responses are one span, to which every head attends: all ECS of"
            " a span are alike; see whether the prompts' sentences are found, and lower span_chars",
        )


@check("rows of the data were at fault and left out", "mend them, for they may be the hard ones")
def rows_faulty(audited: Audited) -> Iterator[Doubt]:
    if faults := audited.records.origin.get("faults"):
        yield "info", f"what skip_bad=true left out begins with {' | '.join(faults)}"


@check("the data have columns that nothing uses", "see whether one of them was meant to be used")
def columns_unused(audited: Audited) -> Iterator[Doubt]:
    if names := audited.records.origin.get("unknown_columns"):
        yield "info", f"{len(names)} columns of the data are not used: {', '.join(map(repr, names))}"


@check("responses have no label", "label them, or leave them to `apply`")
def responses_unlabelled(audited: Audited) -> Iterator[Doubt]:
    known = audited.records.frame.groupby("group")["label"].max() >= 0
    if unknown := int((~known).sum()):
        yield (
            "info",
            f"{unknown} of {len(known)} responses have no label: they are scored by what the others teach, and no"
            " figure counts them",
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


def _checked(audited: Audited) -> tuple[Mapping[str, Any], str | None]:
    """What was computed again on the few responses looked at, and the precision that it is compared with."""
    origin = audited.records.origin
    return origin.get("checked") or {}, origin.get("infer", {}).get("precision")
