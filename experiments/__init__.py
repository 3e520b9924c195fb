"""The five pipelines; they know models and never MLflow or Optuna."""

from typing import Any

from experiments.detect import DETECT
from harness.stage import Stage

STAGES: tuple[Stage[Any, Any], ...] = (DETECT,)
