"""`make reproduce`: the notebooks along their road, each executed again only when something it depends on has changed.

    doit run DATASET=cub PROFILE=light DATA_ROOT=… WEIGHTS=… RESULTS=…

A notebook depends on its own text, on the modules that it imports and that these import in turn, on its parameters and
on the notebook before it, and what it wrote must still be what it wrote. Content counts, not dates. One run at a time
writes to a folder.
"""

import os
import sys
import time
from pathlib import Path

from doit.exceptions import TaskFailed
from doit.tools import config_changed

ROOT = Path(__file__).resolve().parent
ROAD = {  # notebook -> what it writes for a data set; * for each pooling, and for each file of a folder
    "01_dataset_preparation": ["annotations.csv", "skipped.csv"],
    "02_finetune_wgap": ["seed{seed}/networks.csv", "seed{seed}/history.csv", "seed{seed}/*.safetensors"],
    "03_cam_recombination": [
        "seed{seed}/recombination.csv", "seed{seed}/recombination.npz", "seed{seed}/predictions_*/*.npy",
        "seed{seed}/channels.csv", "seed{seed}/features.csv",
    ],
    "04_threshold_selection": [
        "seed{seed}/thresholds.csv", "seed{seed}/thresholds.npz", "seed{seed}/failures.csv", "seed{seed}/levels.csv",
        "seed{seed}/conventions.csv", "seed{seed}/protocols.csv", "seed{seed}/max_box_acc.csv",
    ],
    "05_tables": ["metrics.csv", "table.csv", "table.md", "seeds.csv", "differences.csv", "contributions.csv"],
    "06_figures": ["fig2.png", "fig3.png", "fig4.png"],
}  # fmt: skip
LISTS = ("images.txt", "LOC_val_solution.csv", "wnids.txt")  # of the data set's own folder

os.chdir(ROOT)
os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads sleep, so that they do not slow a busy machine

GIVEN = {name.lower(): value for name, _, value in (word.partition("=") for word in sys.argv[1:]) if value}
GIVEN = {name: value for name, value in GIVEN.items() if not name.startswith("-")}  # doit's own options
DATASET = GIVEN.pop("dataset", "")
PROFILE = GIVEN.get("profile", "sample")
DATASETS = [DATASET] if DATASET else ["things", "birds"] if PROFILE == "sample" else []


def configurations() -> list:
    """Check the values of the run for each of its data sets, before anything starts."""
    from wsol_utils.experiment import experiments

    if PROFILE in experiments.PROFILES and not DATASETS:
        sys.exit(f"PROFILE={PROFILE} needs DATASET=cub, ilsvrc or tiny_imagenet")
    try:
        return [experiments.configure(dataset, **GIVEN) for dataset in DATASETS or [""]]
    except ValueError as error:
        sys.exit(str(error))


CONFIGS = configurations()
FOLDER = CONFIGS[0].folder.parent
DOIT_CONFIG = {"dep_file": str(FOLDER / ".doit.json"), "backend": "record", "verbosity": 2, "reporter": "error-only"}


def taken(folder: Path):
    """Lock the folder for as long as this process lives, and clear away what killed runs left half-written."""
    from filelock import FileLock, Timeout

    from wsol_utils.common import files

    lock = FileLock(folder / ".lock")
    try:
        with files.explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
            files.sweep(folder)
    except Timeout:
        sys.exit(f"another run is writing to {CONFIGS[0].show(folder)}: wait for it, or name another folder by RESULTS")
    except OSError as error:
        sys.exit(str(error))
    return lock


LOCK = taken(FOLDER)


def run_notebook(name: str, target: Path, parameters: dict) -> TaskFailed | None:
    """Run one notebook, and print a line with the time that it took."""
    from wsol_utils.runner import execute

    line, start = f"{name:<24} {parameters.get('dataset', ''):<14}", time.perf_counter()
    watched = sys.stderr.isatty()  # papermill's bar bears the line until it goes
    print("" if watched else line, end="", flush=True)
    try:
        (target.parents[1] / "manifest.json").unlink(missing_ok=True)  # it says that a run is complete
        execute.execute(ROOT / "notebooks" / f"{name}.ipynb", target, parameters, bar=line)
    except (execute.Failed, OSError) as error:
        print(f"{line if watched else ''}failed")
        return TaskFailed(f"{name}.ipynb, {error}")
    print(f"{line if watched else ''}{time.perf_counter() - start:6.0f} s")
    return None


def finish(config) -> TaskFailed | None:
    """Write the manifest, last of all, and print how the run compares with what we measured."""
    from wsol_utils.runner import manifest

    try:
        manifest.write(config, GIVEN)
    except OSError as error:
        return TaskFailed(str(error))
    print(manifest.summary(config))
    return None


def reported() -> TaskFailed | None:
    """Write the report of every finished run of the profile."""
    from wsol_utils.runner import report

    try:
        report.write(FOLDER)
    except Exception as error:  # whatever it is: the figures are there
        why = " ".join(str(error).split()) or type(error).__name__
        return TaskFailed(f"the run is complete, but its report could not be made: {why}")
    return None


def as_written(folder: Path, patterns: list[str]):
    """Make doit's test whether a task's files are as it wrote them: if one was lost or changed, the task runs again."""

    def found() -> dict[str, str]:
        from wsol_utils.common import files

        paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
        return {path.relative_to(folder).as_posix(): files.sha256(path) for path in sorted(paths)}

    def unchanged(task, values: dict) -> bool:
        task.value_savers.append(lambda: {"wrote": found()})
        return values.get("wrote") == found()

    return unchanged


def task_overview():
    """00, the map: once for a profile."""
    return _task("00_overview", FOLDER, [], [], {}, [])


def task_notebooks():
    """01 to 06, for every data set in turn."""
    from wsol_utils.experiment import experiments
    from wsol_utils.network import method

    for config in CONFIGS:
        paths = [*(config.root / name for name in LISTS), experiments.absolute(config.weights or ".")]
        inputs = [] if PROFILE == "sample" else [path for path in paths if path.is_file()]
        methods = [method.source(method.get(name)) for name in config.methods]  # which no module imports by name
        for name, files in ROAD.items():
            written = [path for file in files for path in dict.fromkeys(file.format(seed=s) for s in config.seeds)]
            named = [path.replace("/*.npy", "/scaled_maps.npy") for path in written]  # one stands for its folder
            products = [path.replace("*", config.poolings[0]) for path in named]  # others there may be
            parameters = {"dataset": config.dataset} | GIVEN
            task = _task(name, config.folder, written, products, parameters, [*inputs, *methods])
            yield {"name": f"{config.dataset}:{name}"} | task
            inputs = [config.folder / path for path in products]


def task_manifest():
    """The manifest of each data set."""
    for config in CONFIGS:
        last = config.folder / "notebooks" / f"{list(ROAD)[-1]}.ipynb"
        yield {
            "name": config.dataset,
            "actions": [(finish, [config])],
            "file_dep": [str(last)],
            "uptodate": [as_written(config.folder, ["manifest.json"])],
            "targets": [str(config.folder / "manifest.json")],
        }


def task_report():
    """index.html: the data sets of this run, and those that were finished before."""
    finished = {config.folder / "manifest.json" for config in CONFIGS} | set(FOLDER.glob("*/manifest.json"))
    overview, template = FOLDER / "notebooks" / "00_overview.ipynb", ROOT / "wsol_utils" / "runner" / "report.html.j2"
    return {
        "actions": [reported],
        "file_dep": [str(path) for path in [*sorted(finished), overview, template]],
        "uptodate": [as_written(FOLDER, ["index.html", "notebooks/*.html", "*/notebooks/*.html"])],
        "targets": [str(FOLDER / "index.html")],
    }


def task_where():
    """The last line: where the report is."""

    def show() -> None:  # doit takes no built-in
        print(f"report: {CONFIGS[0].show(FOLDER / 'index.html')}")

    return {"actions": [show], "task_dep": ["report"], "uptodate": [False]}


def _task(name: str, folder: Path, written: list[str], products: list[str], parameters: dict, inputs: list) -> dict:
    from wsol_utils import PLACES
    from wsol_utils.common import imports

    executed = f"notebooks/{name}.ipynb"
    modules = imports.of_notebook(ROOT / executed, PLACES)
    return {
        "actions": [(run_notebook, [name, folder / executed, parameters])],
        "file_dep": [str(path) for path in [ROOT / executed, *modules, *inputs]],
        "uptodate": [
            config_changed({key: str(value) for key, value in parameters.items()}),
            as_written(folder, [executed, *written]),
        ],
        "targets": [str(folder / path) for path in [executed, *products]],
    }
