"""Prompted colorization: the thin library under the six notebooks."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The libraries below warn of what no reader can change (no torchvision, BERT where CLIP is usual): errors only.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asking for a GPU must not keep notebooks from forking
