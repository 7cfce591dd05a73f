"""``lungtune pretrain`` by file: ``python scripts/pretrain.py --help``."""

from lungtune import commands

if __name__ == "__main__":
    commands.run("pretrain")
