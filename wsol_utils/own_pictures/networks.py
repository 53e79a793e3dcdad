"""Load a network for one's own pictures: one that notebook 02 trained, or one of torchvision's with its own head.

A class activation map exists where the logits are linear in the mean of the last features (Zhou et al. 2016), or where
they come from a 1×1 convolution, as SqueezeNet's do. `FAMILIES` lists torchvision's networks for which this holds.
"""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from wsol_utils.common.checks import hint
from wsol_utils.data.transforms import Renormalize
from wsol_utils.network import models, pooling
from wsol_utils.network import weights as weights_files
from wsol_utils.network.method import Output


class Family(NamedTuple):
    """Where the networks of a family keep the two ends of their class activation map.

    Attributes:
        features: the module whose output (B, C, h, w) the network averages, or changes in place and then averages.
        head: the last layer, linear or a 1×1 convolution, C -> K.
        options: of torchvision's builder, beside the number of classes.
    """

    features: str
    head: str
    options: dict[str, Any] = {}  # noqa: RUF012  a NamedTuple's defaults are never changed


# No side heads, which only training uses; and the normalisation that both networks were trained with.
INCEPTION: dict[str, Any] = {"aux_logits": False, "transform_input": True, "init_weights": False}
DEFAULT = "efficientnet_lite0"
FAMILIES = {  # by the beginning of torchvision's names
    "densenet": Family("features", "classifier"),
    "efficientnet": Family("features", "classifier.1"),
    "googlenet": Family("inception5b", "fc", INCEPTION),
    "inception_v3": Family("Mixed_7c", "fc", INCEPTION),
    "mnasnet": Family("layers", "classifier.1"),
    "mobilenet_v2": Family("features", "classifier.1"),
    "regnet": Family("trunk_output", "fc"),
    "resnet": Family("layer4", "fc"),
    "resnext": Family("layer4", "fc"),
    "shufflenet_v2": Family("conv5", "fc"),
    "squeezenet": Family("features", "classifier.1"),
    "swin": Family("permute", "head"),
    "wide_resnet": Family("layer4", "fc"),
}


@dataclass(frozen=True)
class Network:
    """A network and what a caller must know to use it.

    Attributes:
        model: in evaluation mode and single precision; `model(images)` gives `.logits` (B, K) and `.features`
            (B, C, h, w), and its `.class_weights` is (K, C), as of `models.build`.
        class_names: K names; an unknown one is "class 3".
        image_size: side of the square input, pixels.
        name: to be shown.
        warning: what its user should know first; "" for nothing.
    """

    model: nn.Module
    class_names: list[str]
    image_size: int
    name: str
    warning: str = ""


class WithFeatures(nn.Module):
    """A classification network that gives the features of its class activation map beside its logits.

    Args:
        network: images (B, 3, H, W) -> logits (B, K).
        family: where it keeps its features and its head.
        normalized_by: mean and deviation that the network was trained with; the images come with ImageNet's.
    """

    def __init__(self, network: nn.Module, family: Family, normalized_by: tuple[Sequence[float], Sequence[float]]):
        super().__init__()
        self.rescale = Renormalize(*normalized_by)
        self.network, self.backbone = network, network.get_submodule(family.features)
        self.head = network.get_submodule(family.head)

    @property
    def class_weights(self) -> Tensor:
        """(K, C), the head's row for each class: the w of Eq. 2."""
        return self.head.get_parameter("weight").flatten(1)

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> logits (B, K), features (B, C, h, w)."""
        seen: list[Tensor] = []
        with self.backbone.register_forward_hook(lambda module, inputs, output: seen.append(output)):
            logits = self.network(self.rescale(images))
        return Output(logits, seen[0])


def load_network(checkpoint: str | Path = "", backbone: str = "", weights: str | Path = "imagenet") -> Network:
    """Load a network for `locate.look`, onto the CPU: without arguments EfficientNet-Lite0, which needs no download.

    Args:
        checkpoint: a safetensors file that notebook 02 wrote; its header says the rest.
        backbone: in its place "efficientnet_lite0", or a network of torchvision's that has a class activation map.
        weights: of the backbone: "imagenet" (torchvision downloads its own), or a safetensors file in the network's
            keys; of a network of torchvision's, of any number of classes.

    Raises:
        ValueError: if both a checkpoint and a backbone are given, the file is no such network, holds NaN or infinity
            or is a pickle, or the network has no such map.
        OSError: if the file does not exist, or the download fails.
    """
    if checkpoint and backbone:
        raise ValueError("give a checkpoint of notebook 02, or a backbone, one of the two")
    if checkpoint:
        return _of_notebook_02(Path(checkpoint))
    if backbone in ("", DEFAULT):
        return Network(models.build_as_it_stands(DEFAULT, weights).eval(), imagenet_classes(), 224, DEFAULT)
    return _of_torchvision(backbone, weights)


def imagenet_classes() -> list[str]:
    """Name ImageNet's 1000 classes, in their order."""
    return list(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def _of_notebook_02(path: Path) -> Network:
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist: notebook 02 writes <results>/…/seed0/wgap.safetensors"
        )
    header = models.read_metadata(path).get("network", "null")
    try:
        about = json.loads(header)
        names, side, backbone = _named(about["class_names"]), int(about["image_size"]), str(about["backbone"])
        pool = pooling.build(about["pooling"], float(about["temperature"]))
        method, options = about.get("method", "cam"), about.get("method_options", {})  # missing in older files
        model: nn.Module = (
            models.build_as_it_stands(backbone)
            if about["own_head"]
            else models.build(backbone, len(names), pool, method=method, method_options=options)
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} does not say which network it holds ({error!r}): run notebook 02 again, which writes that into "
            "the file; for weights in torchvision's keys give a backbone and these weights"
        ) from error
    models.load_into(model, path)
    parts = [backbone, about["pooling"], *([method] if method != "cam" else [])]
    drawn = f"{path} was trained on drawn pictures: of photographs it says nothing of worth"
    return Network(model.eval(), names, side, ", ".join(parts), drawn if about.get("profile") == "sample" else "")


def _of_torchvision(name: str, weights: str | Path) -> Network:
    family = next((row for start, row in FAMILIES.items() if name.startswith(start)), None)
    able = [each for each in torchvision.models.list_models(torchvision.models) if each.startswith(tuple(FAMILIES))]
    if family is None or name not in able:
        raise ValueError(
            f"unknown backbone {name!r}{hint(name, [*able, DEFAULT])}: it is no network of torchvision's with a class "
            f"activation map; choose one of {', '.join(f'{start}…' for start in FAMILIES)}, train one that is a "
            "backbone of notebook 02 and give its checkpoint, or make the maps elsewhere: locate.view_of takes the map "
            "of a picture, python -m wsol_utils evaluate takes a folder of maps"
        )
    published = next(iter(torchvision.models.get_model_weights(name)))  # IMAGENET1K_V1 where there is one
    preset = published.transforms()
    given = _published(name, published) if weights == "imagenet" else weights_files.read(weights, name)
    state = {key: value for key, value in given.items() if "aux" not in key.lower()}  # a side head's
    rows = (len(value) for key, value in state.items() if f".{key}".endswith(f".{family.head}.weight"))
    classes = next(rows, 1000)
    network = torchvision.models.get_model(name, num_classes=classes, **family.options)
    weights_files.put(network, state, weights, name)
    model = WithFeatures(network, family, (preset.mean, preset.std)).eval()
    names = imagenet_classes() if classes == 1000 else _named([""] * classes)
    return Network(model, names, preset.crop_size[0], name)


def _published(name: str, weights: torchvision.models.WeightsEnum) -> dict[str, Tensor]:
    """Download torchvision's weights, once; their checksum is compared, and no pickle is run."""
    try:
        return dict(weights.get_state_dict(check_hash=True, weights_only=True))
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise OSError(
            f"the weights of {name} could not be downloaded ({error}): go online and delete what is cut off in "
            f"{torch.hub.get_dir()}, or give them as a safetensors file"
        ) from error


def _named(names: list[str]) -> list[str]:
    return [name or f"class {index}" for index, name in enumerate(names)]
