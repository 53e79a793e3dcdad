"""Adversarial complementary learning (Zhang et al. 2018): what one classifier finds is hidden from a second one.

Values of xiaomengyc/ACoL: δ = 0.6, and branches 1024 channels wide on VGG-16. Ours are 64 wide, as small networks ask
for.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsol_utils.common.arrays import stretched
from wsol_utils.network.method import Method, Output, Targets, register


@register("acol")
class AdversarialComplementaryLearning(Method):
    """Two branches of two convolutions and a linear head; the map is the larger of both branches' at each position.

    Branch A has the network's own pooling and head, so its logits are the network's. Where A's map of the label,
    stretched between its minimum and maximum, reaches δ, branch B sees 0 in place of the features.

    Args:
        delta: δ; above 1 nothing is hidden.
        width: channels of each branch.

    Raises:
        ValueError: if one of them is not positive.
    """

    linear = False

    def __init__(self, delta: float = 0.6, width: int = 64) -> None:
        super().__init__()
        if delta <= 0 or width < 1:
            raise ValueError(f"delta and width must be positive, got {delta} and {width}")
        self.delta, self.width = delta, width

    def attach(self, network: Any, num_classes: int) -> None:
        """Both branches, and a head as wide as they are in place of the network's."""
        channels = network.head.in_features
        self.branch_a, self.branch_b = (_branch(channels, self.width) for _ in "ab")
        network.head, self.head_b = (_classifier(self.width, num_classes) for _ in "ab")

    def head(self, network: Any, features: Tensor, targets: Targets | None) -> Output:
        """Branch A's logits and features (B, width, H, W); in training branch B's logits as `extra["other"]`."""
        smooth, found = self._a(features)
        output = Output(network.head(network.pool(found)), found)
        if targets is None:
            return output
        hidden = self._erased(smooth, _class_map(found, network.head, targets.labels))
        return output._replace(extra={"other": self.head_b(network.pool(self.branch_b(hidden)))})

    def loss(self, output: Output, targets: Targets, progress: float) -> Tensor:
        """Cross-entropy of both branches, equally weighted."""
        of_a, of_b = output.logits, output.extra["other"]
        return functional.cross_entropy(of_a, targets.labels) + functional.cross_entropy(of_b, targets.labels)

    def maps(self, network: Any, images: Tensor, classes: Tensor) -> Tensor:
        """max(A, B) of the class, each stretched to [0, 1]: (B, H, W); B sees what A's map of that class leaves."""
        smooth, found = self._a(network.backbone(images))
        a = _class_map(found, network.head, classes)
        b = _class_map(self.branch_b(self._erased(smooth, a)), self.head_b, classes)
        return torch.maximum(stretched(a), stretched(b))

    def _a(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, H, W) -> smoothed, as both branches take them, and branch A's own (B, width, H, W)."""
        smooth = functional.avg_pool2d(features, 3, stride=1, padding=1)
        return smooth, self.branch_a(smooth)

    def _erased(self, smooth: Tensor, map_of_a: Tensor) -> Tensor:
        """0 where A's map (B, H, W), stretched, reaches δ; a comparison hands no gradient on."""
        return torch.where(stretched(map_of_a)[:, None] < self.delta, smooth, 0)


def _branch(channels: int, width: int) -> nn.Module:
    layers = (nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
    return nn.Sequential(*layers)


def _classifier(width: int, num_classes: int) -> nn.Linear:
    """Without bias, which would only lift the maps."""
    head = nn.Linear(width, num_classes, bias=False)
    nn.init.normal_(head.weight, std=0.01)
    return head


def _class_map(features: Tensor, head: nn.Linear, classes: Tensor) -> Tensor:
    """The class activation map of each image's class (Eq. 2): (B, C, H, W), (B,) -> (B, H, W), in float32 at least."""
    with torch.autocast(features.device.type, enabled=False):
        wide = torch.promote_types(features.dtype, torch.float32)
        return torch.einsum("bc,bchw->bhw", head.weight[classes].to(wide), features.to(wide))
