"""``python -m lungtune``: the command ``lungtune``."""

from lungtune import commands

if __name__ == "__main__":
    commands.run()
