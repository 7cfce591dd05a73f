"""``lungtune export`` by file: ``python scripts/export.py --help``."""

from lungtune import commands

if __name__ == "__main__":
    commands.run("export")
