"""The five pipelines; they know models and never MLflow or Optuna."""

from typing import Any

from experiments import torchvision_compat

torchvision_compat.install()

from experiments.detect import DETECT  # noqa: E402 - nothing may import transformers before
from experiments.montecarlo import MONTECARLO  # noqa: E402
from experiments.rag import RAG  # noqa: E402
from harness.stage import Stage  # noqa: E402

STAGES: tuple[Stage[Any, Any], ...] = (DETECT, RAG, MONTECARLO)
