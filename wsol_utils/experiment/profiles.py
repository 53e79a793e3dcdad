"""The named configurations: a row of values for each profile, and for each of its data sets."""

from typing import Any

from wsol_utils.network.recipe import Recipe

# A profile's values, for each of its data sets. How its head rates were chosen:
# - sample: by accuracy on a validation part of the birds' train split, three tries for each pooling
#   (results/reference/sample/birds/head_rates.csv).
# - light: with the network's rates, on a validation part of 20 classes of CUB, nine tries of 6 epochs for each pooling
#   (results/reference/light/cub/head_rates.csv). For wgap_sum the highest rate, with the network's lowest, was best.
#   TAP's is the best of five at the network's usual rate.
PROFILES: dict[str, dict[str, Any]] = {
    "sample": {
        "backbone": "small_vgg", "image_size": 96, "resize_size": 96, "padding": 8, "batch_size": 32, "lr": 3e-3,
        "optimizer": "adamw", "schedule": "onecycle", "weight_decay": 1e-2, "threads": 2, "deterministic": True,
        "device": "cpu",
        "head_multiplier": {"gap": 5.0, "wgap": 200.0, "wgap_sum": 1.4, "tap": 0.25},
    },
    "light": {
        "backbone": "squeezenet1_1", "image_size": 224, "resize_size": 256, "batch_size": 32, "lr": 1e-4,
        "optimizer": "adamw", "schedule": "constant", "weight_decay": 1e-2, "epochs": 12, "weights": "imagenet",
        "lr_multiplier": {"wgap": 0.3, "wgap_sum": 0.1},
        "head_multiplier": {"gap": 40.0, "wgap": 100.0, "wgap_sum": 160.0, "tap": 4.0},
    },
    # Sec. 5 states VGG, ImageNet weights, learning rate 1e-4 and batch 64, and nothing of the rest.
    # Equal steps of the logits ask for a head's rate in proportion to 1 / |pooled vector|²: with SqueezeNet's features
    # about 80 times GAP's for WGAP as printed, a hundredth of it for the sum form and for TAP. (AdamW, whose steps do
    # not grow with the gradient, asks for other rates: see light.) With SGD, GAP's 10 made the network collapse when
    # given to the sum form or, times (W·H)², to WGAP. VGG-16 itself was not run.
    "paper": {
        "backbone": "vgg16", "image_size": 224, "resize_size": 256, "batch_size": 64, "lr": 1e-4,
        "optimizer": "sgd", "schedule": "constant", "weight_decay": 5e-4, "epochs": 50, "weights": "imagenet",
        "compiled": True,
        "head_multiplier": {"gap": 10.0, "wgap": 1000.0, "wgap_sum": 0.03, "tap": 0.1},
    },
}  # fmt: skip

# What each data set adds: its layout on disk, its folder unless DATA_ROOT names another, values of its own.
# A layout without a row is a data set of `light` and `paper` too, under its own name, with the profile's values.
DATASETS: dict[tuple[str, str], dict[str, Any]] = {
    ("sample", "things"): {"layout": "ilsvrc", "data_root": "data/sample/things", "epochs": 5},
    ("sample", "birds"): {"layout": "cub", "data_root": "data/sample/birds/CUB_200_2011", "epochs": 15},
    ("light", "cub"): {"layout": "cub", "data_root": "data/CUB_200_2011"},
    ("light", "ilsvrc"): {"layout": "ilsvrc", "data_root": "data/ILSVRC"},
    ("light", "tiny_imagenet"): {
        "layout": "tiny_imagenet", "data_root": "data/tiny-imagenet-200",
        "image_size": 128, "resize_size": 144, "epochs": 3,
        # GAP's and WGAP's rates are the best of four tries of one epoch (results/reference/light/tiny_imagenet), the
        # others CUB's.
        "lr_multiplier": {"wgap_sum": 0.1},
        "head_multiplier": {"gap": 10.0, "wgap": 10.0, "wgap_sum": 160.0, "tap": 4.0},
    },
    ("paper", "cub"): {"layout": "cub", "data_root": "data/CUB_200_2011"},
    ("paper", "ilsvrc"): {"layout": "ilsvrc", "data_root": "data/ILSVRC", "epochs": 10},
    ("paper", "tiny_imagenet"): {"layout": "tiny_imagenet", "data_root": "data/tiny-imagenet-200", "epochs": 10},
}  # fmt: skip

# The sample's stand-in for ImageNet weights: the small VGG, with plain GAP, from scratch on `things`.
PRETRAINING = Recipe(
    epochs=14, batch_size=32, lr=3e-3, head_multiplier=1.0, weight_decay=1e-2, optimizer="adamw", schedule="onecycle"
)
