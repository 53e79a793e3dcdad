# make reproduce   runs the notebooks on the embedded sample, both data sets (see README.md for real photographs)
# make verify      checks finished runs: their files, and their tables computed again from the predictions
# make test        the tests, and the notebooks as tests
# make notebooks   executes the committed notebooks again, in place
# make reference   measures again what results/reference/sample holds
# make benchmarks  measures speed again: notebook 08 and results/reference/benchmarks.csv
# make lab         JupyterLab
# make help        this list

PYTHON ?= python3
RESULTS ?= results
PARAMETERS := DATASET PROFILE DATA_ROOT WEIGHTS BACKBONE SEEDS POOLINGS METHODS METHOD_OPTIONS TEMPERATURE RESULTS PROCESSES \
	BATCH_SIZE PREDICTION_BATCH_SIZE ON_BAD_IMAGE \
	PROTOCOL FEATURES NORMALIZATION RESOLUTION INTERPOLATION COMPONENT BOUNDARY CANDIDATES
# of the run: those above, and whatever else is given as NAME=value
GIVEN = $(sort $(PARAMETERS) $(filter-out PYTHON VENV_PYTHON INSTALLED,$(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v))))
VENV_PYTHON := .venv/bin/python
INSTALLED := .venv/.installed

# the tests and the notebooks show no progress bars: their outputs are compared
export TQDM_DISABLE = 1

.PHONY: help reproduce verify test notebooks reference benchmarks lab clean

reproduce: $(INSTALLED)
	@$(VENV_PYTHON) -m doit --file dodo.py run $(foreach name,$(GIVEN),$(name)="$($(name))")

verify: $(INSTALLED)
	@$(VENV_PYTHON) -m wsol_utils verify "$(RESULTS)"

test: $(INSTALLED)
	$(VENV_PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests
	$(VENV_PYTHON) -m pytest --nbval notebooks

notebooks: $(INSTALLED)
	$(VENV_PYTHON) -m wsol_utils notebooks

reference: $(INSTALLED)
	$(VENV_PYTHON) -m wsol_utils reference

benchmarks: $(INSTALLED)
	$(VENV_PYTHON) -m wsol_utils benchmarks

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

lab: $(INSTALLED)
	env -u TQDM_DISABLE $(VENV_PYTHON) -m jupyter lab --notebook-dir=.

# the environment is made again when its lists of packages change
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12 …')"
	$(PYTHON) -m venv .venv || { $(PYTHON) -m venv --clear --without-pip .venv \
		&& $(PYTHON) -m pip --python $(VENV_PYTHON) install --quiet pip; }  # where Python comes without ensurepip
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	$(VENV_PYTHON) -c "import matplotlib.font_manager"  # its font cache, which it would announce within a notebook
	@touch $@

clean:
	rm -rf .venv
