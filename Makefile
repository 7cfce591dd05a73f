UV = .uv/bin/uv

.PHONY: setup test slow lint coverage

setup:     # the environment in .venv, and the hooks of git
	pip install --upgrade --target .uv uv
	$(UV) sync
	$(UV) run pre-commit install

test:      # all but the slow tests
	$(UV) run pytest -n 2

slow:      # the slow tests, minutes each
	$(UV) run pytest -m slow

lint:      # ruff, format, layers and types
	$(UV) run ruff check .
	$(UV) run ruff format --check .
	$(UV) run lint-imports
	$(UV) run mypy

coverage:  # the tests again, with the share of lines they run
	$(UV) run pytest -n 2 --cov=lungtune --cov=trainables --cov-report=term:skip-covered
