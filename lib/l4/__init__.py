"""What only the `l4` profile needs."""

import os

os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # CLIP and BLIP come as .bin, which a bot would convert
