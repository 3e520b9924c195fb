"""The figures that `detect` reports, the headline first."""

from harness.stage import Metric

METRICS = (
    Metric("auc", "", "maximize", "AUROC of the response score for hallucination, by the protocol chosen", chance=0.5),
    Metric("f1", "", "maximize", "F1 of the hallucinated class at the threshold"),
    Metric("precision", "", "maximize", "share of hallucinated among the responses called so"),
    Metric("recall", "", "maximize", "share of hallucinated responses called so"),
    Metric("accuracy", "", "maximize", "share of responses called right"),
    Metric("pcc", "", "maximize", "Pearson correlation of response score and label"),
    Metric("span_auc", "", "maximize", "AUROC over spans (or tokens) instead of responses"),
    Metric("auc_ecs", "", "maximize", "AUROC of the ECS part alone"),
    Metric("auc_pks", "", "maximize", "AUROC of the PKS part alone"),
    Metric(
        "auc_in_task",
        "",
        "maximize",
        "AUROC within each task, where knowing the task cannot help",
        chance=0.5,
        within_of="auc",
    ),
    Metric("auc_in_sample", "", "maximize", "AUROC when fitted and judged on the same responses"),
    Metric("auc_out_of_fold", "", "maximize", "AUROC when judged on other prompts than fitted on"),
    Metric("optimism", "", "minimize", "auc_in_sample - auc_out_of_fold"),
    Metric("prevalence", "", "none", "share of hallucinated responses"),
    Metric("auc_length", "", "none", "trivial baseline: response length alone", baseline_of="auc"),
    Metric("auc_task", "", "none", "trivial baseline: knowing only the task", baseline_of="auc"),
    Metric("f1_prior", "", "none", "trivial baseline: calling every response hallucinated", baseline_of="f1"),
    Metric("accuracy_prior", "", "none", "trivial baseline: calling the commoner label", baseline_of="accuracy"),
)

LINEAR = ("auc", "pcc", "auc_in_sample", "auc_out_of_fold", "optimism")  # what grid.py has of thousands of settings
QUICK = (*LINEAR, "span_auc", "f1", "precision", "recall", "accuracy")  # what many settings are scored by
