"""The figures that `rag` reports, the headline first."""

from harness.stage import Metric

METRICS = (
    Metric("auc", "", "maximize", "AUROC of the chosen detector for hallucination, over all tiers", chance=0.5),
    Metric(
        "auc_in_tier",
        "",
        "maximize",
        "mean over tiers of the AUROC within one, where sensing the tier cannot help",
        chance=0.5,
        within_of="auc",
    ),
    Metric("f1", "", "maximize", "F1 of the hallucinated class at the threshold"),
    Metric("precision", "", "maximize", "share of hallucinated among the answers called so"),
    Metric("recall", "", "maximize", "share of hallucinated answers called so"),
    Metric("ece", "", "minimize", "expected calibration error of the score read as a probability, 10 bins"),
    Metric("ece_calibrated", "", "none", "what ece would be on average, with as many answers, were the score right"),
    Metric("degradation", "", "minimize", "AUROC at the high tier less that at the low one"),
    Metric("agreement", "", "none", "mean of Cohen's kappa over every two detectors' calls"),
    Metric("missing", "answers", "minimize", "answers that a detector has no score of"),
    Metric("prevalence", "", "none", "share of hallucinated among the answers that say something"),
    Metric("abstained", "", "none", "share of whole answers that say that they do not know"),
    Metric("answers_cut", "", "minimize", "share of answers that ended in their midst: they have no label"),
    Metric("answers_empty", "", "minimize", "share of answers that say nothing at all: they have no label"),
    Metric("thinking_tokens", "tokens", "minimize", "mean tokens of thinking before an answer, which is cut off"),
    Metric("achieved", "", "none", "share of relevant passages in the contexts of a tier"),
    Metric("recall_at_k", "", "maximize", "share of a question's relevant passages among the first k retrieved"),
    Metric("mrr", "", "maximize", "mean reciprocal rank of the first relevant passage retrieved"),
    Metric("auc_length", "", "none", "trivial baseline: answer length alone", baseline_of="auc"),
    Metric("auc_tier", "", "none", "trivial baseline: knowing only the tier", baseline_of="auc"),
    Metric("f1_prior", "", "none", "trivial baseline: calling every answer hallucinated", baseline_of="f1"),
)

QUICK = ("auc", "auc_in_tier", "f1", "precision", "recall", "ece", "degradation")  # what many settings are scored by
