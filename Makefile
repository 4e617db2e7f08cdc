# Every check of the project, one target each. CI (.ci/run) calls these same targets.
# The tools are looked up on the PATH: activate the virtual environment first, or `make PATH=.venv/bin:$PATH ...`.

.DEFAULT_GOAL := help
.PHONY: help check format lint types doctest docs test slow resolve zoo sizes lock demo

help:           ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

check: lint types doctest test  ## what has to pass before a change is handed in

format:         ## rewrite the code as the linter and the formatter want it
	ruff check --fix .
	ruff format .

lint:           ## style, docstrings, format, and which room may import which
	ruff check .
	ruff format --check .
	lint-imports

types:          ## mypy, over the package, the tests, the benchmarks and the tools
	mypy

doctest:        ## the examples in the Python API's docstrings; seconds
	pytest -n 0 -q --doctest-modules ncbatch/api

docs:           ## the site, into site/; needs the extra docs and no network, and fails on any warning
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

test:           ## the tests; a quarter of an hour and more on two cores
	pytest --durations=15

slow:           ## the tests that take half a minute and more each
	pytest -m slow --durations=10

resolve:        ## whether all dependencies can be installed together on each supported Python
	.ci/pythons --resolve

zoo:            ## the tests that compare with CompressAI, in an environment of their own with older releases
	zoo=$$(mktemp -d) && trap 'rm -rf "$$zoo"' EXIT && uv venv --quiet --python "$$(command -v python)" "$$zoo/venv" \
	&& uv pip install --quiet --python "$$zoo/venv/bin/python" -e '.[dev,zoo]' \
	&& "$$zoo/venv/bin/pytest" tests/codec/test_transforms.py tests/codec/test_checkpoint.py \
	    tests/codec/test_rates.py tests/training tests/report/test_bd_rate.py tests/metrics

sizes:          ## the largest file and the longest function of each room; fails where one is due to be split
	python tools/sizes.py

lock:           ## pins what the images of infra/docker hold; Ray's version is in requirements.in there
	uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate \
	    --upgrade -o infra/docker/requirements.lock infra/docker/requirements.in pyproject.toml

demo:           ## the README's demonstration, in a folder that is deleted afterwards
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && ncbatch demo "$$folder"
