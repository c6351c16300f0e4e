# make run   set everything up and run the default workflow to its end
# make test  set everything up and pass the tests
# make images  build the container images;  make test-slurm, make test-containers  the real executors
#             (docs/guide/cluster.md)
# make test-gguf  compile llama.cpp, install MLX, and let them read the exports (minutes; not part of make test)
# make base   pre-train the embedded world's Llama again, which workflow/embedded holds (half an hour)
# make setup  the environment alone, with Snakemake's SLURM plugin where sbatch is found (elsewhere: make slurm)
# make check  linters and types;  make lock  renew envs/constraints.txt and envs/*.yaml from the current .venv

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
READY := $(VENV)/.ready
PLUGIN := $(VENV)/.slurm
PIP := $(BIN)/pip install --quiet --quiet --disable-pip-version-check --constraint envs/constraints.txt

.PHONY: run test test-gguf report base setup slurm check images test-slurm test-containers lock clean

run: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores $(CORES)

test: $(PLUGIN)
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest $(PYTEST_ARGS)

test-gguf: $(READY)
	CMAKE_ARGS=-DLLAVA_BUILD=OFF $(PIP) -r envs/gguf.txt
	$(BIN)/python -m pytest -n 0 tests/unit/exports/test_llama_cpp.py tests/unit/exports/test_mlx.py

# The page of the last run with Snakemake's own report around it: results, captions, the DAG and run times.
report: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --report results/report.html

base: $(READY)
	$(BIN)/python workflow/embedded/make.py

setup: $(READY) $(if $(shell command -v sbatch 2> /dev/null),slurm)

check: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --lint

images: $(READY)
	PYTHON="$(CURDIR)/$(BIN)/python" containers/build.sh $(FAMILIES)

# Not part of `make test`: they need root, system packages and minutes. .ci/run installs what they need.
test-slurm test-containers: test-%: $(PLUGIN)
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest --numprocesses=0 --capture=no tests/cluster/test_$*.py $(PYTEST_ARGS)

# torch comes before the rest and from its own pin, or other packages would choose another build of it.
$(READY): Makefile pyproject.toml $(wildcard envs/*.txt)
	@sh envs/prerequisites.sh $(PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -r envs/build.txt
	$(PIP) torch
	DS_BUILD_OPS=0 $(PIP) --no-build-isolation deepspeed
	$(PIP) -r envs/workflow.txt -r envs/search.txt -r envs/score.txt -r envs/train.txt -r envs/dev.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

slurm: $(PLUGIN)

$(PLUGIN): $(READY)
	$(PIP) -r envs/slurm.txt
	touch $@

lock:
	$(BIN)/python envs/lock.py

clean:
	rm -rf $(VENV) .cache .snakemake results logs
