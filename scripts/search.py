"""``lungtune search`` by file: ``python scripts/search.py --help``."""

from lungtune import commands

if __name__ == "__main__":
    commands.run("search")
