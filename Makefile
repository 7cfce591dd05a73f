.PHONY: setup test slow lint coverage

setup:     # the environment in .venv, and the hooks of git
	uv sync
	uv run pre-commit install

test:      # all but the slow tests
	uv run pytest

slow:      # the slow tests, minutes each
	uv run pytest -m slow

lint:      # ruff, format and layers
	uv run ruff check .
	uv run ruff format --check .
	uv run lint-imports

coverage:  # the tests again, with the share of lines they run
	uv run pytest --cov=lungtune --cov=trainables --cov-report=term:skip-covered
