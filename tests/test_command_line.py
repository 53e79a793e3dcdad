"""The commands on one's own pictures, those that keep a run as reference, and the search of the heads' rates.

`evaluate` is tested with the score maps, `verify` and `download` with their modules.
"""

import json
import os
import re
import shlex
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from click.testing import CliRunner
from PIL import Image

from wsol_utils import __main__ as commands
from wsol_utils import handover, keep, locate, models, networks, reference


def measured(seed, gt_known, pooling="wgap"):
    row = dict.fromkeys(handover.METRICS_COLUMNS, 1.0)
    words = {"pooling": pooling, "recombination": "absolute", "threshold_rule": "fixed", "temperature": 1.0}
    return row | words | {"seed": seed, "gt_known": gt_known}


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A function that makes a finished run of a profile with seeds 3 and 5; what is kept goes to tmp_path/kept."""
    monkeypatch.setattr(reference, "folder", lambda profile, dataset: tmp_path / "kept" / profile / dataset)
    monkeypatch.setattr(keep, "show", lambda: None)

    def make(profile, dataset, device="CPU x86_64, 2 threads", poolings=("wgap",)):
        run = tmp_path / "results" / profile / dataset
        for seed in (3, 5):
            table = pd.DataFrame({"map": ["M_p"], "inside box": [10.123456 * seed], "seed": [seed]})
            handover.write_csv(table, run / f"seed{seed}" / "channels.csv")
        rows = [measured(seed, figure, pooling) for pooling in poolings for seed, figure in ((3, 60.0), (5, 70.0))]
        handover.write_csv(pd.DataFrame(rows), run / "metrics.csv")
        for name, column in (("seeds", "pooling"), ("differences", "pooling"), ("contributions", "form")):
            handover.write_csv(pd.DataFrame({column: poolings, "of": dataset}), run / f"{name}.csv")
        for name in ("table.csv", "table.md", "fig2.png", "fig3.png", "fig4.png"):
            (run / name).write_text(f"{profile} {name}")
        (run / "manifest.json").write_text(json.dumps({"device": device, "seeds": [3, 5]}))
        return run

    return make


TABLES = {*(f"{name}.csv" for name in keep.TABLES), "table.csv", "table.md", "channels.csv"}


def test_a_run_on_photographs_is_kept_without_its_pictures(finished, tmp_path):
    """Nor with a table that an earlier run had and this one has not."""
    kept = tmp_path / "kept" / "light" / "cub"
    handover.write_csv(pd.DataFrame({"seed": [0]}), kept / "history.csv")
    result = CliRunner().invoke(commands.main, ["keep-reference", str(finished("light", "cub"))])
    assert result.exit_code == 0, result.output
    assert {path.name for path in kept.iterdir()} == TABLES
    channels = pd.read_csv(kept / "channels.csv")
    assert channels["seed"].tolist() == [3, 5] and channels["inside box"].tolist() == [30.3704, 50.6173]
    assert (kept / "table.md").read_text() == "light table.md"


def test_tables_of_a_gpu_name_it_and_have_a_folder_of_their_own(finished, tmp_path):
    run = finished("light", "cub", device="NVIDIA H100")
    result = CliRunner().invoke(commands.main, ["keep-reference", str(run), "--name", "gpu/cub_vgg16"])
    assert result.exit_code == 0, result.output
    kept = tmp_path / "kept" / "gpu" / "cub_vgg16"
    assert {path.name for path in kept.iterdir()} == TABLES and not (tmp_path / "kept" / "light").exists()
    for name in keep.TABLES:
        assert set(pd.read_csv(kept / f"{name}.csv")["device"]) == {"NVIDIA H100"}


@pytest.mark.parametrize("name", ["cub", "../x", "/gpu/cub", "gpu/cub/more"])
def test_a_name_to_keep_by_stays_in_the_reference(finished, name):
    result = CliRunner().invoke(commands.main, ["keep-reference", str(finished("light", "cub")), "--name", name])
    assert result.exit_code == 1 and result.output == f"Error: --name {name}: give a folder and one in it, as gpu/cub\n"


def test_the_sample_is_kept_with_pictures_the_search_and_further_poolings(finished, tmp_path):
    run, kept = finished("sample", "birds"), tmp_path / "kept" / "sample" / "birds"
    handover.write_csv(pd.DataFrame({"pooling": ["tap"]}), run.with_name("birds_validation") / "head_rates.csv")
    keep.keep_run(run)
    assert {path.name for path in kept.iterdir()} == {*TABLES, "fig2.png", "fig3.png", "fig4.png", "head_rates.csv"}
    further = finished("sample", "further", poolings=("wgap", "tap"))
    keep.keep_run(further, "sample/birds", further=True)
    assert pd.read_csv(kept / "metrics.csv")["pooling"].tolist() == ["wgap", "wgap", "tap", "tap"]
    for name in keep.TABLES[1:]:
        assert pd.read_csv(kept / f"{name}.csv").to_numpy().tolist() == [["wgap", "birds"], ["tap", "further"]]
    assert pd.read_csv(kept / "channels.csv")["seed"].tolist() == [3, 5]


def test_bands_are_kept_with_the_runs_that_gave_them(finished, tmp_path):
    measured = {name: finished("sample", name) for name in ("own", "default")}
    keep.keep_bands("birds", measured)
    kept = pd.read_csv(tmp_path / "kept" / "sample" / "birds" / "roundings.csv")
    assert kept[["rounding", "seed", "gt_known"]].to_numpy().tolist() == [
        ["own", 3, 60], ["own", 5, 70], ["default", 3, 60], ["default", 5, 70],
    ]  # fmt: skip


def test_the_reference_is_measured(finished, tmp_path, monkeypatch):
    """A runner in the place of doit's accepts nothing but the words, threads and roundings that it should get."""
    runner = (
        "import os, sys\n"
        "given = dict(word.split('=') for word in sys.argv if '=' in word)\n"
        "rounding = 'default' if given['RESULTS'].endswith('default') else None\n"
        "sys.exit(sys.argv[-2:] != ['notebooks', 'manifest'] or os.environ['OMP_NUM_THREADS'] != '1'\n"
        "         or os.environ.get('ATEN_CPU_CAPABILITY') != rounding)\n"
    )
    (tmp_path / "doit.py").write_text(runner)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)  # of whoever runs the tests
    done = []
    monkeypatch.setattr(keep, "ROOT", tmp_path)
    monkeypatch.setattr(keep.sample, "render", lambda root: None)
    for name in ("keep_run", "keep_bands", "keep_example", "keep_temperatures"):
        monkeypatch.setattr(keep, name, lambda *given, name=name, **others: done.append((name, others)))
    wide = tmp_path / "results" / ".reference"
    (wide / "own/sample/birds/seed0/predictions_wgap").mkdir(parents=True)
    for name in ("fig4.png", "birds/seed0/wgap.safetensors", "birds/seed0/predictions_wgap/x"):
        (wide / "own/sample" / name).write_text("kept")
    (tmp_path / "kept" / "sample").mkdir(parents=True)
    result = CliRunner().invoke(commands.main, ["reference"])
    assert result.exit_code == 0, result.exception
    both, further = ["keep_run", "keep_bands"] * 2, ["keep_run"] * 2
    assert [name for name, _ in done] == [*both, "keep_example", *further, "keep_temperatures"]
    assert [others for _, others in done if others] == [{"further": True}] * 2
    for name in ("poolings", "temperature_0.5", "temperature_2"):
        assert [path.name for path in (wide / name).rglob("seed0/*")] == ["wgap.safetensors"]
    (tmp_path / "doit.py").write_text("raise SystemExit(1)")
    with pytest.raises(subprocess.CalledProcessError):
        keep.measure()


def test_temperatures_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "folder", lambda profile, dataset: tmp_path)
    for name, temperature in {"usual": 1.0, "cold": 0.5, "hot": 2.0}.items():
        rows = [{"pooling": "wgap", "temperature": temperature}, {"pooling": "gap", "temperature": None}]
        handover.write_csv(pd.DataFrame(rows), tmp_path / name / "seeds.csv")
    keep.keep_temperatures([tmp_path / name for name in ("usual", "cold", "hot")])
    kept = pd.read_csv(tmp_path / "temperatures.csv")
    assert kept["temperature"].tolist() == [0.5, 1.0, 2.0] and set(kept["pooling"]) == {"wgap"}


# One's own pictures.


@pytest.fixture
def checkpoint(tmp_path, one_thread):
    """A network of three classes as notebook 02 writes it."""
    torch.manual_seed(0)
    model = models.build("small_vgg", 3, "gap")
    torch.nn.init.normal_(model.head.weight, std=2)
    about = {"backbone": "small_vgg", "pooling": "gap", "temperature": 1.0, "own_head": False, "image_size": 48}
    models.save(model, tmp_path / ".gap.safetensors", {}, about | {"class_names": ["robin", "wren", "owl"]})
    return str(tmp_path / ".gap.safetensors")


@pytest.fixture
def album(tmp_path):
    """Two pictures in a folder, and one of the same name in another."""
    for number, name in enumerate(("album/a.png", "album/b.jpg", "more/a.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(commands.main, ["localize", *map(str, arguments)])


def test_a_picture_that_fails_leaves_the_others(album, checkpoint, monkeypatch):
    look = locate.look

    def short_of_memory(network, path, *arguments):
        if path.name == "a.png":
            raise MemoryError
        return look(network, path, *arguments)

    monkeypatch.setattr(locate, "look", short_of_memory)
    result = run(album / "album", "--checkpoint", checkpoint, "--out", album / "out")
    assert result.exit_code == 1 and "a.png: not enough memory; scale it down" in result.stderr
    assert "1 of 2 files are left out" in result.stderr and result.stdout.count("b.jpg: ") == 1
    assert len(json.loads((album / "out" / "boxes.json").read_text(encoding="utf-8"))["images"]) == 1


def test_a_line_for_each_picture(album, checkpoint):
    network = networks.load_network(checkpoint)
    paths = [album / "album" / "a.png", album / "album" / "b.jpg", album / "more" / "a.png"]
    for arguments, index, values in (
        ([], None, {}),
        (["--class", 2, "--rule", "otsu"], 2, {"rule": "otsu"}),
        (["--class", 0, "--eta", 0.31, "--recombination", "positive"], 0, {"eta": 0.31, "recombination": "positive"}),
    ):
        result = run(album / "album", paths[2], "--checkpoint", checkpoint, *arguments)
        assert result.exit_code == 0 and result.stderr == ""
        for line, path in zip(result.stdout.splitlines(), paths, strict=True):
            view = locate.look(network, path, index)
            located = locate.locate(view, **values)
            box = " ".join(f"{side:.1f}" for side in located.box)
            share, name = f"{100 * view.probability:.1f} %", f"{view.class_name} ({view.class_index})"
            share += ", unsure" * (view.probability < 0.5)
            assert line == f"{path}: {name}, {share}, threshold {located.eta:.2f}, box {box}"


def test_files_are_written(album, checkpoint, tmp_path):
    out = tmp_path / "deep" / "boxes"
    refused = run(album, "--checkpoint", checkpoint, "--out", out)
    assert refused.exit_code == 1 and "--recursive" in refused.stderr and refused.stdout == "" and not out.exists()
    result = run(album, "--recursive", "--checkpoint", checkpoint, "--out", out)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"boxes.json", "boxes.csv", "album", "more"}
    content, rows = json.loads((out / "boxes.json").read_text()), pd.read_csv(out / "boxes.csv")
    assert rows["path"].tolist() == [image["file_name"] for image in content["images"]] and len(rows) == 3
    assert rows[["x0", "y0"]].to_numpy() == pytest.approx(np.array([a["bbox"][:2] for a in content["annotations"]]))
    assert all(Image.open(out / name).width > 400 for name in ("album/a.png.png", "album/b.jpg.png", "more/a.png.png"))
    assert result.stdout.splitlines()[-1] == f"3 pictures, boxes.json and boxes.csv are in {out}"


def test_a_bad_picture_does_not_stop_the_others(album, checkpoint, tmp_path):
    (album / "album" / "aa.png").write_bytes(b"no picture")
    result = run(album / "none.png", album / "album", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert result.exit_code == 1
    errors = result.stderr.splitlines()
    assert len(errors) == 3 and errors[0].startswith(f"Error: {album / 'none.png'}: no picture that can be read")
    assert errors[1].startswith(f"Error: {album / 'album' / 'aa.png'}: no picture that can be read")
    assert errors[2] == "Error: 2 of 4 files are left out, see above"
    lines = result.stdout.splitlines()
    assert len(lines) == 3 and all(name in line for name, line in zip(("a.png", "b.jpg", "2 pict"), lines, strict=True))
    assert len(pd.read_csv(tmp_path / "out" / "boxes.csv")) == 2
    assert run(album / "none.png", "--checkpoint", checkpoint).exit_code == 1


@pytest.mark.fault(
    "a picture's name is not UTF-8, or more than the terminal can show",
    "both files of boxes are written and every line is printed, the name escaped",
)
def test_names_that_cannot_be_shown(album, checkpoint, monkeypatch):
    names = [os.fsdecode(b"caf\xe9.png"), "\u732b.png", "two\nlines.png", "\u017e\u00e9.png"]
    for number, name in enumerate(names):
        (album / "odd").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30 + number)).save(album / "odd" / name, format="PNG")
    (album / "odd" / os.fsdecode(b"none\xff\xe4\xbd\xa0.png")).write_bytes(b"no picture")
    monkeypatch.chdir(album)
    words = ["localize", "odd", os.fsdecode(b"gone\xe9"), "--checkpoint", checkpoint, "--out", os.fsdecode(b"out\xe9")]
    done = CliRunner(charset="ascii").invoke(commands.main, words)
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.exception
    out, errors = done.stdout_bytes.decode("ascii").splitlines(), done.stderr_bytes.decode("ascii")

    assert {line.split(":")[0] for line in out[:-1]} == {
        f"odd/{name}" for name in ("caf\\udce9.png", "\\u732b.png", "two\\nlines.png", "\\u017e\\xe9.png")
    }
    assert out[-1] == "4 pictures, boxes.json and boxes.csv are in out\\udce9"
    assert "Error: odd/none\\udcff\\u4f60.png: no picture that can be read" in errors
    assert "Error: gone\\udce9: no picture that can be read" in errors
    folder = album / os.fsdecode(b"out\xe9")
    content = json.loads((folder / "boxes.json").read_text(encoding="utf-8"))
    assert {image["file_name"] for image in content["images"]} == {f"odd/{name}" for name in names}
    rows = pd.read_csv(folder / "boxes.csv", encoding="utf-8")
    assert set(rows["path"]) == {"odd/caf\\udce9.png", *(f"odd/{name}" for name in names[1:])}
    assert {path.name for path in folder.iterdir()} == {*(f"{name}.png" for name in names), "boxes.json", "boxes.csv"}


# Weights of other programs.


def convert(*arguments):
    return CliRunner().invoke(commands.main, ["convert", *map(str, arguments)])


def test_a_pickle_is_converted_and_used(album, tmp_path, one_thread):
    """The command that the error names is the one that helps: then the boxes are those of the weights themselves."""
    torch.manual_seed(0)
    own = torchvision.models.squeezenet1_1().state_dict()
    models.write(own, tmp_path / "own.safetensors", {})
    words = [album / "album" / "a.png", "--class", 1, "--backbone", "squeezenet1_1", "--weights"]
    expected = run(*words, tmp_path / "own.safetensors")
    assert expected.stdout.startswith(f"{words[0]}: goldfish (1), ")
    file = tmp_path / "my weights.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in own.items()}, "epoch": 3}, file)
    refused = run(*words, file)
    assert refused.exit_code == 1 and refused.stderr.count("\n") == 1 and refused.stdout == ""
    named = re.search(r"python -m wsol_utils (convert .*), and give the new file$", refused.stderr.strip())
    result = CliRunner().invoke(commands.main, shlex.split(named[1]))
    out = tmp_path / "my weights.safetensors"
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"wrote {out}: {len(own)} tensors, which {file} holds under 'state_dict'\n"
    found = run(*words, out)
    assert found.stdout == expected.stdout and "box" in found.stdout and found.exit_code == 0
    assert found.stderr == f"{out}: the prefix 'module.' of all keys is left out\n"


def test_what_is_not_converted_leaves_no_file(tmp_path):
    torch.save({"a": torch.zeros(2), "x": Image.new("L", (1, 1))}, tmp_path / "x.pth")
    result = convert(tmp_path / "x.pth", tmp_path / "out.safetensors")
    assert result.exit_code == 1 and result.output.count("\n") == 1 and "PIL.Image.Image" in result.output
    result = convert(tmp_path / "none.pth", tmp_path / "out.safetensors")
    assert result.exit_code == 1 and result.output.count("\n") == 1 and "none.pth" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pth")
    (tmp_path / "there.safetensors").write_bytes(b"somebody's")
    result = convert(tmp_path / "x.pth", tmp_path / "there.safetensors")
    assert result.exit_code == 1 and result.output.endswith("there.safetensors exists already: name another file\n")
    assert (tmp_path / "there.safetensors").read_bytes() == b"somebody's"


# What is asked wrongly.


def test_without_arguments_it_shows_what_to_type():
    result = run()
    assert result.exit_code == 0 and "localize holiday/ --out boxes" in result.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--checkpoint", "c", "--backbone", "resnet18"], "one of the two"),
        (["--checkpoint", "c", "--weights", "w"], "--weights are of a --backbone"),
        (["--checkpoint", "c", "--eta", "0.2", "--rule", "otsu"], "takes the place of --rule"),
        (["--checkpoint", "c", "--eta", "nan"], "a number from 0 to 1"),
        (["--checkpoint", "c", "--rule", "first"], "unknown --rule 'first'; choose one of fixed, first_above_mean"),
        (["--checkpoint", "c", "--recombination", "sum"], "unknown --recombination 'sum'; choose one of signed"),
        (["--checkpoint", "c", "--class", "-1"], "--class"),
        (["--checkpoint", "c", "--out", "ALBUM"], "name another one"),
    ],
)
def test_wrong_usage(album, checkpoint, arguments, message):
    places = {"CHECKPOINT": checkpoint, "ALBUM": album / "album"}
    before = {path: path.read_bytes() for path in (album / "album").iterdir()}
    result = run(album / "album", *[places.get(word, word) for word in arguments])
    assert result.exit_code == 2 and result.stdout == ""
    assert message in " ".join(result.stderr.split())
    assert {path: path.read_bytes() for path in (album / "album").iterdir()} == before


@pytest.mark.parametrize(
    "words, message",
    [
        ("localize PICTURE --checkpoint none.safetensors", "checkpoint none.safetensors does not exist"),
        ("localize PICTURE --checkpoint CHECKPOINT --class 3", "there is no class 3: small_vgg, gap has 3 classes"),
        ("localize PICTURE --backbone resnet0 --weights w", "unknown backbone 'resnet0'"),
        ("localize PICTURE --backbone resnet18 --weights none.safetensors", "weights file none.safetensors does not"),
        ("localize PICTURE --checkpoint CHECKPOINT --out /dev/null/out", "[Errno 20] Not a directory: '/dev/null/"),
        ("tune-heads eagles --rates gap=1", "unknown dataset of profile 'sample' 'eagles'"),
        ("tune-heads birds --rates gup=1", "unknown pooling 'gup'"),
        ("tune-heads birds --rates gap=fast", "could not convert string to float: 'fast'"),
        ("tune-heads birds --rates gap", ""),
    ],
)
def test_what_is_not_there_is_one_line(album, checkpoint, words, message):
    places = {"CHECKPOINT": checkpoint, "PICTURE": str(album / "album" / "a.png")}
    result = CliRunner().invoke(commands.main, [places.get(word, word) for word in words.split()])
    assert result.exit_code == 1 and result.stderr.startswith(f"Error: {message}") and result.stderr.count("\n") == 1
