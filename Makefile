# Every target installs what it needs first. `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/vae-lightning
RUNS ?= $(sort runs/digits $(wildcard runs/mnist_static runs/mnist runs/mnist_grey runs/cifar10))
STAMP := .venv/.installed
WORKERS := --numprocesses logical --maxprocesses 4 --dist worksteal
LIKELIHOODS := gaussian gaussian_optimal discretized_logistic discretized_logistic_mixture categorical
BLUR := $(addsuffix -standard_normal,$(LIKELIHOODS)) gaussian-gaussian_mixture discretized_logistic-gaussian_mixture

CHAIN := vae clip prior decoder
DIGITS := "a thick left-slanted seven" "a thin upright three" "a right-slanted nine"
PHOTOS := "a bright warm photo of a horse" "a dark cool photo of a ship" "a photo of a frog"

.PHONY: help install demo rd blur results text2image text2image-digits text2image-cifar10 text2image-emoji codec test test-full bench docs lint format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP) ## Create .venv with the project and its tools

demo: $(STAMP) ## Train and test a VAE on scikit-learn's digits in about a minute, pictures and numbers in runs/digits
	$(RUN) fit --config configs/experiment/digits.yaml
	$(RUN) sample --ckpt_path runs/digits
	$(RUN) reconstruct --ckpt_path runs/digits
	$(RUN) test --ckpt_path runs/digits

rd: $(STAMP) ## Trace the digits' rate-distortion curve over beta (minutes), in runs/rd; goes on where it was stopped
	$(RUN) sweep-rd --config configs/experiment/digits.yaml

blur: $(STAMP) ## Train the digits with five likelihoods and two priors and compare how sharp they come out (15 minutes), in runs/blur
	for run in $(BLUR); do \
	  test -f runs/blur/$$run/results.json && continue; \
	  $(RUN) fit --config configs/experiment/digits.yaml --config configs/likelihood/$${run%-*}.yaml \
	    --config configs/prior/$${run#*-}.yaml --run.experiment blur --run.name $$run || exit 1; \
	  $(RUN) test --ckpt_path runs/blur/$$run || exit 1; \
	done
	$(RUN) compare $(addprefix runs/blur/,$(BLUR))

results: $(STAMP) ## Train a row of docs/results.md and test it, ROW=mnist_static_mlp K=5000 FLAGS=..., in runs/results; goes on where it was stopped
	@test -f "configs/experiment/$(ROW).yaml" || { echo "expected ROW=NAME of configs/experiment/NAME.yaml, got '$(ROW)'"; exit 1; }
	set -e; run=runs/results/$(ROW); \
	if ! test -f $$run/finished; then \
	  if test -f $$run/checkpoints/last.ckpt; then $(RUN) fit --ckpt_path $$run; \
	  else rm -rf $$run; $(RUN) fit -c configs/experiment/$(ROW).yaml --run.experiment results --run.name $(ROW) $(FLAGS); fi; \
	  touch $$run/finished; \
	fi; \
	$(RUN) test --ckpt_path $$run $(if $(K),--model.evaluation.samples $(K))

text2image: $(STAMP) ## Train the text-to-image chain on captioned MNIST in runs/text2image_mnist (32 minutes of a quiet core); goes on where it was stopped
text2image-digits: $(STAMP) ## The same on the 8x8 digits (two minutes), in runs/text2image_digits
text2image-cifar10: $(STAMP) ## The same on captioned CIFAR-10 (for a GPU), in runs/text2image_cifar10
text2image text2image-digits text2image-cifar10:
	set -e; data=$(if $(filter text2image,$@),mnist,$(@:text2image-%=%)); runs=runs/text2image_$$data; \
	for stage in $(CHAIN); do \
	  test -f $$runs/$$stage/finished && continue; \
	  if test -f $$runs/$$stage/checkpoints/last.ckpt; then $(RUN) fit --ckpt_path $$runs/$$stage; \
	  else rm -rf $$runs/$$stage; $(RUN) fit -c configs/text2image/$$data/$$stage.yaml; fi; \
	  touch $$runs/$$stage/finished; \
	done; \
	$(RUN) generate $(if $(filter %-cifar10,$@),$(PHOTOS),$(DIGITS)) -n 8 --ckpt_path $$runs/decoder

text2image-emoji: $(STAMP) ## The same on emoji, EMOJI=DIR that holds images/ and captions.csv, in runs/text2image_emoji (two hours of one core)
	@test -f "$(EMOJI)/captions.csv" || { echo "expected EMOJI=DIR with images/ and captions.csv: unpack emoji-64.tar.gz"; exit 1; }
	set -e; runs=runs/text2image_emoji; \
	for stage in $(CHAIN); do \
	  test -f $$runs/$$stage/finished && continue; \
	  if test -f $$runs/$$stage/checkpoints/last.ckpt; then $(RUN) fit --ckpt_path $$runs/$$stage; \
	  else rm -rf $$runs/$$stage; $(RUN) fit -c configs/text2image/emoji/data.yaml -c configs/text2image/emoji/$$stage.yaml \
	    --data.source.folder.path "$(EMOJI)/images"; fi; \
	  touch $$runs/$$stage/finished; \
	done; \
	$(RUN) generate "woman firefighter: medium-dark skin tone" "judge: dark skin tone" -n 8 --nearest --ckpt_path $$runs/decoder

codec: $(STAMP) ## Compress the test images of the digits and what is trained of docs/compression.md, or of RUNS="runs/a runs/b"
	@test -d runs/digits || $(RUN) fit --config configs/experiment/digits.yaml
	$(BIN)/python -m benchmarks.coder
	$(BIN)/python -m benchmarks.codec $(RUNS)

test: $(STAMP) ## Run the tests (minutes; the slow ones are left out)
	$(BIN)/python -m pytest $(WORKERS)

test-full: $(STAMP) ## Run all tests, the slow ones too
	$(BIN)/python -m pytest $(WORKERS) -m ''

bench: $(STAMP) ## Measure speed against a hand-written loop and the machine's limits (30 minutes); results in benchmarks/results
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.likelihood
	$(BIN)/python -m benchmarks.sampling
	$(BIN)/python -m benchmarks.embeddings
	$(BIN)/python -m benchmarks.train mlp
	$(BIN)/python -m benchmarks.train conv
	$(BIN)/python -m benchmarks.scale

docs: $(STAMP) ## Build the documentation as pages, build/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo build/docs/index.html

lint: $(STAMP) ## Check format, style, import contract and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(STAMP) ## Bring the code into format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove .venv and caches; runs and data stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .import_linter_cache build *.egg-info
