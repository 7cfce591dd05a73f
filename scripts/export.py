"""Write a study's best trials as recipes: YAML files to read, retrain or hand on.

    python scripts/export.py --study NAME [--top K]

A recipe is a search space whose every parameter is one value, with a block that says where it came from.
"""

from pathlib import Path

from lungtune import cli


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--study", required=True, metavar="NAME", help="the study")
    parser.add_argument("--top", type=cli.positive, default=1, metavar="K", help="write the K best trials (default 1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the recipes (default: recipes/)")
    options = parser.parse_args()

    from lungtune.export import export, following

    written = export(options.study, options.top, options.out)
    print(*written, sep="\n")
    if len(written) < options.top:
        print(f"{len(written)} written: no more trials of the study have a score.")
    print("next:", "\n      ".join(following(options.study, written[0])))


if __name__ == "__main__":
    cli.run(main)
