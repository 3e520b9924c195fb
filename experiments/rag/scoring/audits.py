"""What only `rag` can doubt about its own result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from experiments.chat_audits import template_asks_for_date  # noqa: F401 - what stands here is asked
from experiments.rag.detectors import DETECTORS, FUSED
from experiments.rag.inference.verdicts import JUDGED, UNLABELLED
from harness.running.differences import CLEAR, difference, lead
from harness.stage import Audited, Doubt, Undefined, check, some

_RARE = 0.1
_FEW = 0.02  # answers without a label
_MOST = 0.5
_CHANCE = 0.5
_SINGLE = tuple(detector.name for detector in DETECTORS)


@check("the built-in NLI judges texts that are not of the built-in world", "name a cross-encoder in nli, or nli=off")
def nli_knows_no_english(audited: Audited) -> Iterator[Doubt]:
    used = audited.records.origin.get("infer", {})
    unread = audited.records.origin.get("unanswered")
    if used.get("nli") == "builtin" and used.get("dataset") not in {None, "builtin"} and not unread:
        yield (
            "warn",
            "nli=builtin was trained on the built-in world and reads no natural language: what it says of these data is"
            " about itself, not about NLI; name a cross-encoder in nli, or nli=off",
        )


@check("the built-in language model answers or reads texts that are not of the built-in world", "name another model")
def builtin_knows_no_english(audited: Audited) -> Iterator[Doubt]:
    used, origin = audited.records.origin.get("infer", {}), audited.records.origin
    answers = used.get("model") == "builtin" and not used.get("endpoint")
    answers = answers and not origin.get("given") and not origin.get("unanswered")
    does = [name for name, so in (("model", answers), ("redeep_model", used.get("redeep_model") == "builtin")) if so]
    if does and used.get("dataset") not in {None, "builtin"}:
        yield (
            "warn",
            f"{does[0]}=builtin knows the built-in world and no natural language: what it says of these data, and what"
            f" is read of it, means nothing; name another in {does[0]}",
        )


@check("a detector could not read by the model that answers", "name another model in redeep_model, or off")
def detector_unable(audited: Audited) -> Iterator[Doubt]:
    for name, why in audited.records.origin.get("unable", {}).items():
        yield "warn", f"{name} is left out: {why}; redeep_model names another model to read by, or off"
    frame = audited.records.frame
    for name in (name for name in _SINGLE if f"error_{name}_" in frame):
        reasons = frame[f"error_{name}_"].dropna()
        if len(reasons):
            yield (
                "warn",
                f"{name} could not read {len(reasons)} of {len(frame)} answers, the first for this reason:"
                f" {reasons.iloc[0]}; it is judged on the others alone",
            )


@check("questions have too few relevant passages for their tier", "read achieved/…, or lower k")
def tier_not_achieved(audited: Audited) -> Iterator[Doubt]:
    counts = audited.records.origin.get("counts", {})
    if missed := counts.get("too_few_relevant", 0):
        yield (
            "warn" if missed > _RARE * counts["kept"] else "info",
            f"{missed} of {counts['kept']} contexts have fewer relevant passages than their tier asks for, because the"
            " data have no more: read achieved/…, or lower k",
        )


@check("data were not read whole", "read what is told of them")
def data_left_out(audited: Audited) -> Iterator[Doubt]:
    for what in audited.records.origin.get("told", ()):
        yield "info", f"of the data, {what}"


@check("answers have no label because none is accepted", "give accepted answers, or read recall_at_k and mrr alone")
def answers_unlabelled(audited: Audited) -> Iterator[Doubt]:
    verdicts, origin = audited.records.frame.get("verdict"), audited.records.origin
    share = float((verdicts == UNLABELLED).mean()) if verdicts is not None else 0.0
    if origin.get("unanswered"):
        yield (
            "info",
            "nobody has answered, because the data hold no accepted answers or answered_by=nobody: recall_at_k, mrr and"
            " achieved are measured, detectors are not",
        )
    elif share:
        yield (
            "warn" if share > _RARE else "info",
            f"{share:.1%} of the answers have no label, because the data hold no accepted answer to their question: no"
            " detector is judged on them",
        )


@check("kept lemmas or embeddings of the corpus were damaged", "look at the disk")
def kept_damaged(audited: Audited) -> Iterator[Doubt]:
    if files := audited.records.origin.get("remade"):
        yield (
            "info",
            f"{some(files)} in the cache could not be read, and was made anew: nothing of this result rests on it, but"
            " look at the disk",
        )


@check("part of the AUC is telling good retrieval from bad", "quote auc_in_tier")
def tier_explains(audited: Audited) -> Iterator[Doubt]:
    report = audited.report
    with suppress(Undefined):
        more, low, high = difference(report, report, "auc", "auc_in_tier")
        if low > 0 and "auc_tier" in report.metrics:
            yield (
                "info",
                f"within tiers the AUC is {report.metrics['auc_in_tier']:.3f}, over all of them it is higher by"
                f" {more:.3f} ({low:.3f} to {high:.3f}), which is telling good retrieval from bad, as the tier alone"
                f" does with {report.metrics['auc_tier']:.3f}; quote auc_in_tier",
            )


@check("requests were answered from replies kept earlier", "clear the cache folder's replies to measure again")
def cost_of_kept_replies(audited: Audited) -> Iterator[Doubt]:
    if kept := audited.records.origin.get("counts", {}).get("replies_kept_before", 0):
        yield (
            "warn",
            f"{kept} requests were answered from replies kept earlier, so generation's and judging's speed is not that"
            " of the endpoint; clear the cache folder's replies to measure again",
        )


@check("an endpoint takes no temperature of 0", "run it again to see how far the figures move")
def answers_drawn(audited: Audited) -> Iterator[Doubt]:
    if count := audited.records.origin.get("counts", {}).get("without_temperature", 0):
        yield (
            "warn",
            f"{count} replies came without temperature = 0, which the endpoint refuses: answers are drawn at random, so"
            " another run has others, but for replies that are kept; run it again with an empty cache to see how far"
            " the figures move",
        )


@check("replies were late", "raise request_timeout, or lower in_flight")
def replies_late(audited: Audited) -> Iterator[Doubt]:
    counts, infer = (audited.records.origin.get(name, {}) for name in ("counts", "infer"))
    if late := counts.get("replies_late", 0):
        yield (
            "info",
            f"{late} replies were not there within request_timeout = {infer.get('request_timeout', 0):g} s, so that"
            " fewer requests were sent at once from then on: raise request_timeout where the endpoint is slow, or lower"
            f" in_flight = {infer.get('in_flight', 0)}",
        )


@check("answers say that they do not know", "compare detectors at one rate of abstention")
def abstentions(audited: Audited) -> Iterator[Doubt]:
    if share := audited.report.metrics.get("abstained"):
        yield (
            "warn" if share > 0.5 else "info",
            f"{share:.1%} of the whole answers say that they do not know: they are neither faithful nor hallucinated,"
            " and no detector is judged on them; compare detectors at one rate of abstention",
        )


@check("answers ended in their midst", "raise max_new_tokens")
def answers_cut(audited: Audited) -> Iterator[Doubt]:
    if share := audited.report.metrics.get("answers_cut"):
        limit = audited.records.origin.get("infer", {}).get("max_new_tokens")
        now = f" = {limit}" if limit else ""
        thinking = audited.report.metrics.get("thinking_tokens")
        more = f"; the model thinks {thinking:.0f} tokens before an answer, which count as well" if thinking else ""
        yield (
            "warn" if share > _FEW else "info",
            f"{share:.1%} of the answers ended in their midst, at max_new_tokens{now} or at a limit of the server: they"
            f" have no label and no detector is judged on them, so that long answers are missing; raise"
            f" max_new_tokens{more}",
        )


@check("answers say nothing at all", "ask the model by hand, or another one")
def answers_empty(audited: Audited) -> Iterator[Doubt]:
    if share := audited.report.metrics.get("answers_empty"):
        yield (
            "warn" if share > _FEW else "info",
            f"{share:.1%} of the answers are empty: that is no abstention, and they have no label; look at"
            " finish_reason in the records, and ask the model by hand",
        )


@check("tokens of thinking were counted by characters", "read thinking_tokens as an estimate")
def thinking_estimated(audited: Audited) -> Iterator[Doubt]:
    frame = audited.records.frame
    if "thinking_estimated" in frame and (estimated := int(frame["thinking_estimated"].sum())):
        yield (
            "info",
            f"in {estimated} of {len(frame)} answers tokens of thinking are counted by characters, because the endpoint"
            " does not tell them: read thinking_tokens as an estimate",
        )


@check("answers are read by ReDeEP otherwise than they were thought", "chat_template=false, or redeep_model=off")
def thoughts_unread(audited: Audited) -> Iterator[Doubt]:
    frame, counts = audited.records.frame, audited.records.origin.get("counts", {})
    if not any(str(name).startswith("redeep_ecs_") for name in frame):
        return
    inside = counts.get("answers_inside_thinking", 0)
    thought = int((frame["thinking_tokens"] > 0).sum()) if "thinking_tokens" in frame else 0
    if inside or thought:
        yield (
            "warn",
            f"ReDeEP reads {max(inside, thought)} of {len(frame)} answers without the thoughts that the model had"
            " before them, or inside a chain of thought that its template opens: what it attended to was another text;"
            " set chat_template=false, or redeep_model=off",
        )


@check("labels rest on accepted answers that say little", "ambiguous=drop")
def ambiguous_labels(audited: Audited) -> Iterator[Doubt]:
    frame = audited.records.frame
    if "ambiguous" in frame and audited.params.ambiguous == "drop":
        if left := int((frame["ambiguous"] != "").sum()):
            yield "info", f"{left} of {len(frame)} answers are left out because their label would rest on little"
    elif "ambiguous" in frame:
        told = frame[frame["verdict"].isin(JUDGED)]
        weak = told.loc[told["ambiguous"] != "", "ambiguous"]
        if len(weak):
            kinds = ", ".join(f"{name}: {count}" for name, count in weak.value_counts().items())
            share = len(weak) / len(told)
            yield (
                "warn" if share > _RARE else "info",
                f"{share:.1%} of the labels ({len(weak)} of {len(told)}) rest on accepted answers that say little when"
                f" they are found in an answer, or are not ({kinds}); ambiguous=drop leaves these answers out",
            )


@check("words that are compared are met nowhere", "name an encoder: retriever=dense, detector=similarity")
def nothing_in_common(audited: Audited) -> Iterator[Doubt]:
    frame = audited.records.frame
    for column, what in (
        ("matched", "questions have no word in common with any passage, so that BM25 ranks by chance"),
        ("lexical_tokens_mean", "answers have no word in common with their passages, so that overlap tells nothing"),
    ):
        known = frame[column].dropna() if column in frame else frame.iloc[:0]
        if len(known) and (share := float((known == 0).to_numpy().mean())) > _MOST:
            yield (
                "warn",
                f"{share:.1%} of the {what}: another language, or a script that is not read; name an encoder",
            )


@check("a detector lies below chance, and not by chance", "leave it out, or fusion=logistic")
def detector_inverted(audited: Audited) -> Iterator[Doubt]:
    metrics = audited.report.metrics
    known = {name: metrics[f"auc/{name}_p"] for name in _SINGLE if f"auc/{name}_p" in metrics}
    for name, p in known.items():
        if metrics[f"auc/{name}"] < _CHANCE and p * len(known) <= CLEAR:  # Bonferroni: some detector will be lowest
            yield (
                "warn",
                f"auc/{name} {metrics[f'auc/{name}']:.3f} lies below chance (p {p:.2g}): on these data its support"
                " goes with hallucination; leave it out, or fusion=logistic",
            )


@check("a single detector is as good as the fusion", "use that detector, or another fusion")
def part_beats_whole(audited: Audited) -> Iterator[Doubt]:
    report = audited.report
    fused = report.metrics.get("auc/fused")
    singles = {name: report.metrics[f"auc/{name}"] for name in _SINGLE if f"auc/{name}" in report.metrics}
    best = max(singles, key=lambda name: singles[name], default="")
    if fused is not None and best and singles[best] >= fused:
        worse, told = lead(report, "auc/fused", f"auc/{best}")
        yield (
            "warn" if worse and audited.params.detector == FUSED else "info",
            f"the fusion's AUC {fused:.3f} is no better than {best}'s {singles[best]:.3f} alone{told}; use"
            f" detector={best}, or another fusion",
        )


@check("that the score is no probability is not shown", "read ece beside ece_calibrated")
def miscalibration_not_shown(audited: Audited) -> Iterator[Doubt]:
    metrics = audited.report.metrics
    if (p := metrics.get("ece_p")) is not None and p > CLEAR:
        yield (
            "info",
            f"ece {metrics['ece']:.3f} is what right probabilities have by chance at this size"
            f" ({metrics['ece_calibrated']:.3f} on average, p {p:.2g}): that these are not right is not shown",
        )
