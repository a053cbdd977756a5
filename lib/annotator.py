"""What a ControlNet is shown: the gray photo, and on `pocket` maps that hint at its colours.

As with ControlNet's edge or depth annotators, the maps are made first. The encoder is the segmenter's, EfficientNet-
Lite0 (Tan & Le 2019), trained on ImageNet; notebook A2 in the appendix trains the decoder, `ColorHint`.
"""

from collections.abc import Callable
from functools import cached_property, lru_cache, partial

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from lib.cache import explained, hash_of
from lib.config import resolve

BLOCKS = (  # EfficientNet-Lite0, without squeeze-and-excitation: kernel, repeats, expansion, channels, stride
    *((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 3, 6, 80, 2)),
    *((5, 3, 6, 112, 1), (5, 4, 6, 192, 2), (3, 1, 6, 320, 1)),
)
FEATURES = {3: 24, 5: 40, 11: 112, 16: 320}  # blocks whose outputs are features, and their channels
ENLARGE = 2  # the encoder sees the photo at this many times its size: 256 px for 128
AB_SCALE = 50.0  # of the first two maps, which estimate a* and b*
WORD_MAPS = 3  # of the prompt: a*, b*, and how surely a colour is asked for


class Conv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: at stride 2 the odd pixel is added to the right and below."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(before, after, kernel, stride, groups=groups)
        padding = max(kernel - stride, 0)
        self.around = (padding // 2, padding - padding // 2) * 2

    def forward(self, x):
        return super().forward(F.pad(x, self.around))


class Block(nn.Module):
    """An inverted residual block (Sandler et al. 2018), its normalisation folded into the convolutions."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner = before * expansion
        self.expand = Conv(before, inner, 1) if expansion > 1 else None
        self.depthwise = Conv(inner, inner, kernel, stride, groups=inner)
        self.project = Conv(inner, after, 1)
        self.residual = stride == 1 and before == after

    def forward(self, x):
        inner = F.relu6(self.expand(x)) if self.expand else x
        output = self.project(F.relu6(self.depthwise(inner)))
        return x + output if self.residual else output


class Encoder(ModelMixin, ConfigMixin):
    """The convolutional part of EfficientNet-Lite0 for gray photos."""

    config_name = "config.json"

    def __init__(self):
        super().__init__()
        self.stem = Conv(3, 32, 3, 2)
        self.blocks, before = nn.ModuleList(), 32
        for kernel, repeats, expansion, after, stride in BLOCKS:
            for repeat in range(repeats):
                self.blocks.append(Block(before, after, kernel, 1 if repeat else stride, expansion))
                before = after

    def features(self, gray: torch.Tensor, enlarge: int) -> list[torch.Tensor]:
        """Returns `FEATURES`, coarsest first, of photos (B, 1, H, W) in [0, 1]; H and W times `enlarge` are n * 32."""
        size = [side * enlarge for side in gray.shape[-2:]]
        x = F.interpolate(gray * 2 - 1, size, mode="bilinear").expand(-1, 3, -1, -1)
        x, maps = F.relu6(self.stem(x)), []
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if number in FEATURES:
                maps.append(x)
        return maps[::-1]


class ColorHint(ModelMixin, ConfigMixin):
    """A decoder of the encoder's features into maps at a quarter of the photo's size; 0.4 M parameters.

    The first two maps are a* and b*, divided by `AB_SCALE`. The product of the others with `names(token)` is high where
    the object is that a token names. `colors(token)` are logits of the object's colour word, word 0 is none; `word_ab`
    holds the words' a*b*.
    """

    @register_to_config
    def __init__(self, channels: int = 32, width: int = 64, text_width: int = 384, words: int = 14):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in ((320, 96), (112, 96), (40, width)))
        self.mix = nn.ModuleList(nn.Conv2d(c, w, 3, padding=1) for c, w in ((96, 96), (192, 96), (97 + width, width)))
        self.last = nn.ModuleList(nn.Conv2d(width, c, 3, padding=1) for c in (width, channels))
        self.names, self.colors = nn.Linear(text_width, channels - 2), nn.Linear(text_width, words)
        self.register_buffer("word_ab", torch.zeros(words, 2))

    @property
    def conditioning_channels(self) -> int:
        """Channels of a conditioning image: the gray photo, the hint's maps, and the word maps."""
        return 1 + self.config.channels + WORD_MAPS

    def forward(self, features: list[torch.Tensor], gray: torch.Tensor) -> torch.Tensor:
        """Returns maps (B, channels, H / 4, W / 4) from `Encoder.features` and the gray photos (B, 1, H, W)."""
        coarse, middle, fine = (F.relu(self.lateral[level](features[level] / 5)) for level in range(3))
        enlarge = partial(F.interpolate, scale_factor=2, mode="bilinear")
        x = F.relu(self.mix[0](coarse))
        x = F.relu(self.mix[1](torch.cat([enlarge(x), middle], dim=1)))
        x = F.relu(self.mix[2](torch.cat([enlarge(x), fine, F.avg_pool2d(gray, 4)], dim=1)))
        return self.last[1](x + F.relu(self.last[0](x)))

    def object_logits(self, maps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Returns logits (B, T, h, w) of where each token's object is; tokens are (B, T, D)."""
        return torch.einsum("bchw,btc->bthw", maps[:, 2:], self.names(tokens)) - 1

    def word_maps(self, maps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Returns a* and b*, divided by `AB_SCALE`, that tokens ask for, and how surely, in [0, 1]: (B, 3, h, w)."""
        shares, places = self.colors(tokens).softmax(dim=-1), self.object_logits(maps, tokens).sigmoid()
        asked = torch.einsum("bthw,bt->bhw", places, 1 - shares[..., 0])[:, None]
        ab = torch.einsum("bthw,btd->bdhw", places, shares @ self.word_ab / AB_SCALE)
        return torch.cat([ab / asked.clamp(min=1), asked.clamp(max=1)], dim=1)


def conditioning_image(
    gray: torch.Tensor, hint: ColorHint | None = None, maps: torch.Tensor | None = None, tokens=None
) -> torch.Tensor:
    """Returns the conditioning images (B, 3 or 1 + K + 3, H, W) of gray photos (B, 1, H, W) in [0, 1].

    Without a hint, gray in three channels. With one: gray, its `maps` (B, K, h, w), enlarged, and its word maps for the
    prompts' token vectors, `tokens` (B, T, D).
    """
    if hint is None:
        return gray.expand(-1, 3, -1, -1)
    maps = torch.cat([maps, hint.word_maps(maps, tokens)], dim=1)
    return torch.cat([gray, F.interpolate(maps, gray.shape[-2:], mode="bilinear")], dim=1)


class Annotator:
    """Makes the conditioning images of gray photos; `encode(prompts)` returns token vectors (B, T, D)."""

    def __init__(self, encoder: Encoder | None = None, hint: ColorHint | None = None, encode: Callable | None = None):
        self.encoder, self.hint, self.encode = encoder, hint, encode
        self.channels = hint.conditioning_channels if hint else 3
        self._maps_of = lru_cache(128)(self._annotate)  # the same photo is colorized under many prompts

    @cached_property
    def key(self) -> str:
        """A text that changes with the weights; "" without a hint."""
        states = (self.encoder.state_dict(), self.hint.state_dict()) if self.hint else ()
        return hash_of(value.float().numpy() for state in states for value in state.values()) if states else ""

    @torch.no_grad()
    def __call__(self, photos: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        """Returns conditioning images (B, channels, H, W), about in [-2, 2], of gray PIL photos of one size."""
        pairs = [self._maps_of(photo.convert("L").tobytes(), photo.size) for photo in photos]
        gray = torch.cat([pair[0] for pair in pairs])
        if not self.hint:
            return conditioning_image(gray)
        tokens = self.encode(list(prompts)).float().cpu()
        return conditioning_image(gray, self.hint, torch.cat([pair[1] for pair in pairs]), tokens)

    @torch.no_grad()
    def maps(self, gray: torch.Tensor) -> torch.Tensor | None:
        """Returns the hint's maps (B, K, H / 4, W / 4) of gray photos (B, 1, H, W) in [0, 1]; None without a hint."""
        return self.hint(self.encoder.features(gray, ENLARGE), gray) if self.hint else None

    def _annotate(self, pixels: bytes, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        gray = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(1, 1, size[1], size[0]) / 255
        return gray, self.maps(gray)


GRAY_ALONE = Annotator()


def load_annotator(hint: str | None, encoder: str, encode: Callable | None = None) -> Annotator:
    """Returns the annotator with the `ColorHint` in a folder (None: gray alone) and the encoder of a segmenter's."""
    if not hint:
        return GRAY_ALONE
    with explained(f"annotator {hint} can't be loaded", "check annotator and segmenter"):
        decoder = ColorHint.from_pretrained(resolve(hint), use_safetensors=True).float().eval()
        weights, network = load_file(resolve(encoder) / "diffusion_pytorch_model.safetensors"), Encoder().eval()
        network.load_state_dict({name: weights[name].float() for name in network.state_dict()})
        return Annotator(network, decoder, encode)
