# make figures    every figure, from the tables that come with the repository, each checked against the features it was made from
# make results    the same, but first runs every experiment of a profile: make results PROFILE=quick (laptop is the default)
# make test       every gate, the cheap ones first
# make test-night the same with what is too large for it: full grids, 200 examples, the whole of profile quick
# make torture    kills, full disks, damaged files and other faults, two and a half hours of them; its table goes into docs/reliability.md
# All set up .venv when it is missing or older than what it is made from. Another Python: make PYTHON=python3.12 ...

PYTHON ?= python3
PROFILE ?= laptop

BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: figures results test test-night torture venv notebooks lab lock clean

results: RECOMPUTE := --recompute
figures results: $(INSTALLED)
	$(BIN)/supclust figures --profile $(PROFILE) $(RECOMPUTE)

# Everything a test writes goes into a folder of its own, so that testing leaves the committed figures alone. One pytest run for
# tests and notebooks gives one count. Progress bars are off because a notebook that shows one never gives the same output twice.
# Two processes of one thread each: whole files go to the one that is free, in this order, so that the long ones come first.
test-night: export HYPOTHESIS_PROFILE := night
test-night: SELECTED := -m ""
test test-night: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	SUPCLUST_OUT="$$out" TQDM_DISABLE=1 OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 $(BIN)/pytest $(SELECTED) \
		-n 2 --dist loadscope --no-loadscope-reorder \
		--nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg notebooks tests

# A twentieth of it, about ten minutes: make torture SHARE=.05
SHARE ?= 1
torture: $(INSTALLED)
	$(BIN)/python -m tests.torture --share $(SHARE) --write

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
		"supclust needs Python 3.11 or newer, and $(PYTHON) is %s. Name another one: make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -r requirements.lock
	$(BIN)/python -m pip install --no-deps -e .
	@touch $@

# The committed notebooks, executed anew where they are: counts 1..n, no times, no widgets.
notebooks: $(INSTALLED)
	@$(BIN)/python -c 'import logging; from supclust.report import reproduce; logging.basicConfig(format="%(message)s"); \
		logging.getLogger("supclust").setLevel("INFO"); reproduce.refresh()'

lab: $(INSTALLED)
	$(BIN)/jupyter lab notebooks

# Writes the versions of .venv down. The CUDA packages are torch's own choice on Linux; elsewhere they do not exist.
lock:
	@{ sed -n '/^#/p; /^#/!q' requirements.lock; \
		$(BIN)/python -m pip freeze --all --exclude pip --exclude supclust --exclude-editable \
		| sed -E '/^(cuda-|nvidia-|triton=)/ s/$$/ ; platform_system == "Linux"/'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

# Records, checkpoints and features of the other profiles may be hours of work: they stay.
clean:
	rm -rf $(foreach profile,smoke quick,figures/$(profile) reports/$(profile) artefacts/$(profile)) .pytest_cache .ruff_cache .hypothesis build
	find supclust tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
