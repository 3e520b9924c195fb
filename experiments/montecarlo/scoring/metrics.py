"""The figures that `montecarlo` reports, the headline first, and the gate that they must pass."""

from harness.stage import Metric

STATUSES = ("failed", "marginal", "usable")
USABLE = {"spearman": 0.8, "snr": 2.0, "icc": 0.75}  # all of them are needed
FAILED = {"spearman": 0.6, "snr": 1.0}  # below any of them

METRICS = (
    Metric(
        "icc", "", "maximize", "ICC(1) of the uncertainty over trials at the T judged", chance=0.0, usable=USABLE["icc"]
    ),
    Metric(
        "snr",
        "",
        "maximize",
        "variance between images over variance between trials",
        usable=USABLE["snr"],
        failed=FAILED["snr"],
    ),
    Metric("signal", "", "none", "variance over images of the mean over trials"),
    Metric("noise", "", "none", "mean over images of the variance over trials"),
    Metric(
        "spearman",
        "",
        "maximize",
        "median rank correlation of two trials",
        usable=USABLE["spearman"],
        failed=FAILED["spearman"],
    ),
    Metric("spearman_q25", "", "maximize", "lower quartile of these correlations over pairs of trials"),
    Metric("spearman_q75", "", "maximize", "upper quartile of the same"),
    Metric("gate", "", "maximize", "0 failed, 1 marginal, 2 usable"),
    Metric("passes_predicted", "passes", "minimize", "smallest T predicted to be usable, from the fewest, if normal"),
    Metric("passes_predicted_heavy", "passes", "minimize", "the same if tails are as heavy as can be"),
    Metric("passes_seen", "passes", "minimize", "smallest T of the records that is usable"),
    Metric("prediction_gap", "", "minimize", "how far outside of both predictions the ICC of any other T lies"),
    Metric("prediction_gap_shown", "", "minimize", "what of that gap chance does not explain"),
    Metric("auroc_error", "", "maximize", "AUROC of the mean uncertainty for a wrong zero-shot answer", chance=0.5),
    Metric("auroc_error_one_trial", "", "maximize", "the same with one trial alone, mean over trials"),
    Metric("auroc_entropy", "", "none", "one plain pass: AUROC of its softmax entropy", baseline_of="auroc_error"),
    Metric("spearman_entropy", "", "none", "rank correlation of uncertainty and softmax entropy"),
    Metric("spearman_margin", "", "none", "rank correlation of uncertainty and negative softmax margin"),
    Metric("accuracy", "", "maximize", "zero-shot accuracy without dropout"),
    Metric("accuracy_prior", "", "none", "trivial baseline: naming the commonest class", baseline_of="accuracy"),
    Metric("grows", "", "maximize", "share of images whose uncertainty grows when blurred or downsampled"),
    Metric("grows_p", "", "minimize", "sign test: p of as many growing among those that change, were it chance"),
)
