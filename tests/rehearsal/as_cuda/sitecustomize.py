"""Makes a CPU follow CUDA's autocast rules. Python imports this by itself where the folder is on PYTHONPATH.

Kernels of notebooks are processes of their own, so changing torch in the process that starts them would not reach them.
"""

import functools
import importlib.abc
import importlib.util
import json
import os
import sys
from pathlib import Path


def follow_cuda(torch):
    """Say that bf16 is native here, and let the ops that CUDA runs in float32 under autocast do so on the CPU too.

    They are the ones of CUDA's list (ATen/autocast_mode.h, AT_FORALL_FP32) that these networks call on bf16 tensors.
    """
    torch.cpu._is_avx512_bf16_supported = lambda: True
    functions = torch.nn.functional
    for name in ("group_norm", "layer_norm", "interpolate"):
        setattr(functions, name, in_float32(torch, getattr(functions, name)))
    for name in ("conv2d", "linear"):
        setattr(functions, name, rounded_to_bf16(torch, getattr(functions, name)))


def in_float32(torch, function):
    """The function, with floating-point tensors cast to float32 wherever the CPU's autocast is on."""

    def cast(value):
        return value.float() if torch.is_tensor(value) and value.is_floating_point() else value

    @functools.wraps(function)
    def with_cast(*values, **named):
        if not torch.is_autocast_enabled("cpu"):
            return function(*values, **named)
        return function(*map(cast, values), **{name: cast(value) for name, value in named.items()})

    return with_cast


def rounded_to_bf16(torch, function):
    """The function on bf16 tensors, computed in float32 and rounded, as tensor cores do it.

    The kernels of a CPU that only emulates bf16 take 30 to 100 times as long. Tensors of several types, where autocast
    does not make them one, are left to the function to refuse.
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


def name_stand_in_archives(coco):
    """Put the sizes and MD5 sums of the stand-ins in the place of COCO's."""
    coco.FILES.update(json.loads(Path(os.environ["REHEARSAL_COCO"]).read_text()))


def download_in_small_chunks(constants):
    """Have a broken download continue where it stopped, although the stand-ins are smaller than the usual chunk."""
    constants.DOWNLOAD_CHUNK_SIZE = 1000


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


def allow_bf16(models):
    """Let a run in bf16 start without a GPU."""
    models.require_precision = lambda mixed_precision: None


sys.meta_path.insert(
    0,
    AfterImport(
        {
            "torch": follow_cuda,
            "lib.models": allow_bf16,
            "lib.l4.coco": name_stand_in_archives,
            "huggingface_hub.constants": download_in_small_chunks,
        }
    ),
)
