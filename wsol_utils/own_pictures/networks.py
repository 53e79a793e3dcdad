"""A network for one's own pictures: one that notebook 02 trained, or one of torchvision's with its own head (Sec. 3).

A class activation map exists where the classifier is linear in the mean of the last features (Zhou et al. 2016), or
SqueezeNet's 1×1 convolution. Whether a network of torchvision's is such a one is not looked up but computed.
"""

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torchvision
from torch import Tensor, nn

from wsol_utils.common.checks import hint
from wsol_utils.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from wsol_utils.network import models, pooling
from wsol_utils.network import weights as weights_files
from wsol_utils.network.method import Output

WITH_MAP = (  # for messages; `_with_features` decides
    "resnet…, resnext…, wide_resnet…, densenet…, mobilenet_v2, efficientnet_…, regnet_…, mnasnet…, shufflenet_v2_…, "
    "googlenet, inception_v3, swin_…, squeezenet1_0 or squeezenet1_1"
)
ELSEWHERE = (  # for messages, too
    "a map that another program made of a picture goes into own_images.view_of, a folder of maps into "
    "python -m wsol_utils evaluate"
)
WITH_SIDE_HEADS = ("googlenet", "inception_v3")  # that torchvision adds for the training


@dataclass(frozen=True)
class Network:
    """A network and what must be known to use it.

    Attributes:
        model: in evaluation mode; `model(images)` gives `.logits` (B, K) and `.features` (B, C, h, w), and its
            `.class_weights` is (K, C), as of `models.build`. One in half or double precision is copied to float32.
        class_names: K names; one that is not known is "class 3".
        image_size: side of the square input, pixels.
        name: to be shown.

    Raises:
        ValueError: if there are more or fewer names than classes.
    """

    model: nn.Module
    class_names: list[str]
    image_size: int
    name: str

    def __post_init__(self) -> None:
        classes = len(cast(Tensor, self.model.class_weights))
        if len(self.class_names) != classes:
            raise ValueError(
                f"{self.name} has {classes} classes and {len(self.class_names)} class names: give a name for each, as "
                f"[f'class {{k}}' for k in range({classes})]"
            )
        if any(p.dtype != torch.float32 for p in self.model.parameters()):
            object.__setattr__(self, "model", copy.deepcopy(self.model).float())  # what pictures come in


class WithFeatures(nn.Module):
    """A network as it stands, and beside its logits the features that its linear head takes the mean of.

    Args:
        network: images (B, 3, H, W) -> logits (B, K).
        source: the module of it that gives the features.
        head: its last layer.
        normalized_by: mean and deviation that it was trained with; the images come with ImageNet's.
    """

    def __init__(
        self,
        network: nn.Module,
        source: nn.Module,
        head: nn.Linear,
        normalized_by: tuple[Sequence[float], Sequence[float]],
    ):
        super().__init__()
        mean, std = map(torch.tensor, normalized_by)
        self.network, self.head = network, head
        self.register_buffer("scale", (torch.tensor(IMAGENET_STD) / std).view(3, 1, 1))
        self.register_buffer("shift", ((torch.tensor(IMAGENET_MEAN) - mean) / std).view(3, 1, 1))
        self._source = (source,)  # within the network already

    scale: Tensor
    shift: Tensor

    @property
    def class_weights(self) -> Tensor:
        """(K, C), the head's row for each class: the w of Eq. 2."""
        return self.head.weight

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) -> logits (B, K), features (B, C, h, w)."""
        seen: list[Tensor] = []
        hook = self._source[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            logits = self.network(images * self.scale + self.shift)
        finally:
            hook.remove()
        return Output(logits, seen[-1])


def load_network(checkpoint: str | Path = "", backbone: str = "", weights: str | Path = "imagenet") -> Network:
    """A network for `own_images.look`, on the CPU.

    Args:
        checkpoint: a safetensors file that notebook 02 wrote; its header says the rest.
        backbone: in its place a classification network of torchvision's that has a class activation map.
        weights: of the backbone: "imagenet" (torchvision downloads them), or a safetensors file in torchvision's keys,
            of any number of classes.

    Raises:
        ValueError: if not one of the two is given, the file is no such network, holds NaN or infinity or is a pickle,
            or the network has no such map.
        FileNotFoundError: if the file does not exist.
    """
    if bool(checkpoint) == bool(backbone):
        raise ValueError("give a checkpoint of notebook 02, or a backbone of torchvision's, one of the two")
    return _of_torchvision(backbone, weights) if backbone else _of_notebook_02(Path(checkpoint))


def _of_notebook_02(path: Path) -> Network:
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist: notebook 02 writes <results>/…/seed0/wgap.safetensors"
        )
    header = models.read_metadata(path).get("network")
    if header is None:
        raise ValueError(
            f"{path} does not say which network it holds: run notebook 02 again, which writes that into the file; for "
            "weights in torchvision's keys give a backbone and these weights"
        )
    try:
        about = json.loads(header)
        names, side = _named(about["class_names"]), int(about["image_size"])
        backbone, own_head, name = str(about["backbone"]), about["own_head"], str(about["pooling"])
        pool = pooling.build(name, float(about["temperature"]))
        method, options = str(about.get("method", "cam")), dict(about.get("method_options", {}))
        model = (
            models.build_as_it_stands(backbone)
            if own_head
            else models.build(backbone, len(names), pool, None, method, options)
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} does not say rightly which network it holds ({error!r}): copy it again") from error
    weights_files.require_finite(models.load_into(model, path), path)
    return Network(model.eval(), names, side, f"{backbone}, {name}" + (f", {method}" if method != "cam" else ""))


def _of_torchvision(name: str, weights: str | Path) -> Network:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(
            f"unknown backbone {name!r}{hint(name, known)}; choose one of torchvision's, {WITH_MAP}; {ELSEWHERE}"
        )
    published = next(iter(torchvision.models.get_model_weights(name)))  # IMAGENET1K_V1 where there is one
    preset = published.transforms()
    side, normalized_by = preset.crop_size[0], (preset.mean, preset.std)
    if weights == "imagenet":
        _with_features(_build(name, (), 1000).eval(), name, side, normalized_by)  # nothing is downloaded in vain
        state = _published(name, published)
        network = _build(name, state, 1000)
        for key, own in weights_files.renamed(list(state), network.state_dict()).items():
            state[own] = state.pop(key)
        network.load_state_dict(state)
    else:
        state = weights_files.read(weights, name)
        whole = _build(name, state, 1000)
        names = weights_files.renamed(state, whole.state_dict())
        shapes = {names[key]: value.shape for key, value in state.items()}
        classes = next(iter(shapes.get(f"{_head(whole, name)[0]}.weight", ())), 1000)
        network = whole if classes == 1000 else _build(name, state, classes)
        weights_files.put(network, state, weights, name)
        weights_files.require_finite(network, weights)
    model = _with_features(network.eval(), name, side, normalized_by)
    classes = len(cast(Tensor, model.class_weights))
    return Network(model, _named(published.meta["categories"] if classes == 1000 else [""] * classes), side, name)


def _published(name: str, weights: torchvision.models.WeightsEnum) -> dict[str, Tensor]:
    """What torchvision offers, checked and not unpickled; downloaded once.

    Raises:
        OSError: if it cannot be had.
    """
    try:
        return weights.get_state_dict(check_hash=True, weights_only=True)  # an OrderedDict that knows its version
    except OSError as error:
        raise OSError(
            f"the weights of {name} could not be downloaded ({error}): go online, or give them as a safetensors file"
        ) from error


def _build(name: str, keys: Iterable[str], classes: int) -> nn.Module:
    """The network with random weights, and with side heads where there are weights for them."""
    if name not in WITH_SIDE_HEADS:
        return torchvision.models.get_model(name, num_classes=classes)
    aside = any(part.lower().startswith("aux") for key in keys for part in key.split("."))
    return torchvision.models.get_model(  # transform_input: they were trained with another normalisation
        name, num_classes=classes, aux_logits=aside, transform_input=True, init_weights=False
    )


def _head(network: nn.Module, name: str) -> tuple[str, nn.Linear | nn.Conv2d]:
    """The last linear layer, or SqueezeNet's 1×1 convolution, and its name."""
    if name.startswith("squeezenet"):
        return "classifier.1", cast(nn.Conv2d, network.get_submodule("classifier.1"))
    return [(key, layer) for key, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]


@torch.inference_mode()
def _with_features(
    network: nn.Module, name: str, side: int, normalized_by: tuple[Sequence[float], Sequence[float]]
) -> nn.Module:
    """The network with the features of which its head takes the mean, which are found by trying.

    Raises:
        ValueError: if there are none: something else lies between the features and the logits.
    """
    _, head = _head(network, name)
    if isinstance(head, nn.Conv2d):
        return models.ConvolutionalHeadLocalizer(network.get_submodule("features"), head).eval()
    outputs: list[tuple[nn.Module, Tensor]] = []
    at_head: list[Tensor] = []  # what goes into it, (1, C), and what comes out, (1, K)

    def keep(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1] == head.in_features:
            outputs.append((module, output))

    hooks = [module.register_forward_hook(keep) for module in network.modules()]
    hooks.append(head.register_forward_hook(lambda module, inputs, output: at_head.extend([inputs[0], output])))
    logits = network(torch.randn((1, 3, side, side), generator=torch.Generator().manual_seed(0)))  # (1, K)
    for hook in hooks:
        hook.remove()
    for source, features in reversed(outputs):  # by now past what the network does in place, as DenseNet's ReLU
        mean, pooled = features.mean(dim=(2, 3)), at_head[0]  # (1, C)
        small = 1e-4 * float(pooled.abs().max())
        same = mean.shape == pooled.shape and torch.allclose(mean, pooled, rtol=1e-3, atol=small)
        if same and features[0, 0].numel() > 1 and torch.equal(at_head[1], logits):
            return WithFeatures(network, source, head, normalized_by).eval()
    raise ValueError(
        f"{name} has no class activation map: its logits are not one linear layer on the mean of its features; choose "
        f"{WITH_MAP}; or train {name} with notebook 02, if it is a backbone there, and give the checkpoint; {ELSEWHERE}"
    )


def _named(names: list[str]) -> list[str]:
    return [name or f"class {index}" for index, name in enumerate(names)]
