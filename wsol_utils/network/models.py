"""A backbone, a pooling layer and a linear head: the network whose class activation maps we draw (Sec. 3).

Weights are ImageNet's ("imagenet": torchvision's are downloaded, EfficientNet-Lite0's come in a package) or come from a
safetensors file in the network's own keys.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torchvision
from safetensors import safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor, nn

from wsol_utils.common import files
from wsol_utils.common.checks import one_of
from wsol_utils.network import lite
from wsol_utils.network import method as methods
from wsol_utils.network import pooling as poolings
from wsol_utils.network import weights as weights_files
from wsol_utils.network.method import Method, Output, Targets


class Localizer(nn.Module):
    """Backbone -> features (B, C, H, W) -> pooling (B, C) -> linear head (B, K), unless the method changes it.

    Args:
        method: what changes plain fine-tuning; the network attaches it, and keeps it as `method`.
    """

    def __init__(self, backbone: nn.Module, pool: nn.Module, head: nn.Linear, method: Method | None = None):
        super().__init__()
        self.backbone, self.pool, self.head, self.method = backbone, pool, head, method or Method()
        self.method.attach(self, head.out_features)

    @property
    def class_weights(self) -> Tensor:
        """(K, C), the head's row for each class: the w of Eq. 2."""
        return self.head.weight

    def new_parameters(self) -> list[nn.Parameter]:
        """Give the parameters that no pre-training has seen, which learn faster: the head's, conv6's, the method's."""
        conv6 = getattr(self.backbone, "conv6", nn.Identity())
        return [*self.head.parameters(), *conv6.parameters(), *self.method.parameters()]

    def forward(self, images: Tensor, targets: Targets | None = None) -> Output:
        """(B, 3, H, W) -> logits (B, K), features (B, C, H', W'); with targets, as in training, also `extra`."""
        return self.method.head(self, self.backbone(images), targets)


class ConvolutionalHeadLocalizer(nn.Module):
    """SqueezeNet as it stands: features -> 1×1 convolution to K classes -> ReLU -> mean over positions."""

    def __init__(self, backbone: nn.Module, head: nn.Conv2d):
        super().__init__()
        self.backbone, self.head = backbone, head

    @property
    def class_weights(self) -> Tensor:
        """(K, C), the 1×1 convolution's kernel for each class."""
        return self.head.weight.flatten(1)

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> logits (B, K), features (B, C, H', W')."""
        features = self.backbone(images)
        return Output(self.head(features).relu().mean(dim=(2, 3)), features)


class SmallVGG(nn.Module):
    """The sample's VGG: six 3×3 convolutions with batch normalisation, three poolings; 96 px -> 12×12."""

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (16, "pool", 32, "pool", 64, 64, "pool", 128, 128):
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K), with global average pooling."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))


class Backbone(NamedTuple):
    """How to build a network, where its last convolution is, and how many channels it has there."""

    build: Callable[..., nn.Module]
    body: Callable[[Any], nn.Module]
    prefixes: tuple[str, ...]  # the body's keys in the network's state dict
    channels: int
    own_head: Callable[[Any, nn.Module], nn.Module] | None  # (network, body) -> a CAM network as it stands
    # From the network's keys to its ImageNet weights, where they are not torchvision's.
    published: Callable[[Iterable[str]], Mapping[str, Tensor]] | None = None


def _resnet_body(network: nn.Module) -> nn.Module:
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return nn.Sequential(OrderedDict((name, getattr(network, name)) for name in names))


def _conv6_body(network: Any) -> nn.Module:
    conv6 = nn.Conv2d(512, 1024, 3, padding=1)
    nn.init.kaiming_normal_(conv6.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(conv6.get_parameter("bias"))
    return nn.Sequential(OrderedDict(features=network.features[:-1], conv6=conv6, relu=nn.ReLU(inplace=True)))


BACKBONES = {
    # conv5_3 + ReLU is the last layer, pool5 is dropped: 224 px -> 14×14
    "vgg16": Backbone(torchvision.models.vgg16, lambda net: net.features[:-1], ("features.",), 512, None),
    # with one more 3×3 convolution to 1024 channels, as wsolevaluation and rethinkingCAM have it
    "vgg16_conv6": Backbone(torchvision.models.vgg16, _conv6_body, ("features.",), 1024, None),
    "squeezenet1_1": Backbone(
        torchvision.models.squeezenet1_1,
        lambda net: net.features,
        ("features.",),
        512,
        lambda net, body: ConvolutionalHeadLocalizer(body, net.classifier[1]),
    ),
    "resnet50": Backbone(
        torchvision.models.resnet50,
        _resnet_body,
        ("conv1.", "bn1.", "layer"),
        2048,
        lambda net, body: Localizer(body, poolings.GlobalAveragePool(), net.fc),
    ),
    # with a last stride less than published: 224 px -> 14×14
    "efficientnet_lite0": Backbone(
        lite.build,
        lite.body,
        ("conv_stem.", "bn1.", "blocks.", "conv_head.", "bn2."),
        lite.CHANNELS,
        lambda net, body: Localizer(body, poolings.GlobalAveragePool(), net.classifier),
        lite.published,
    ),
    "small_vgg": Backbone(SmallVGG, lambda net: net.features, ("features.",), 128, None),
}


def build(
    backbone: str, num_classes: int, pooling: str | nn.Module, weights: str | Path | None = None,
    method: str = "cam", method_options: Mapping[str, Any] | None = None,
) -> Localizer:  # fmt: skip
    """Build a backbone with a pooling and a new linear head, N(0, 0.01) with bias 0 as in the reference code bases.

    Args:
        backbone: one of `BACKBONES`.
        num_classes: K.
        pooling: a name that `pooling.build` knows, or a module (B, C, H, W) -> (B, C).
        weights: None (random), "imagenet" (torchvision's are downloaded) or a safetensors file.
        method: one of `method.names()`.
        method_options: arguments of its constructor.

    Raises:
        ValueError: if a name or an option is unknown, or the file is of another network, no safetensors file, or not
            finite.
        FileNotFoundError: if the weights file does not exist.
    """
    pool = poolings.build(pooling) if isinstance(pooling, str) else pooling
    added = methods.build(method, method_options)
    body = _backbone(backbone).body(_network(backbone, weights, head=False))
    head = nn.Linear(BACKBONES[backbone].channels, num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return Localizer(body, pool, head, added)


def build_as_it_stands(backbone: str, weights: str | Path | None = None) -> nn.Module:
    """Build the network with its own ImageNet head, which classifies a data set without train split.

    Raises:
        ValueError: as `build`, and if the network's own head gives no class activation map (VGG-16's three layers).
        FileNotFoundError: if the weights file does not exist.
    """
    recipe = _backbone(backbone)
    if recipe.own_head is None:
        able = ", ".join(name for name, b in BACKBONES.items() if b.own_head)
        raise ValueError(
            f"{backbone}'s own head gives no class activation map: without a train split choose one of {able}"
        )
    network = _network(backbone, weights, head=True)
    return recipe.own_head(network, recipe.body(network))


def save(model: nn.Module, path: Path, metadata: dict[str, str], about: dict | None = None) -> None:
    """Write a state dict as safetensors, with `metadata` in the file's header.

    Args:
        about: what the network is, so that `networks.load_network` needs the file alone: backbone, pooling,
            temperature, method, method_options, own_head (whether the head is ImageNet's), image_size, profile (of the
            run that trained it), class_names.
    """
    write(model.state_dict(), path, metadata | ({"network": json.dumps(about)} if about else {}))


def write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write tensors as safetensors: the whole file or none, and the same bytes for the same content."""
    header = {"about": json.dumps(metadata, sort_keys=True)}  # one entry: several would come in any order
    with files.written(path) as temporary:
        temporary.write_bytes(as_bytes({key: value.contiguous() for key, value in tensors.items()}, header))


def save_backbone(model: nn.Module, backbone: str, path: Path, trained_on: str) -> None:
    """Write the convolutions, without conv6, in torchvision's keys: weights for `build` to start from.

    Args:
        backbone: the name that the model was built with.
        trained_on: for the file's header.
    """
    prefixes, state = BACKBONES[backbone].prefixes, model.get_submodule("backbone").state_dict()
    named = {prefixes[0] + key if key[0].isdigit() else key: value for key, value in state.items()}
    write({k: v for k, v in named.items() if k.startswith(prefixes)}, path, {"trained_on": trained_on})


def read_metadata(path: Path) -> dict[str, str]:
    """Read the header that `save` wrote.

    Raises:
        ValueError: if the file is cut off or no safetensors file; for a pickle it names the command that converts it.
    """
    with weights_files.explained(path), safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("about", "{}"))


def load_into(model: nn.Module, path: str | Path) -> nn.Module:
    """Read a file of `save` into a model of the same shape, and return the model.

    Raises:
        ValueError: if the file is of another network, or not finite.
    """
    name = f"this {type(model).__name__}"
    weights_files.put(model, weights_files.read(path, name), path, name)
    return model


def _backbone(name: str) -> Backbone:
    one_of("backbone", name, BACKBONES)
    return BACKBONES[name]


def _network(name: str, weights: str | Path | None, head: bool) -> nn.Module:
    """Build the whole network with its weights; `head` says whether the classifier's are needed too."""
    recipe = BACKBONES[name]
    network = recipe.build()
    if weights == "imagenet":
        if name == "small_vgg":
            raise ValueError("small_vgg has no ImageNet weights; give a safetensors file or none")
        published = recipe.published(network.state_dict()) if recipe.published else _torchvisions(recipe)
        network.load_state_dict(published)
    elif weights is not None:
        keys = tuple(key for key in network.state_dict() if head or key.startswith(recipe.prefixes))
        weights_files.put(network, weights_files.read(weights, name), weights, name, keys)
    return network


def _torchvisions(recipe: Backbone) -> Mapping[str, Tensor]:
    """Download torchvision's weights; not by its own `weights=`, which would unpickle whatever the file holds."""
    weights = torchvision.models.get_model_weights(recipe.build)["IMAGENET1K_V1"]
    return weights.get_state_dict(check_hash=True, weights_only=True)
