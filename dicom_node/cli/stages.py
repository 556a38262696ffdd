"""The stages that `serve` is made of, each a process of its own."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import structlog
import typer

from dicom_node.cli.options import ConfigFile, Home, Supervised, read_config
from dicom_node.config import NodeConfig
from dicom_node.config_destinations import DestinationConfig
from dicom_node.domain.retry import RetryPolicy
from dicom_node.domain.study import CompletionPolicy
from dicom_node.errors import Transient
from dicom_node.failpoint import arm_failpoints
from dicom_node.loop import run_loop
from dicom_node.node import audit_trail, note_settings, prepare, retention_policy
from dicom_node.observe.audit import AuditEvent, StudyPart
from dicom_node.observe.logs import configure_logging
from dicom_node.process import (
    keep_files_private,
    report_ready,
    stop_on_signals,
    utc_now,
    worker_name,
)

LISTENING_SECONDS = 1.0
_log = structlog.get_logger()


def receive(home: Home = None, config: ConfigFile = None, supervised: Supervised = False) -> None:
    """Run the C-STORE SCP alone: images go to the inbox; needs no database."""
    from dicom_node.receive.scp import Receiver
    from dicom_node.store.files import make_folder

    settings = _settings(home, config, "receive")
    if settings.dicom.takes_anybody:
        _log.warning(
            "whoever reaches this port may send images: list the senders in dicom.peers",
            action="anybody_may_send",
            host=settings.dicom.host,
        )
    make_folder(settings.inbox_dir)
    trail = audit_trail(settings, "receive")
    note_settings(settings, trail)
    with stop_on_signals(supervised=supervised) as stop, trail.running():
        receiver = Receiver(settings, audit=trail)
        port = receiver.start()
        facts = {} if receiver.tls_port is None else {"dicom_tls_port": receiver.tls_port}
        report_ready(supervised=supervised, dicom_port=port, **facts)
        # A port that nobody listens at ends the process, so that it is started again.
        while receiver.is_listening() and not stop.wait(LISTENING_SECONDS):
            pass
        receiver.stop()
        if not stop.is_set():
            raise Transient("a port was lost: read `thread_died` above")


def assemble(home: Home = None, config: ConfigFile = None, supervised: Supervised = False) -> None:
    """Run assembling and routing: inbox files become studies, studies become jobs."""
    from dicom_node.assemble.worker import Assembler
    from dicom_node.route.rules import load_routes
    from dicom_node.route.worker import Router
    from dicom_node.store.pruning import Pruner

    settings = _settings(home, config, "assemble")
    routes = load_routes(settings.routes_file)
    database = prepare(settings)
    completion = settings.completion
    trail = audit_trail(settings, "assemble")
    note_settings(settings, trail)
    assembler = Assembler(
        database,
        settings.inbox_dir,
        settings.store_dir,
        CompletionPolicy(completion.after_release, completion.quiet, completion.upper_limit),
        routes.keywords(),
        utc_now,
        audit=trail,
    )
    peers = {
        name: peer.ae_title
        for name, peer in settings.peers.items()
        if isinstance(peer, DestinationConfig)
    }
    router = Router(database, routes, peers, settings.default_destinations, utc_now)

    def removed(study_instance_uid: str, size: int) -> None:
        trail.record(AuditEvent.DATA_DELETED, study=StudyPart(study_instance_uid), bytes=size)

    policy = retention_policy(settings)
    pruner = Pruner(database, settings.store_dir, policy, utc_now, on_removed=removed)

    def step() -> bool:
        # Both every time: a busy inbox must not keep complete studies from being routed.
        assembled = assembler.step()
        return router.step() or assembled

    with (
        stop_on_signals(supervised=supervised) as stop,
        _only_one(settings.inbox_dir, stop),
        trail.running(),
    ):
        report_ready(supervised=supervised, stage="assemble")
        pruning = _in_thread("retention", _every(settings.retention.interval, pruner.step), stop)
        try:
            run_loop("assemble", step, stop)
        finally:
            stop.set()
            pruning.join()


def _every(interval: timedelta, step: Callable[[], object]) -> Callable[[], bool]:
    """Make a step for a loop: at once while it finds something to do, else once an interval."""
    due = 0.0

    def paced() -> bool:
        nonlocal due
        if time.monotonic() < due:
            return False
        busy = bool(step())
        due = 0.0 if busy else time.monotonic() + interval.total_seconds()
        return busy

    return paced


@contextmanager
def _only_one(inbox_dir: Path, stop: threading.Event) -> Iterator[None]:
    """Wait until no other assembler reads this inbox; the lock ends with the process."""
    descriptor = os.open(inbox_dir / ".assembler.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        while not stop.is_set():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                stop.wait(0.5)
        yield
    finally:
        os.close(descriptor)


def score_worker(
    home: Home = None, config: ConfigFile = None, supervised: Supervised = False
) -> None:
    """Run a scorer: claims jobs, predicts, and builds the result objects."""
    from dicom_node.report.worker import Reporter
    from dicom_node.score.lean import import_monai_lean

    import_monai_lean()
    from dicom_node.guard import JobGuard, condemn_in, job_limits, volunteer_for_the_oom_killer
    from dicom_node.score.worker import Scorer
    from dicom_node.store.turns import Turns
    from dicom_node.store.unsettled import give_back, leave_note

    volunteer_for_the_oom_killer()
    settings = _settings(home, config, "score-worker")
    database = prepare(settings)
    give_back(settings.home, database, utc_now)
    worker, turns = worker_name(), Turns()
    limits = job_limits(settings.scoring)
    guard = JobGuard(limits, condemn_in(database, worker, utc_now))
    reporter = Reporter(database, settings, worker=worker, clock=utc_now, guard=guard, turns=turns)
    trail = audit_trail(settings, "score-worker")
    scorer = Scorer(
        database, settings, worker=worker, clock=utc_now, guard=guard, turns=turns, audit=trail
    )
    scorer.load_models()  # before signals are caught: until now there is nothing to drain
    for name, digest in scorer.model_digests().items():
        trail.note_digest(AuditEvent.MODEL_CHANGED, f"model {name}", digest)
    with stop_on_signals(supervised=supervised) as stop, trail.running():
        report_ready(supervised=supervised, stage="score-worker")
        reporting = _in_thread("report", reporter.step, stop)
        try:
            run_loop("score", scorer.step, stop)
        finally:
            stop.set()
            reporting.join()
            for token in (scorer.unsettled, reporter.unsettled):
                if token is not None:
                    leave_note(settings.home, token)


def deliver(home: Home = None, config: ConfigFile = None, supervised: Supervised = False) -> None:
    """Run the courier: sends what lies in the outbox until every destination has it."""
    from dicom_node.deliver.worker import Courier

    settings = _settings(home, config, "deliver")
    database = prepare(settings)
    policy = RetryPolicy(
        settings.delivery.first, settings.delivery.ceiling, settings.delivery.give_up_after
    )
    trail = audit_trail(settings, "deliver")
    courier = Courier(database, settings, policy, worker=worker_name(), clock=utc_now, audit=trail)
    with (
        stop_on_signals(supervised=supervised) as stop,
        trail.running(),
        _shipping(settings, stop),
    ):
        report_ready(supervised=supervised, stage="deliver")
        courier.run(stop)


@contextmanager
def _shipping(settings: NodeConfig, stop: threading.Event) -> Iterator[None]:
    """Ship the audit trail meanwhile, where `audit.syslog` says so."""
    if settings.audit.syslog is None:
        yield
        return
    from dicom_node.observe.audit_syslog import SyslogShipper

    shipper = SyslogShipper(settings.audit_dir, settings.audit)
    shipping = _in_thread("audit", shipper.step, stop)
    try:
        yield
    finally:
        stop.set()
        shipping.join()


def web(home: Home = None, config: ConfigFile = None, supervised: Supervised = False) -> None:
    """Run the web server: health, metrics, jobs, pages."""
    from dicom_node.web.server import serve_web

    settings = _settings(home, config, "web")
    if settings.web.is_open:
        _log.warning(
            "whoever reaches this address sees every result: there is no login; let a reverse "
            "proxy with one stand in front",
            action="web_without_login",
            host=settings.web.host,
        )
    database = prepare(settings)
    trail = audit_trail(settings, "web")
    with stop_on_signals(supervised=supervised) as stop, trail.running():
        serve_web(
            settings,
            database,
            stop,
            audit=trail,
            on_bound=lambda port: report_ready(supervised=supervised, web_port=port),
        )


def _settings(home: Path | None, config: Path | None, process: str) -> NodeConfig:
    settings = read_config(home, config)
    keep_files_private()
    configure_logging(settings.log, process)
    if arm_failpoints():
        _log.warning("failpoints are armed: this is a test", action="failpoints_armed")
    return settings


def _in_thread(name: str, step: Callable[[], bool], stop: threading.Event) -> threading.Thread:
    def work() -> None:
        try:
            run_loop(name, step, stop)
        finally:
            stop.set()  # a loop that dies takes the process with it: the supervisor starts both

    thread = threading.Thread(target=work, name=name)
    thread.start()
    return thread


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (receive, assemble, deliver, web):
        app.command(rich_help_panel="Single stages")(command)
    app.command("score-worker", rich_help_panel="Single stages")(score_worker)
