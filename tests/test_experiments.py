"""The named configurations: every row, every override, every word that nothing knows."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from wsol_utils import experiments, protocols
from wsol_utils.experiment.experiments import DATASETS, PROFILES, configure, from_notebook, is_usual

ROOT = Path(__file__).resolve().parents[1]
OWN_WORDS = {"normalization": "minmax", "resolution": "map", "interpolation": "bicubic", "component": "contour",
             "boundary": "4-neighbours"}  # fmt: skip


@pytest.fixture(autouse=True)
def _threads_and_results(monkeypatch):
    for name in ("WSOL_RESULTS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# The rows.


@pytest.mark.parametrize("profile, dataset", DATASETS)
def test_every_row(profile, dataset):
    config, row = configure(dataset, profile), PROFILES[profile] | DATASETS[profile, dataset]
    assert asdict(config).items() >= row.items()  # the data set's values before the profile's
    assert config.root == ROOT / config.data_root and config.folder == ROOT / "results" / profile / dataset
    assert config.conventions == protocols.get("paper")
    assert "first_above_mean" in config.rules and "fixed" not in config.rules  # the grid covers the fixed one
    assert set(row["head_multiplier"]) == {"gap", "wgap", "wgap_sum", "tap"} and is_usual(config)


def test_the_rows_are_those_of_the_design():
    assert list(PROFILES) == ["sample", "light", "paper"] and configure() == configure("birds", "sample")
    real = [(profile, name) for profile in ("light", "paper") for name in ("cub", "ilsvrc", "tiny_imagenet")]
    assert set(DATASETS) == {("sample", "things"), ("sample", "birds"), *real}
    for name in ("cub", "ilsvrc", "tiny_imagenet"):  # Sec. 5
        paper = configure(name, "paper")
        assert (paper.backbone, paper.weights, paper.lr, paper.batch_size) == ("vgg16", "imagenet", 1e-4, 64)


# What nothing knows.


@pytest.mark.parametrize(
    "values, message",
    [
        ({"profile": "papers"}, r"profile 'papers' \(did you mean 'paper'\?\); choose one of sample, light, paper$"),
        ({"dataset": "bird"}, r"dataset of profile 'sample' 'bird' \(did you mean 'birds'\?\); .* things, birds$"),
        ({"dataset": "things", "profile": "paper"}, r"'things'; choose one of cub, ilsvrc, tiny_imagenet"),
        ({"device": "cude"}, r"device 'cude' \(did you mean 'cuda'\?\); choose one of cpu, cuda, mps, gpu$"),
        ({"device": "cuda:x"}, r"unknown device 'cuda:x'"),
        ({"device": "mps", "processes": 2}, r"parameter device cannot be 'mps': processes need cuda or cpu"),
        ({"epoch": 3}, r"unknown parameter 'epoch' \(did you mean 'epochs'\?\); choose one of dataset, profile, "),
        ({"poolings": ["gap", "max"]}, r"unknown pooling 'max'; choose one of gap, wgap, wgap_sum, tap$"),
        ({"recombinations": "abs"}, r"unknown recombination 'abs'.*; choose one of signed, positive, absolute, "),
        ({"rules": "argmax,otso"}, r"unknown threshold rule 'otso' \(did you mean 'otsu'\?\); choose one of fixed, "),
        ({"optimizer": "adam"}, r"unknown optimizer 'adam'.*; choose one of sgd, adamw"),
        ({"schedule": "cosine"}, r"unknown schedule 'cosine'.*; choose one of constant, onecycle, steps"),
        ({"methods": "has,hide"}, r"unknown method 'hide'.*choose one of cam, "),
        ({"method_options": "has.size=3"}, r"unknown option 'size' of method 'has'; there is side, probability"),
        ({"method_options": "has=3"}, r"parameter method_options cannot be 'has=3'"),
        ({"candidates": 2}, r"parameter candidates cannot be 2: .* three"),
        ({"candidates": -21}, r"parameter candidates cannot be -21: .* three"),
        ({"candidates": "0,0.5,1"}, r"parameter candidates cannot be '0,0\.5,1'"),
        ({"resize_size": 8}, r"parameter resize_size cannot be 8: it must be at least image_size 96"),
        ({"seeds": "0,0"}, r"parameter seeds cannot be \(0, 0\): they differ, from 0 on"),
        ({"seeds": [-1]}, r"parameter seeds cannot be \(-1,\): they differ, from 0 on"),
        ({"results": "results/reference"}, r"parameter results cannot be 'results/reference': our own figures"),
        ({"lr": "1e-4x"}, r"parameter lr cannot be '1e-4x'"),
        ({"head_multiplier": 5.0}, r"parameter head_multiplier cannot be 5\.0"),
        ({"head_multiplier": {"wgap": "many"}}, r"parameter head_multiplier cannot be 'many' for wgap"),
        ({"lr_multiplier": "wgap=0"}, r"parameter lr_multiplier cannot be '0' for wgap: .* greater than 0"),
        ({"lr_multiplier": {"wgaq": 3.0}}, r"unknown pooling 'wgaq' \(did you mean 'wgap'\?\)"),
        *(
            ({name: 0}, rf"parameter {name} cannot be 0: .* greater than 0")
            for name in (
                "image_size", "batch_size", "prediction_batch_size", "epochs", "lr", "processes", "temperature",
            )
        ),
        *(
            ({name: "nothing"}, rf"unknown {name} 'nothing'.*; choose one of {words}")
            for name, words in {
                "backbone": "vgg16, vgg16_conv6, squeezenet1_1", "layout": "cub, ilsvrc, tiny_imagenet",
                "protocol": "paper, wsolevaluation, rethinkingcam$", "features": "plain, weighted, unrectified$",
                "evaluate_on": "test, validation$", "on_bad_image": "stop, skip$", "decoder": "pillow, torchvision$",
                "normalization": "max, minmax$", "resolution": "input, map$", "interpolation": "bilinear, bicubic$",
                "component": "pixels, contour$", "boundary": "8-neighbours, 4-neighbours, contour$",
            }.items()
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_unknown(values, message):
    with pytest.raises(ValueError, match=message):
        configure(**values)


def test_everything_that_is_wrong_is_said_at_once():
    with pytest.raises(ValueError) as caught:
        configure(epochs="ten", backbone="vgg61", seeds="0,a")
    for part in ("unknown backbone 'vgg61'", "parameter epochs cannot be 'ten'", "parameter seeds cannot be 'a'"):
        assert part in str(caught.value)


# Overrides.


def test_text_becomes_the_parameters_type():
    text = {"seeds": "0,1,2", "lr": "1e-4", "epochs": "3", "poolings": "gap,tap", "temperature": "0.5",
            "rules": "argmax", "batch_size": 16.0, "methods": "has,acol", "deterministic": "true",
            "method_options": "has.side=24,has.probability=0.25,acol.width=32"}  # fmt: skip
    typed = {"seeds": (0, 1, 2), "lr": 1e-4, "epochs": 3, "poolings": ("gap", "tap"), "temperature": 0.5,
             "rules": ("argmax",), "batch_size": 16, "methods": ("cam", "has", "acol"), "deterministic": True,
             "method_options": {"has": {"side": 24, "probability": 0.25}, "acol": {"width": 32}}}  # fmt: skip
    config = configure(**text)
    assert config == configure(**typed)
    for name, value in typed.items():
        assert getattr(config, name) == value and type(getattr(config, name)) is type(value)
    assert configure(seeds=4).seeds == configure(seeds="4").seeds == configure(seeds=[4]).seeds == (4,)


def test_empty_values_are_the_profiles_own():
    assert configure(data_root="", weights="", backbone="", seeds=[], poolings=(), epochs="") == configure()
    assert configure(workers=0, threads=0).threads == 0  # nought is a value


def test_the_recipe_holds_the_runs_values_and_a_pooling_can_have_rates_of_its_own():
    usual = configure("cub", "paper").head_multiplier
    config = configure("cub", "paper", epochs=3, batch_size=8, lr=0.5, weight_decay=0.25, schedule="steps",
                       lr_multiplier="wgap_sum=0.25", head_multiplier={"wgap_sum": "8"})  # fmt: skip
    shared = {"epochs": 3, "batch_size": 8, "weight_decay": 0.25, "optimizer": "sgd", "schedule": "steps"}
    assert vars(config.recipe("wgap_sum")) == {"lr": 0.125, "head_multiplier": 8, **shared}
    assert vars(config.recipe("gap")) == {"lr": 0.5, "head_multiplier": usual["gap"], **shared}
    assert config.head_multiplier == usual | {"wgap_sum": 8} and PROFILES["paper"]["head_multiplier"] == usual


# The conventions of the evaluation.


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_a_word_of_ones_own_takes_the_place_of_the_protocols(protocol):
    assert set(OWN_WORDS) == set(experiments.CONVENTIONS)
    row = protocols.get(protocol)
    assert configure(protocol=protocol, candidates=0, **dict.fromkeys(OWN_WORDS, "")).conventions == row
    for name, word in OWN_WORDS.items():
        assert configure(protocol=protocol, **{name: word}).conventions == replace(row, **{name: word})
    both = configure(protocol=protocol, candidates="3", **OWN_WORDS).conventions
    assert both == replace(row, candidates=(0, 0.5, 1), **OWN_WORDS)  # evenly from 0 to 1


# Paths.


def test_relative_paths_start_at_the_repository_wherever_we_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configure("cub", "light", data_root="my/cub", results="../out")
    assert config.root == ROOT / "my" / "cub" and config.folder == ROOT.parent / "out" / "light" / "cub"
    assert config.seed_folder(3) == config.folder / "seed3"
    assert configure("cub", "light", data_root=str(tmp_path)).root == tmp_path


def test_wsol_results_takes_the_place_of_the_default_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("WSOL_RESULTS", str(tmp_path))
    assert configure().folder == configure(results="results").folder == tmp_path / "sample" / "birds"
    assert configure(results="other").folder == ROOT / "other" / "sample" / "birds"
    assert configure().show(tmp_path / "sample" / "a.csv") == "results/sample/a.csv"  # not the test's own folder
    assert configure().show(ROOT / "data" / "a.csv") == "data/a.csv"
    assert configure().show(Path("/elsewhere/a.csv")) == "/elsewhere/a.csv"


def test_require_names_the_notebook(tmp_path):
    config = configure("things", results=str(tmp_path))
    said = (
        r"/sample/things/annotations\.csv is missing: run notebooks/01_dataset_preparation\.ipynb first, with the same "
        r"parameters \(dataset='things', profile='sample', results="
    )
    with pytest.raises(FileNotFoundError, match=said):
        config.require(config.folder / "annotations.csv", "01_dataset_preparation")
    assert config.require(tmp_path, "01_dataset_preparation") == tmp_path


# The reference.


def test_the_reference_applies_where_every_value_that_decides_a_figure_is_usual():
    free = {"results": "other", "seeds": "1,2", "poolings": "gap,tap", "methods": "has", "device": "cuda",
            "workers": 4, "threads": 1}  # fmt: skip
    assert is_usual(configure(**free))
    decisive = {"epochs": 99, "lr": 1.0, "temperature": 2.0, "weights": "a", "evaluate_on": "validation",
                "backbone": "squeezenet1_1", "head_multiplier": {"wgap": 3.0}, "data_root": "elsewhere",
                "features": "weighted", "protocol": "wsolevaluation", "candidates": 11, "recombinations": "absolute",
                "method_options": "has.side=24"} | OWN_WORDS  # fmt: skip
    assert not [name for name, value in decisive.items() if is_usual(configure(**{name: value}))]


# Notebooks.


def test_from_notebook():
    """What has a parameter's name is one, and whatever papermill injects."""
    own = {"In": ["", "epohcs = 3"], "dataset": "things", "weights": "", "seeds": [0, 1], "pd": object(), "epohcs": 3}
    assert from_notebook(own) == configure("things", seeds=[0, 1])
    given = {"In": ["", "dataset: str = 'birds'", '# Parameters\nlr = "1e-2"\n'], "dataset": "birds", "lr": "1e-2"}
    assert from_notebook(given) == configure(lr=0.01)
    with pytest.raises(ValueError, match=r"unknown parameter 'epohcs' \(did you mean 'epochs'\?\)"):
        from_notebook(own | {"In": ["", "dataset = 'birds'", "# Parameters\nepohcs = 3\n"]})
    injected = {"In": ["# Parameters\nlr = 1\nexampel = 2\n"]}  # a notebook beside the road
    with pytest.raises(ValueError, match=r"unknown parameter 'exampel' \(did you mean 'example'\?\); choose one of ex"):
        experiments.refuse_unknown(injected, ["example"])


def test_threads(monkeypatch):
    """The environment overrides the profile's number, and a parameter both; a notebook sets them."""
    from_notebook({"threads": 3})
    assert torch.get_num_threads() == 3
    from_notebook({"dataset": "cub", "profile": "light"})  # no figure of ours to repeat: torch's own choice
    assert torch.get_num_threads() == 3 and configure().threads == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert (configure().threads, configure("cub", "light").threads, configure(threads=3).threads) == (1, 0, 3)
    for value in ("", "0", "4,2", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert configure().threads == 2
