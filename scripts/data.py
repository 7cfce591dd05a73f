"""Check a data source before searching on it.

  python scripts/data.py check --data chest_xray:DIR     classes, parts, duplicates, leaks, shortcuts, baselines
  python scripts/data.py check --data SOURCE --json      the same for machines
  python scripts/data.py sources                         the formats that can be read

Exit code 0: a search may start; 2: it may not.
"""

from __future__ import annotations

from lungtune import cli


def main() -> int:
    parser = cli.Parser(__doc__)
    parser.add_argument("action", choices=("check", "sources"), metavar="check|sources", help="what to do")
    parser.add_argument("--data", metavar="SOURCE[:PATH]", default="phantom", help="the data source (default: phantom)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the validation draw (default 0)")
    parser.add_argument("--folds", type=cli.positive, default=5, metavar="N", help="validation is 1/N (default 5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    from lungtune.data import report

    if args.action == "sources":
        return report.sources()
    return report.check(args.data, seed=args.seed, folds=args.folds, as_json=args.json)


if __name__ == "__main__":
    cli.run(main)
