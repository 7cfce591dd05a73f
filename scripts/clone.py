"""``lungtune clone`` by file: ``python scripts/clone.py --help``."""

from lungtune import commands

if __name__ == "__main__":
    commands.run("clone")
