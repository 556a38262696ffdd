"""Run a campaign: python -m tests.faults.fuzz TARGET [--runs N] [--seconds S] [--seed N] [--keep]

TARGET is header, decode, rules, settings or associations. What is found is printed, and with --keep
minimised into the corpus of the regression tests.
"""

from __future__ import annotations

import argparse
import logging
import signal
import tempfile
import warnings
from pathlib import Path

from tests.faults.fuzz import associations
from tests.faults.fuzz.loop import _too_long, campaign, keep, minimised
from tests.faults.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=[*TARGETS, "associations"])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.target == "associations":
        print(associations.campaign(options.runs, options.seconds, options.seed))
        return
    report = campaign(options.target, runs=options.runs, seconds=options.seconds, seed=options.seed)
    print(
        f"{options.target}: {report.runs} runs, {report.lines} lines reached, corpus of "
        f"{report.corpus}, grown by {report.grown_kb} kB, {len(report.found)} kinds of failure"
    )
    signal.signal(signal.SIGALRM, _too_long)
    warnings.simplefilter("ignore")
    logging.disable()
    for failure, content in report.found.items():
        print(f"  {failure}: {len(content)} bytes")
        if options.keep and not failure.startswith("process ended"):
            with tempfile.TemporaryDirectory() as folder:
                content = minimised(options.target, content, failure, Path(folder))
        if options.keep:
            print(f"    {keep(options.target, content, CORPUS)}")


if __name__ == "__main__":
    main()
