"""Language and vision models behind small interfaces, and the reference models that ship with rigsweep."""

from experiments.models import torchvision_compat

torchvision_compat.allow_import()
