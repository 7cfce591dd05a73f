"""``lungtune ui`` by file: ``python scripts/ui.py --help``."""

from lungtune import commands

if __name__ == "__main__":
    commands.run("ui")
