"""`python -m training list|fit|evaluate|export|all [NAME ...]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from training.data import Splits, data_dir, load
from training.recipes import RECIPES
from training.recipes.base import Recipe

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    """Run one command for the named recipes, or for all of them."""
    options = _parser().parse_args(arguments)
    if options.command == "list":
        for recipe in RECIPES.values():
            print(f"{recipe.name}: {recipe.labels.title} ({recipe.data_set})")
        return 0
    unknown = sorted(set(options.names) - set(RECIPES))
    if unknown:
        print(f"no such recipe: {', '.join(unknown)}; there are {', '.join(RECIPES)}")
        return 2
    reports = []
    for name in options.names or list(RECIPES):
        recipe = RECIPES[name]
        splits = load(recipe, options.data)
        report = _run(options, recipe, splits)
        if report is not None:
            reports.append(report)
    if reports:
        print(json.dumps(reports, indent=2) if options.json else _summary(reports))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("command", choices=["list", "fit", "evaluate", "export", "all"])
    parser.add_argument("names", nargs="*", help="recipes; default: all")
    parser.add_argument("--data", type=Path, default=data_dir(), help="folder of the data sets")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="model folders")
    parser.add_argument("--runs", type=Path, default=ROOT / "var" / "training", help="trained nets")
    parser.add_argument("--json", action="store_true", help="print evaluations as JSON")
    return parser


def _run(options: argparse.Namespace, recipe: Recipe, splits: Splits) -> dict[str, Any] | None:
    # Only the command that needs them pays for importing the training and export libraries.
    if options.command in {"fit", "all"}:
        from training.fit import fit

        fit(recipe, splits, options.runs / recipe.name)
    if options.command in {"export", "all"}:
        from training.export import export

        return export(recipe, splits, options.runs / recipe.name, options.models / recipe.name)
    if options.command == "evaluate":
        from training.evaluate import evaluate

        return evaluate(recipe, splits, options.models / recipe.name)
    return None


def _summary(reports: list[dict[str, Any]]) -> str:
    lines = []
    for report in reports:
        for split in ("validation", "test", "test_strict"):
            auc = report[split]["auc"]
            low, high = auc["confidence_interval"]
            lines.append(
                f"{report['model']} {split}: AUC {auc['value']:.4f} ({low:.4f} to {high:.4f}), "
                f"accuracy {report[split]['accuracy']['value']:.4f}, n {report[split]['n']}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
