"""The named configurations: every row, every override, every word that nothing knows."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wsol_utils import datasets, experiments, models, protocols, thresholds
from wsol_utils.experiment.experiments import DATASETS, PROFILES, configure, from_notebook, is_usual

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _threads_and_results(monkeypatch):
    monkeypatch.delenv("WSOL_RESULTS", raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# The rows.


@pytest.mark.parametrize("profile, dataset", DATASETS)
def test_every_row_builds(profile, dataset):
    config = configure(dataset, profile)
    assert (config.profile, config.dataset) == (profile, dataset)
    assert config.backbone in models.BACKBONES and config.layout in datasets.READERS
    assert config.image_size <= config.resize_size  # a crop of it
    assert config.root == ROOT / config.data_root
    assert config.folder == ROOT / "results" / profile / dataset
    assert config.poolings == ("gap", "wgap")
    assert config.recombinations == ("signed", "positive", "absolute") and config.features == "plain"
    assert config.conventions == protocols.get("paper")
    assert "first_above_mean" in config.rules and "fixed" not in config.rules  # the grid covers the fixed one
    searched = (PROFILES[profile] | DATASETS[profile, dataset])["head_multiplier"]
    for name in ("gap", "wgap", "wgap_sum", "tap"):
        recipe = config.recipe(name)
        assert recipe.head_multiplier == searched[name]
        assert recipe.epochs > 0 and recipe.lr > 0
        assert (recipe.batch_size, recipe.weight_decay) == (config.batch_size, config.weight_decay)
    assert PROFILES[profile]["head_multiplier"]["wgap"] > PROFILES[profile]["head_multiplier"]["gap"]  # Eq. 1: / W·H
    assert is_usual(config)


def test_the_rows_are_those_of_the_design():
    assert list(PROFILES) == ["sample", "light", "paper"]
    for profile in ("light", "paper"):
        assert [d for p, d in DATASETS if p == profile] == ["cub", "ilsvrc", "tiny_imagenet"]
    assert [d for p, d in DATASETS if p == "sample"] == ["things", "birds"]


@pytest.mark.parametrize("dataset", ["cub", "ilsvrc", "tiny_imagenet"])
def test_the_paper_profile_is_the_papers(dataset):
    config = configure(dataset, "paper")
    assert (config.backbone, config.weights) == ("vgg16", "imagenet")
    assert (config.lr, config.batch_size) == (1e-4, 64)
    assert config.temperature == 1
    protocol = config.conventions
    assert protocol.candidates == tuple(i / 20 for i in range(21)) == thresholds.PAPER_GRID
    assert (protocol.candidates[0], protocol.candidates[1], protocol.candidates[-1]) == (0, 0.05, 1)


def test_the_light_profile_has_imagenet_weights_and_the_sample_needs_none():
    assert configure("cub", "light").backbone == "squeezenet1_1"
    assert configure("cub", "light").weights == "imagenet"
    assert (configure().profile, configure().dataset, configure().weights) == ("sample", "birds", "")
    assert configure().backbone == "small_vgg"


# What nothing knows.


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"profile": "papers"},
            r"unknown profile 'papers' \(did you mean 'paper'\?\); choose one of sample, light, paper",
        ),
        ({"dataset": "cub"}, r"unknown dataset of profile 'sample' 'cub'.*choose one of things, birds"),
        ({"dataset": "bird"}, r"did you mean 'birds'"),
        ({"dataset": "things", "profile": "paper"}, r"'things'; choose one of cub, ilsvrc, tiny_imagenet"),
        ({"device": "cude"}, r"unknown device 'cude' \(did you mean 'cuda'\?\); choose one of cpu, cuda, mps, gpu$"),
        ({"device": "cuda:x"}, r"unknown device 'cuda:x'"),
        ({"device": "mps:1"}, r"unknown device 'mps:1'"),
        ({"epoch": 3}, r"unknown parameter 'epoch' \(did you mean 'epochs'\?\); there are dataset, profile.*threads"),
        ({"zzz": 3}, r"unknown parameter 'zzz'; there are"),
        (
            {"backbone": "vgg19"},
            r"unknown backbone 'vgg19' \(did you mean 'vgg16'\?\); choose one of vgg16, vgg16_conv6, squeezenet1_1",
        ),
        ({"layout": "voc"}, r"unknown layout 'voc'.*cub, ilsvrc, tiny_imagenet"),
        ({"poolings": ["gap", "max"]}, r"unknown pooling 'max'; choose one of gap, wgap, wgap_sum, tap"),
        ({"recombinations": "abs"}, r"unknown recombination 'abs'.*signed, positive, absolute, absolute_maps"),
        ({"rules": "argmax,otso"}, r"unknown threshold rule 'otso' \(did you mean 'otsu'\?\); choose one of fixed"),
        ({"protocol": "papers"}, r"unknown protocol 'papers' .*; choose one of paper, wsolevaluation, rethinkingcam"),
        ({"features": "signed"}, r"unknown features 'signed'; choose one of plain, weighted, unrectified"),
        (
            {"normalization": "min-max"},
            r"normalization 'min-max' \(did you mean 'minmax'\?\); choose one of max, minmax",
        ),
        ({"resolution": "inputs"}, r"unknown resolution 'inputs' \(did you mean 'input'\?\); choose one of input, map"),
        ({"interpolation": "cubic"}, r"unknown interpolation 'cubic'.*choose one of bilinear, bicubic"),
        (
            {"component": "pixel"},
            r"unknown component 'pixel' \(did you mean 'pixels'\?\); choose one of pixels, contour",
        ),
        ({"boundary": "8"}, r"unknown boundary '8'; choose one of 8-neighbours, 4-neighbours, contour"),
        ({"candidates": 2}, r"parameter candidates cannot be 2: .*three"),
        ({"candidates": "1"}, r"parameter candidates cannot be 1: .*three"),
        ({"candidates": -21}, r"parameter candidates cannot be -21: .*three"),
        ({"candidates": "0,0.5,1"}, r"parameter candidates cannot be '0,0\.5,1'"),
        ({"evaluate_on": "train"}, r"unknown evaluate_on 'train'; choose one of test, validation"),
        ({"optimizer": "adam"}, r"unknown optimizer 'adam'; choose one of sgd, adamw"),
        ({"schedule": "cosine"}, r"unknown schedule 'cosine'; choose one of constant, onecycle, steps"),
        ({"temperature": 0}, r"temperature must be positive"),
        ({"methods": "has,hide"}, r"unknown method 'hide'.*choose one of cam, "),
        ({"method_options": "has.size=3"}, r"unknown option 'size' of method 'has'; there is side, probability"),
        ({"method_options": "has=3"}, r"parameter method_options cannot be 'has=3'"),
        ({"epochs": "ten"}, r"parameter epochs cannot be 'ten'"),
        *(
            ({name: 0}, rf"parameter {name} cannot be 0: .* greater than 0")
            for name in ("image_size", "batch_size", "prediction_batch_size", "epochs", "lr", "processes")
        ),
        ({"lr": "1e-4x"}, r"parameter lr cannot be '1e-4x'"),
        ({"seeds": "0;1"}, r"parameter seeds cannot be '0;1'"),
        ({"head_multiplier": 5.0}, r"parameter head_multiplier cannot be 5\.0"),
        ({"head_multiplier": {"wgap": "many"}}, r"parameter head_multiplier cannot be 'many' for wgap"),
        (
            {"epochs": "ten", "backbone": "vgg61", "seeds": "0,a"},  # all at once
            r"unknown backbone 'vgg61'.*; parameter epochs cannot be 'ten'.*seeds cannot be 'a'",
        ),
        ({"head_multiplier": {"wgaq": 3.0}}, r"unknown pooling in head_multiplier 'wgaq' \(did you mean 'wgap'\?\)"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_unknown(values, message):
    with pytest.raises(ValueError, match=message):
        configure(**values)


# Overrides.


def test_text_becomes_the_parameters_type():
    config = configure(
        seeds="0,1,2", lr="1e-4", epochs="3", poolings="gap,tap", temperature="0.5", rules="argmax", batch_size=16.0
    )
    assert config.seeds == (0, 1, 2)
    assert config.lr == 1e-4 and isinstance(config.lr, float)
    assert config.epochs == 3 and isinstance(config.epochs, int)
    assert config.poolings == ("gap", "tap") and config.rules == ("argmax",)
    assert config.temperature == 0.5
    assert config.batch_size == 16 and isinstance(config.batch_size, int)
    assert configure(seeds=4).seeds == configure(seeds="4").seeds == configure(seeds=[4]).seeds == (4,)


def test_plain_fine_tuning_is_among_the_methods_and_options_come_as_text():
    config = configure(methods="has,acol", method_options="has.side=24,has.probability=0.25,acol.width=32")
    assert config.methods == ("cam", "has", "acol") and configure(methods=["acol", "cam"]).methods == ("cam", "acol")
    options = {"has": {"side": 24, "probability": 0.25}, "acol": {"width": 32}}
    assert config.method_options == options == configure(method_options=options).method_options
    assert is_usual(configure(methods=["has"])) and not is_usual(config)


def test_empty_values_are_the_profiles_own():
    assert configure(data_root="", weights="", backbone="", seeds=[], poolings=(), epochs="") == configure()
    assert configure(workers=0, threads=0).threads == 0  # nought is a value


def test_values_of_the_data_set_go_before_the_profiles_and_the_callers_before_both():
    assert configure("cub", "light").image_size == 224
    assert configure("tiny_imagenet", "light").image_size == 128
    assert configure("tiny_imagenet", "light", image_size=64).image_size == 64
    assert configure("cub", "light", weights="w.safetensors").weights == "w.safetensors"


def test_a_pooling_can_have_a_rate_of_its_own():
    config = configure("cub", "paper", lr=0.5, lr_multiplier="wgap_sum=0.25", head_multiplier="wgap_sum=8")
    assert config.recipe("gap").lr == 0.5 and config.recipe("wgap_sum").lr == 0.125
    assert config.recipe("wgap_sum").head_multiplier == 8  # of its own rate
    for name in ("lr_multiplier", "head_multiplier"):
        with pytest.raises(ValueError, match=f"parameter {name} cannot be '0' for wgap: .* greater than 0"):
            configure("cub", "paper", **{name: "wgap=0"})
    with pytest.raises(ValueError, match=r"unknown pooling in lr_multiplier 'wgaq' \(did you mean 'wgap'\?\)"):
        configure("cub", "paper", lr_multiplier={"wgaq": 3.0})


def test_head_multipliers_are_merged():
    usual = configure("cub", "paper").head_multiplier
    config = configure("cub", "paper", head_multiplier={"wgap": "300"})
    assert config.head_multiplier == usual | {"wgap": 300.0}
    assert config.recipe("wgap").head_multiplier == 300 and config.recipe("gap").head_multiplier == usual["gap"]
    assert PROFILES["paper"]["head_multiplier"] == usual  # the row itself stays


def test_the_recipe_holds_the_runs_values():
    config = configure(epochs=3, batch_size=8, lr=0.5, weight_decay=0.25, optimizer="sgd", schedule="constant",
                       head_multiplier={"tap": 7})  # fmt: skip
    expected = experiments.Recipe(
        epochs=3, batch_size=8, lr=0.5, head_multiplier=7, weight_decay=0.25, optimizer="sgd", schedule="constant"
    )
    assert config.recipe("tap") == expected


# The conventions of the evaluation.


OWN_WORDS = {"normalization": "minmax", "resolution": "map", "interpolation": "bicubic", "component": "contour",
             "boundary": "4-neighbours"}  # fmt: skip


def test_conventions_are_the_protocols_own():
    assert set(OWN_WORDS) == set(experiments.CONVENTIONS)
    for name, row in protocols.PROTOCOLS.items():
        assert configure(protocol=name).conventions == row
        assert configure(protocol=name, candidates=0, **dict.fromkeys(OWN_WORDS, "")).conventions == row


@pytest.mark.parametrize("name", OWN_WORDS)
@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_a_word_of_ones_own_takes_the_place_of_the_protocols(protocol, name):
    row = protocols.get(protocol)
    for word in experiments.CONVENTIONS[name]:
        assert configure(protocol=protocol, **{name: word}).conventions == replace(row, **{name: word})
    assert configure(**{name: OWN_WORDS[name]}).conventions != configure().conventions
    both = configure(protocol=protocol, candidates=3, **OWN_WORDS).conventions
    assert both == replace(row, candidates=(0, 0.5, 1), **OWN_WORDS)


@pytest.mark.parametrize("given, count", [(11, 11), ("101", 101), (21, 21), (3, 3)])
def test_candidates_lie_evenly_from_0_to_1(given, count):
    conventions = configure(candidates=given).conventions
    assert conventions.candidates == tuple(i / (count - 1) for i in range(count))
    assert conventions.grid == configure().conventions.grid  # boxes are scored where they were
    assert configure(candidates=21).conventions == configure().conventions  # Sec. 5


# Paths.


def test_relative_paths_start_at_the_repository_wherever_we_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configure("cub", "light", data_root="my/cub", results="../out", seeds=[3])
    assert config.root == ROOT / "my" / "cub"
    assert config.folder == ROOT.parent / "out" / "light" / "cub"
    assert config.seed_folder(3) == config.folder / "seed3"
    assert configure("cub", "light", data_root=str(tmp_path)).root == tmp_path


def test_wsol_results_takes_the_place_of_the_default_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("WSOL_RESULTS", str(tmp_path))
    assert configure().folder == tmp_path / "sample" / "birds"
    assert configure(results="results").folder == tmp_path / "sample" / "birds"
    assert configure(results="other").folder == ROOT / "other" / "sample" / "birds"
    monkeypatch.delenv("WSOL_RESULTS")
    assert configure().folder == ROOT / "results" / "sample" / "birds"


def test_show(tmp_path, monkeypatch):
    assert configure().show(ROOT / "results" / "sample" / "a.csv") == "results/sample/a.csv"
    assert configure().show(ROOT / "data" / "a.csv") == "data/a.csv"
    assert configure().show(Path("/elsewhere/a.csv")) == "/elsewhere/a.csv"
    monkeypatch.setenv("WSOL_RESULTS", str(tmp_path))  # an output that is compared does not hold the test's folder
    assert configure().show(tmp_path / "sample" / "a.csv") == "results/sample/a.csv"


def test_require_names_the_notebook(tmp_path):
    config = configure("things", results=str(tmp_path))
    file = config.folder / "annotations.csv"
    with pytest.raises(FileNotFoundError) as caught:
        config.require(file, "01_dataset_preparation")
    message = str(caught.value)
    assert f"{tmp_path.as_posix()}/sample/things/annotations.csv is missing" in message
    assert "run notebooks/01_dataset_preparation.ipynb first, with the same parameters" in message
    assert "dataset='things', profile='sample'" in message
    file.parent.mkdir(parents=True)
    file.touch()
    assert config.require(file, "01_dataset_preparation") == file


def test_the_notebooks_that_messages_name_exist():
    named = ["01_dataset_preparation", "02_finetune_wgap", "03_cam_recombination", "04_threshold_selection"]
    assert all((ROOT / "notebooks" / f"{name}.ipynb").is_file() for name in named)


# The reference.


@pytest.mark.parametrize(
    "values",
    [
        {"results": "other"},
        {"seeds": "1,2"},
        {"poolings": "gap,tap"},
        {"device": "cuda"},
        {"workers": 4},
        {"threads": 1},
    ],
)
def test_the_reference_applies(values):
    assert is_usual(configure(**values))


@pytest.mark.parametrize(
    "values",
    [{"epochs": 99}, {"lr": 1.0}, {"temperature": 2.0}, {"weights": "a"}, {"evaluate_on": "validation"},
     {"backbone": "squeezenet1_1"}, {"head_multiplier": {"wgap": 3.0}}, {"data_root": "elsewhere"},
     {"features": "weighted"}, {"protocol": "wsolevaluation"}, {"candidates": 11}, {"recombinations": "absolute"},
     *({name: word} for name, word in OWN_WORDS.items())],
    ids=str,
)  # fmt: skip
def test_the_reference_does_not_apply(values):
    assert not is_usual(configure(**values))


# Notebooks.


def test_from_notebook_takes_what_has_a_parameters_name():
    variables = {"dataset": "things", "profile": "sample", "weights": "", "seeds": [0, 1], "pd": object(), "rows": []}
    assert from_notebook(variables) == configure("things", "sample", seeds=[0, 1])


def test_from_notebook_takes_what_papermill_injects():
    variables = {
        "In": ["", "import numpy", "dataset: str = 'birds'", '# Parameters\nepochs = 3\nlr = "1e-2"\n'],
        "dataset": "birds", "epochs": 3, "lr": "1e-2",
    }  # fmt: skip
    config = from_notebook(variables)
    assert (config.dataset, config.epochs, config.lr) == ("birds", 3, 0.01)


def test_from_notebook_refuses_an_injected_name_that_nothing_knows():
    variables = {"In": ["", "dataset = 'birds'", "# Parameters\nepohcs = 3\n"], "dataset": "birds", "epohcs": 3}
    with pytest.raises(ValueError, match=r"unknown parameter 'epohcs' \(did you mean 'epochs'\?\)"):
        from_notebook(variables)
    variables["In"] = ["", "epohcs = 3"]  # a variable of the notebook's own is no parameter
    assert from_notebook(variables) == configure()


def test_the_environment_overrides_the_profiles_threads_and_a_parameter_both(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert configure().threads == 1 and configure("cub", "light").threads == 0
    assert configure(threads=3).threads == 3
    for value in ("", "0", "4,2", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert configure().threads == 2


def test_from_notebook_sets_the_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(1)
    assert configure().threads > 0  # the sample's figures are to be repeated exactly
    from_notebook({"threads": 3})
    assert torch.get_num_threads() == 3
    from_notebook({"dataset": "cub", "profile": "light"})  # no figure of ours to repeat: torch's own choice
    assert torch.get_num_threads() == 3
