"""Describe what a method of weakly supervised localisation changes about plain fine-tuning, and list the methods.

The base class is plain fine-tuning, "cam": one linear head on the pooled features, cross-entropy on whole images. A
method overrides what it changes, in one file of `network/methods`, and registers its name there; no other file knows
it. It is a module of the network, so its layers and memories go where the network goes: to the device, into the
checkpoint and the resume file, and through DistributedDataParallel.
"""

import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from wsol_utils.common.checks import one_of

Key = tuple[int, int, int]  # seed, epoch, image: what the draws for one image depend on


class Output(NamedTuple):
    """The result of a forward pass.

    Attributes:
        logits: (B, K).
        features: (B, C, H, W) of the last convolution after its ReLU: P of Eq. 2.
        extra: what else a method's loss needs, by name; empty outside training.
    """

    logits: Tensor
    features: Tensor
    extra: Mapping[str, Tensor] = {}  # noqa: RUF012  a NamedTuple's defaults are never changed


class Targets(NamedTuple):
    """What the network should take a batch for: `labels` with the weight `share`, `other` with the rest.

    Attributes:
        labels: (B,) int64, of the images.
        other: (B,) int64, of what is mixed into the images.
        share: (B,) float32 in [0, 1]; 1 where nothing is mixed in.
    """

    labels: Tensor
    other: Tensor
    share: Tensor


class Method(nn.Module):
    """Plain fine-tuning, the paper's baseline: "cam".

    A subclass takes its options as keyword arguments of its constructor, with defaults.

    Attributes:
        linear: whether the map is linear in the features, so that Eqs. 2 and 3 apply to features and class weights;
            otherwise the method makes its own map.
        options: as given to `build`; they tell one network from another.
    """

    linear: ClassVar[bool] = True
    options: Mapping[str, Any] = {}  # noqa: RUF012  `build` replaces it

    def __init__(self) -> None:
        super().__init__()

    def attach(self, network: Any, num_classes: int) -> None:
        """Add layers, or hooks on a stage of the backbone, to a network that is built.

        Args:
            network: a `models.Localizer`, whose `method` this becomes.
            num_classes: K.
        """

    def order(self, labels: Sequence[int], seed: int, epoch: int, batch_size: int, processes: int) -> list[int]:
        """Give the order of an epoch, indices of all images: a function of the arguments alone.

        Args:
            labels: of the train split.
            batch_size: of all processes together; with n processes, each takes every n-th image of a batch.
        """
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        torch.empty((), dtype=torch.int64).random_(generator=generator)  # DataLoader(shuffle=True) draws this first
        return torch.randperm(len(labels), generator=generator).tolist()

    def batch(self, images: Tensor, labels: Tensor, keys: Sequence[Key]) -> tuple[Tensor, Targets]:
        """Give a training batch as the network sees it, and what the network should take it for.

        Args:
            images: (B, 3, S, S), normalised, so that 0 is ImageNet's mean; they are not changed.
            labels: (B,) int64.
            keys: of each image.
        """
        return images, Targets(labels, labels, torch.ones(len(labels), device=labels.device))

    def head(self, network: Any, features: Tensor, targets: Targets | None) -> Output:
        """Compute the logits from the backbone's features (B, C, H, W), with all that is trained beside the backbone.

        Args:
            targets: in training only.
        """
        return Output(network.head(network.pool(features)), features)

    def loss(self, output: Output, targets: Targets, progress: float) -> Tensor:
        """Compute the loss, a mean over the batch, without parameters or random draws.

        Args:
            output: of `head`, in float32 or wider.
            progress: from 0 to 1 through the run.
        """
        return nn.functional.cross_entropy(output.logits, targets.labels)

    def maps(self, network: Any, images: Tensor, classes: Tensor) -> Tensor:
        """Make the method's own map of one class for each image, where the method is not `linear`.

        Args:
            images: (B, 3, S, S).
            classes: (B,) int64.

        Returns:
            (B, H, W), not normalised further.
        """
        raise NotImplementedError(f"{type(self).__name__} is linear: its maps are those of Eqs. 2 and 3")

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in sorted(self.options.items()))


_METHODS: dict[str, type[Method]] = {"cam": Method}


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Register the decorated class as the method of that name."""

    def keep(cls: type[Method]) -> type[Method]:
        _METHODS[name] = cls
        return cls

    return keep


def names() -> tuple[str, ...]:
    """List the registered methods, `cam` first, the others in alphabetical order."""
    folder = Path(__file__).with_name("methods")
    for found in pkgutil.iter_modules([str(folder)]):
        import_module(f"wsol_utils.network.methods.{found.name}")
    return ("cam", *sorted(set(_METHODS) - {"cam"}))


def get(name: str) -> type[Method]:
    """Find the class of a method.

    Raises:
        ValueError: if the name is unknown.
    """
    one_of("method", name, names())
    return _METHODS[name]


def build(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """Build a method with its options, and their defaults where none are given.

    Raises:
        ValueError: if the name or an option is unknown, or a value is out of its range.
    """
    cls, options = get(name), options or {}
    known = inspect.signature(cls).parameters
    if unknown := [key for key in options if key not in known]:
        raise ValueError(f"unknown option {unknown[0]!r} of method {name!r}; there is {', '.join(known) or 'none'}")
    try:
        made = cls(**options)
    except TypeError as error:
        raise ValueError(f"options {dict(options)} of method {name!r} are of a wrong type: {error}") from error
    made.options = dict(options)
    return made


def source(cls: type[Method]) -> Path:
    """Give the file that a method is written in: its networks are trained again where the file changes."""
    return Path(inspect.getfile(cls))
