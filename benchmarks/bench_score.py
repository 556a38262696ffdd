"""Time the steps from a DICOM file to a probability on this machine.

    python benchmarks/bench_score.py [--rounds 20]

Prints medians in milliseconds and the ratio of each engine to ONNX Runtime at the same batch size.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.data import get_testdata_file

from dicom_node.paths import SHIPPED_MODELS
from dicom_node.score.bundle import read_bundle
from dicom_node.score.engine import Classifier, OnnxRuntime, TorchRuntime, open_classifier
from dicom_node.score.pixels import read_frame
from dicom_node.score.study import score_files

FILES = ("RG1_UNCR.dcm", "RG1_J2KR.dcm", "RG1_J2KI.dcm", "693_UNCR.dcm", "693_J2KR.dcm")
BATCHES = (1, 16)


def median_ms(action: Callable[[], object], rounds: int) -> float:
    """Median wall-clock time of one call, after one call to warm up."""
    action()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def main() -> None:
    """Print one line a step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    bundle = read_bundle(SHIPPED_MODELS / "cxr_pneumonia")
    started = time.perf_counter()
    classifier = open_classifier(bundle, device="cpu")
    print(f"open, warm up and check golden: {(time.perf_counter() - started) * 1000:.0f} ms")
    for name in FILES:
        path = Path(str(get_testdata_file(name)))
        print(f"decode {name}: {median_ms(lambda p=path: read_frame(p), rounds):.1f} ms")
    radiograph = Path(str(get_testdata_file("RG1_UNCR.dcm")))
    frame = read_frame(radiograph)
    prepare = median_ms(lambda: classifier.pipeline.prepare(frame.shown), rounds)
    print(f"prepare {frame.shown.shape}: {prepare:.1f} ms")
    tensor = classifier.pipeline.prepare(frame.shown).tensor
    for size in BATCHES:
        batch = np.stack([tensor] * size)
        runtimes = (OnnxRuntime(bundle, 0), TorchRuntime(bundle, "cpu"))
        base = 0.0
        for runtime in runtimes:
            engine = Classifier(bundle, runtime, batch_size=size)
            spent = median_ms(lambda e=engine, b=batch: e.predict(b), rounds)
            base = base or spent
            print(
                f"predict batch {size}, {runtime.description}: {spent:.1f} ms ({spent / base:.2f}x)"
            )
    whole = median_ms(
        lambda: score_files(bundle, classifier, [radiograph], out_of_scope="mark"), rounds
    )
    print(f"file to outcome, RG1 uncompressed: {whole:.1f} ms")


if __name__ == "__main__":
    main()
