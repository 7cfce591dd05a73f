"""``lungtune data`` by file: ``python scripts/data.py --help``."""

from lungtune import commands

if __name__ == "__main__":
    commands.run("data")
