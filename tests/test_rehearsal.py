"""What the rehearsal changes in torch, so that it can fail where a GPU would."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import torch
from torch.nn import functional as F

ones = torch.ones(1, 4, 2, 2, dtype=torch.bfloat16)
norm = torch.nn.GroupNorm(2, 4, dtype=torch.bfloat16)

def dtypes():
    made = norm(ones), F.layer_norm(ones, (2,)), F.interpolate(ones, scale_factor=2.0), F.conv2d(ones, ones)
    return {str(tensor.dtype).removeprefix("torch.") for tensor in made[:3]}, made[3].dtype == torch.bfloat16

print(dtypes())
with torch.autocast("cpu", torch.bfloat16):
    print(dtypes())
print(torch.cpu._is_avx512_bf16_supported())
try:
    F.conv2d(ones, ones.float())
except RuntimeError as error:
    print("refused")
"""


def test_norms_are_float32_under_autocast_alone_as_on_a_gpu():
    folder = Path(__file__).parent / "rehearsal/as_cuda"
    env, command = {**os.environ, "PYTHONPATH": str(folder)}, [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["({'bfloat16'}, True)", "({'float32'}, True)", "True", "refused"]
