"""``lungtune retrain`` by file: ``python scripts/retrain.py --help``."""

from lungtune import commands

if __name__ == "__main__":
    commands.run("retrain")
