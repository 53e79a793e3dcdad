"""The commands that keep a run as reference and search the heads' rates; `evaluate` is tested with the score maps."""

import pandas as pd
import pytest
from click.testing import CliRunner

from wsol_utils import __main__ as commands
from wsol_utils import keeping, reference, runs


def measured(seed, gt_known):
    row = dict.fromkeys(runs.METRICS_COLUMNS, 1.0)
    words = {"pooling": "wgap", "recombination": "absolute", "threshold_rule": "fixed", "temperature": 1.0}
    return row | words | {"seed": seed, "gt_known": gt_known}


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A function that makes a finished run of a profile with seeds 3 and 5; what is kept goes to tmp_path/kept."""
    monkeypatch.setattr(reference, "folder", lambda profile, dataset: tmp_path / "kept" / profile / dataset)
    monkeypatch.setattr(reference, "write_readme", lambda: None)

    def make(profile, dataset):
        run = tmp_path / "results" / profile / dataset
        for seed in (3, 5):
            table = pd.DataFrame({"map": ["M_p"], "inside box": [10.123456 * seed], "seed": [seed]})
            runs.write_csv(table, run / f"seed{seed}" / "channels.csv")
        runs.write_csv(pd.DataFrame([measured(3, 60.0), measured(5, 70.0)]), run / "metrics.csv")
        for name in ("seeds.csv", "differences.csv", "table.csv", "table.md", "fig2.png", "fig3.png", "fig4.png"):
            (run / name).write_text(f"{profile} {name}")
        return run

    return make


def test_a_run_on_photographs_is_kept_without_its_pictures(finished, tmp_path):
    result = CliRunner().invoke(commands.main, ["keep-reference", str(finished("light", "cub"))])
    assert result.exit_code == 0, result.output
    kept = tmp_path / "kept" / "light" / "cub"
    names = {path.name for path in kept.iterdir()}
    assert names == {"metrics.csv", "seeds.csv", "differences.csv", "table.csv", "table.md", "channels.csv"}
    channels = pd.read_csv(kept / "channels.csv")
    assert channels["seed"].tolist() == [3, 5] and channels["inside box"].tolist() == [30.3704, 50.6173]
    assert (kept / "table.md").read_text() == "light table.md"


def test_the_sample_is_kept_with_pictures_bands_and_the_search(finished, tmp_path):
    run = finished("sample", "birds")
    runs.write_csv(pd.DataFrame({"pooling": ["tap"]}), run.with_name("birds_validation") / "head_rates.csv")
    keeping.keep_run(run)
    kept = tmp_path / "kept" / "sample" / "birds"
    assert {"fig2.png", "fig3.png", "fig4.png", "head_rates.csv"} <= {path.name for path in kept.iterdir()}
    bands = pd.read_csv(kept / "bands.csv").set_index("figure")
    assert bands.loc["gt_known", ["mean", "low", "high"]].tolist() == [65, 50, 80]  # ± 4 deviations is more than 15


def test_temperatures_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "folder", lambda profile, dataset: tmp_path)
    for name, temperature in {"usual": 1.0, "cold": 0.5, "hot": 2.0}.items():
        rows = [{"pooling": "wgap", "temperature": temperature}, {"pooling": "gap", "temperature": None}]
        runs.write_csv(pd.DataFrame(rows), tmp_path / name / "seeds.csv")
    keeping.keep_temperatures(tmp_path / "usual", [tmp_path / "cold", tmp_path / "hot"])
    kept = pd.read_csv(tmp_path / "temperatures.csv")
    assert kept["temperature"].tolist() == [0.5, 1.0, 2.0] and set(kept["pooling"]) == {"wgap"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["eagles", "--rates", "gap=1"], "Error: unknown dataset of profile 'sample' 'eagles'"),
        (["birds", "--rates", "gup=1"], "Error: unknown pooling 'gup'"),
        (["birds", "--rates", "gap=fast"], "Error: could not convert string to float: 'fast'"),
        (["birds", "--rates", "gap"], "Error: "),
    ],
)
def test_a_wrong_search_is_one_line(arguments, message):
    result = CliRunner().invoke(commands.main, ["tune-heads", *arguments])
    assert result.exit_code == 1
    assert result.output.startswith(message) and result.output.count("\n") == 1
