"""Where the figures of an epoch go besides the run folder: TensorBoard, MLflow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from dicom_node.errors import BadInput


class Log(Protocol):
    """Takes the figures of epochs, one after the other."""

    def __call__(self, figures: Mapping[str, float], epoch: int) -> None:
        """Keep the figures of one epoch."""


def check_logs(names: Sequence[str]) -> None:
    """Refuse a log that is not known, or whose package is not installed.

    Raises
    ------
    BadInput
        With what can be named, or what to install.
    """
    for name in names:
        if name not in _OPENED:
            raise BadInput(f"there is no log {name!r}; there are {', '.join(_OPENED)}")
        if find_spec(name) is None:
            raise BadInput(
                f"log {name!r} needs a package that is not installed: pip install {name}"
            )


@contextmanager
def open_logs(names: Sequence[str], run: Path) -> Iterator[list[Log]]:
    """Open logs for a run folder, and close them when its training ends.

    `tensorboard` writes to `run/tensorboard`; `mlflow` to `MLFLOW_TRACKING_URI`, without it to
    the SQLite database `run/mlflow.db`, as an experiment of the run's name.

    Raises
    ------
    BadInput
        See `check_logs`; or MLflow's server does not take the run.
    """
    check_logs(names)
    with ExitStack() as stack:
        yield [stack.enter_context(_OPENED[name](run)) for name in names]


@contextmanager
def _tensorboard(run: Path) -> Iterator[Log]:
    writer: Any = import_module("torch.utils.tensorboard").SummaryWriter(run / "tensorboard")

    def log(figures: Mapping[str, float], epoch: int) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    try:
        yield log
    finally:
        writer.close()


@contextmanager
def _mlflow(run: Path) -> Iterator[Log]:
    mlflow: Any = import_module("mlflow")
    # A database, for MLflow 3 refuses folders.
    own = f"sqlite:///{(run / 'mlflow.db').absolute()}"
    place = os.environ.get("MLFLOW_TRACKING_URI") or own
    try:
        client = mlflow.MlflowClient(tracking_uri=place)
        known = client.get_experiment_by_name(run.name)
        experiment = known.experiment_id if known else client.create_experiment(run.name)
        key = client.create_run(experiment, run_name=run.name).info.run_id
    except mlflow.exceptions.MlflowException as error:
        raise BadInput(f"MLflow cannot be written to: {error}") from error

    def log(figures: Mapping[str, float], epoch: int) -> None:
        for name, value in figures.items():
            client.log_metric(key, name, value, step=epoch)

    ending = "FAILED"
    try:
        yield log
        ending = "FINISHED"
    finally:
        client.set_terminated(key, ending)


_OPENED: dict[str, Callable[[Path], Any]] = {"tensorboard": _tensorboard, "mlflow": _mlflow}
