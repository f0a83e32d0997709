# Two commands do everything: `make demo` and `make test`. Each first sets up .venv if needed.

PYTHON ?= python3
BIN := .venv/bin
DEMO := demo

PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo explore test test-slow test-all lint types clean

demo: .venv/ready
	$(BIN)/python scripts/synthetic_mimic.py --output $(DEMO)/mimic --films 400
	$(BIN)/python scripts/embed.py --config configs/demo.py \
		--input $(DEMO)/mimic/files --config.input.views=AP,PA --output $(DEMO)/embeddings
	rm -rf $(DEMO)/head
	$(BIN)/python scripts/train_head.py \
		--embeddings $(DEMO)/embeddings \
		--labels $(DEMO)/mimic/mimic-cxr-2.0.0-chexpert.csv.gz \
		--config.labels.split_path=$(DEMO)/mimic/mimic-cxr-2.0.0-split.csv.gz \
		--findings 'No Finding,Lung Opacity' --config.labels.not_mentioned=negative \
		--output $(DEMO)/head
	$(BIN)/python scripts/neighbours.py --embeddings $(DEMO)/embeddings \
		--labels $(DEMO)/mimic/mimic-cxr-2.0.0-chexpert.csv.gz \
		--input $(DEMO)/mimic/files --output $(DEMO)/neighbours.png
	@echo
	@echo "To see these films on a page, label some and train a classifier: make explore"

explore: .venv/ready
	$(BIN)/python scripts/explore.py --embeddings $(DEMO)/embeddings --films $(DEMO)/mimic/files \
		--weights demo --findings 'Lung Opacity,Cardiomegaly' --output $(DEMO)/explored

test: .venv/ready
	$(PYTEST) -m 'not slow'

test-slow: .venv/ready
	$(PYTEST) -m slow

test-all: .venv/ready
	$(PYTEST)

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/ready
	$(BIN)/python -m mypy

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv $(DEMO)
