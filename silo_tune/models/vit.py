"""Vision transformers (Dosovitskiy et al. 2021): timm's network, for any image and patch size that fit."""

from __future__ import annotations

from math import gcd

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from silo_tune.errors import BadInput
from silo_tune.models.arguments import one_of, whole

# Width of a token, number of heads: ViT-B of Dosovitskiy et al. 2021; the smaller two are DeiT's (Touvron et al. 2021).
SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}


def vit(shape: tuple[int, int, int], classes: int, patch: int = 16, size: str = "base", depth: int = 12) -> nn.Module:
    """A vision transformer.

    Args:
        shape: (H, W, C) of an image.
        classes: number of outputs.
        patch: side of a patch in pixels; it divides both sides of the image.
        size: "tiny", "small" or "base".
        depth: number of blocks.

    Raises:
        BadInput: the patch does not divide the image, or an argument is not one of the above.
    """
    height, width, channels = shape
    common = gcd(height, width)
    if common % whole("patch", patch):
        divisors = ", ".join(str(side) for side in range(1, common + 1) if common % side == 0)
        raise BadInput(f"model.patch: {patch} does not divide an image of {height}×{width}; choose from {divisors}")
    width_of_token, heads = SIZES[one_of("vit", "size", size)]
    made = VisionTransformer(
        img_size=(height, width),
        patch_size=patch,
        in_chans=channels,
        num_classes=classes,
        embed_dim=width_of_token,
        depth=whole("depth", depth),
        num_heads=heads,
    )
    assert isinstance(made, nn.Module)
    return made
