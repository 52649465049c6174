# make train | make test: each sets up everything it needs. PYTHON=python3.12 picks another Python.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: train test lint prune backtest audit sweep leaderboard notebooks bench

train: $(VENV)/ready
	$(BIN)/python -m forecast.train $(ARGS)

backtest: $(VENV)/ready  # 2010 to 2022, every network beside every baseline
	$(BIN)/python -m forecast.backtest experiment=headline $(ARGS)

audit: $(VENV)/ready
	$(BIN)/python -m forecast.audit $(ARGS)

sweep: $(VENV)/ready  # 24 architectures, two seeds each, a process per core
	$(BIN)/python -m forecast.train -m sweep=architectures hydra/launcher=joblib $(ARGS)

leaderboard: $(VENV)/ready
	$(BIN)/python -m forecast.leaderboard $(ARGS)

notebooks: $(VENV)/ready  # execute all and keep their outputs; needs a Chromium for the pictures
	$(BIN)/python notebooks/execute.py $(ARGS)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)  # networks so small that threads only wait

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

prune: $(VENV)/ready  # remove unfinished run folders
	$(BIN)/python -c "from forecast.run import prune_runs; print(*prune_runs(), sep='\n')"

bench: $(VENV)/ready  # speed beside plain torch and, with ARGS="--peers-python … --peers …", other libraries
	$(BIN)/python benchmarks/compare.py $(ARGS)
	$(BIN)/python benchmarks/profile_run.py
	$(BIN)/python benchmarks/gpu.py

bench-%: $(VENV)/ready  # one of the others: make bench-scale ARGS=--big
	$(BIN)/python benchmarks/$*.py $(ARGS)

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
