"""``lungtune synthesize`` by file: ``python scripts/synthesize.py --help``."""

from lungtune import commands

if __name__ == "__main__":
    commands.run("synthesize")
