"""Makes a CPU follow CUDA's autocast rules in every process, kernels too: Python imports this from PYTHONPATH."""

import functools
import importlib.abc
import importlib.util
import json
import os
import sys
from pathlib import Path


def follow_cuda(torch):
    """Says that bf16 is native, and has the ops of CUDA's list (ATen/autocast_mode.h, AT_FORALL_FP32) run in float32."""
    torch.cpu._is_avx512_bf16_supported = lambda: True
    functions = torch.nn.functional
    for name in ("group_norm", "layer_norm", "interpolate"):
        setattr(functions, name, in_float32(torch, getattr(functions, name)))
    for name in ("conv2d", "linear"):
        setattr(functions, name, rounded_to_bf16(torch, getattr(functions, name)))


def in_float32(torch, function):
    """The function, with floating-point tensors cast to float32 if the CPU's autocast is on."""

    def cast(value):
        return value.float() if torch.is_tensor(value) and value.is_floating_point() else value

    @functools.wraps(function)
    def with_cast(*values, **named):
        if not torch.is_autocast_enabled("cpu"):
            return function(*values, **named)
        return function(*map(cast, values), **{name: cast(value) for name, value in named.items()})

    return with_cast


def rounded_to_bf16(torch, function):
    """The function on bf16 tensors, computed in float32 and rounded, as tensor cores do it; emulation is much slower.

    Tensors of several types, where autocast does not make them one, are left to the function to refuse.
    """

    @functools.wraps(function)
    def computed(*values, **named):
        given = [*values, *named.values()]
        kinds = {value.dtype for value in given if torch.is_tensor(value)}
        if kinds != {torch.bfloat16} and not torch.is_autocast_enabled("cpu"):
            return function(*values, **named)

        def widened(value):
            return value.bfloat16().float() if torch.is_tensor(value) else value

        with torch.autocast("cpu", enabled=False):
            wide = function(*map(widened, values), **{name: widened(value) for name, value in named.items()})
        return wide.bfloat16()

    return computed


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module as soon as that has been imported: {module: function}."""

    def __init__(self, changes):
        self.changes = changes

    def find_spec(self, name, path=None, target=None):
        if name not in self.changes:
            return None
        change = self.changes.pop(name)  # so that the search below does not come back here
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            change(module)

        spec.loader.exec_module = execute_and_change
        return spec


def name_stand_in_archives(coco):
    """Gives COCO's archives the sizes and MD5 sums of the stand-ins."""
    coco.FILES.update(json.loads(Path(os.environ["REHEARSAL_COCO"]).read_text()))


CHANGES = {
    "torch": follow_cuda,
    "lib.models": lambda models: setattr(models, "require_precision", lambda mixed_precision: None),
    "lib.l4.coco": name_stand_in_archives,
    # smaller than the stand-ins, so that a broken download continues where it stopped
    "huggingface_hub.constants": lambda constants: setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000),
}
sys.meta_path.insert(0, AfterImport(CHANGES))
