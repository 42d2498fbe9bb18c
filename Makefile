# Every target sets up what it needs. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# quick or full
PRESET ?= quick
# auto, real or embedded
DATA ?= auto
# names of experiments; empty for all
ONLY ?=
RUNS ?= runs
MODELS ?= models
# what is served, measured and run: those of MODELS; the released ones where there are none, unless MODELS was asked for
REPOSITORY = $(if $(wildcard $(MODELS)/*)$(filter-out file,$(origin MODELS)),$(MODELS),deploy/models)
INPUT ?=
OUTPUT ?= video-out
FLAGS ?=
# container engine, images and their tag
ENGINE ?= docker
TARGETS ?= serving-cpu serving-gpu training video video-ray
TAG ?= 0.1.0
KUBECTL := .tools/kubectl

.DEFAULT_GOAL := help
.PHONY: help demo test image lint format protos conformance-clients constraints train-all export release-models report serve bench fuzz video bench-video soak-video clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  Variables: PRESET=quick|full  DATA=auto|real|embedded  ONLY="name name"  RUNS=folder  MODELS=folder'
	@echo '  serve, bench and video take the models of models/, or the released ones where there are none of your own.'
	@echo '  SPARSEWALK_DATA=folder names the real data; without it they are downloaded, or embedded stand-ins are used.'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"Python 3.11 to 3.13 is needed. Received: {sys.version.split()[0]}. Set PYTHON=python3.12, say.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[serving,tracing,training,demo,video,ray,dev]'
	@touch $@

demo: $(READY) ## Train, export, serve and ask: the whole product in one go, with pictures in demo/
	$(BIN)/python -m training train-all --preset quick --data $(DATA) --only "pedestrian_unet mnist_k_sparse" \
	  --runs demo/runs
	$(BIN)/python -m training export --runs demo/runs --models demo/models
	$(BIN)/python -m training samples pedestrian_unet mnist_k_sparse --runs demo/runs --output demo/samples
	$(BIN)/python -m serving.demo --models demo/models --samples demo/samples --output demo

# Apart, since the service's TensorFlow messages and TensorFlow's own have the same names, and a process holds one of each.
test: $(READY) $(KUBECTL) ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/serving
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/contract tests/training
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/deploy

# For the tests of deploy/; where it cannot be had they take the kubectl of the PATH.
$(KUBECTL): deploy/tools/kubectl.py | $(READY)
	-@$(BIN)/python deploy/tools/kubectl.py $@

image: ## Build the container images (ENGINE=docker|podman|buildah, TARGETS="serving-cpu ...", TAG=...)
	@for target in $(TARGETS); do \
	  $(ENGINE) build --file deploy/Dockerfile --target $$target --tag sparsewalk/$$target:$(TAG) \
	    --build-arg VERSION=$(TAG) --build-arg REVISION=$$(git rev-parse HEAD) . || exit 1; \
	done

lint: $(READY) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(READY) ## Generate serving/pb from protos/
	$(BIN)/python -m grpc_tools.protoc -Iserving/pb=protos --python_out=. --pyi_out=. --grpc_python_out=. \
	  $$(find protos -name '*.proto' | sort)

conformance-clients: .venv-tritonclient/.ready ## Install the stock Triton client, for its conformance tests

# In an environment of its own: it wants an older protobuf than the service.
.venv-tritonclient/.ready:
	$(PYTHON) -m venv .venv-tritonclient
	.venv-tritonclient/bin/pip install --quiet --disable-pip-version-check 'tritonclient[grpc]==2.73.0'
	@touch $@

constraints: $(READY) ## Write constraints.txt from what is installed
	@{ head -1 constraints.txt; $(BIN)/pip freeze --exclude-editable | grep -E '^[A-Za-z0-9_.-]+=='; } > constraints.new
	@mv constraints.new constraints.txt

train-all: $(READY) ## Train every encoder into runs/
	$(BIN)/python -m training train-all --preset $(PRESET) --data $(DATA) --only "$(ONLY)" --runs $(RUNS)

export: $(READY) ## Export every trained encoder into models/
	$(BIN)/python -m training export --only "$(ONLY)" --runs $(RUNS) --models $(MODELS)

release-models: $(READY) ## Train and export the models that come with the project, into deploy/models (hours)
	$(BIN)/python -m training release --only "$(ONLY)" --runs $(RUNS) --output deploy/models

report: $(READY) ## Compare all trained encoders on one page, report.html
	$(BIN)/python -m training report --runs $(RUNS) --output report.html

serve: $(READY) ## Serve the models over gRPC
	$(BIN)/python -m serving --model-repository $(REPOSITORY)

bench: $(READY) ## Measure the service beside raw ONNX Runtime and a bare gRPC handler, into bench/
	@mkdir -p bench
	$(BIN)/python tests/benchmarks/serving --models $(REPOSITORY) --json bench/bench.json --plot bench/bench.png

fuzz: $(READY) ## Send the service a hundred thousand messages that no client would send
	$(BIN)/python tests/serving/fuzz --messages 100000

video: $(READY) ## Segment INPUT="videos" into OUTPUT
	$(BIN)/python -m serving.video $(INPUT) --output $(OUTPUT) --model-repository $(REPOSITORY) $(FLAGS)

bench-video: $(READY) ## Measure the video job beside decoding and inference alone, on INPUT
	$(BIN)/python -m tests.benchmarks.video throughput $(INPUT) --models $(REPOSITORY)

soak-video: $(READY) ## Watch the video job's memory over an hour of INPUT, looped
	$(BIN)/python -m tests.benchmarks.video memory $(INPUT) --models $(REPOSITORY)

clean: ## Remove the environment and caches; runs and models stay
	rm -rf $(VENV) .venv-tritonclient .tools *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
