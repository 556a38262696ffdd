"""Before an object is sent: whether its stored bytes are still the bytes that were built."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path

import structlog

from dicom_node.deliver.settle import Settler
from dicom_node.errors import short_uid
from dicom_node.store.deliveries import Delivery
from dicom_node.store.files import StoreUnavailable, stored, waiting_for_the_disk

_log = structlog.get_logger()


def damage_of(store_dir: Path, delivery: Delivery) -> str | None:
    """Say what is wrong with a delivery's stored bytes, or None.

    Raises
    ------
    StoreUnavailable
        They cannot be read now: the disk fails, or the store is not mounted.
    """
    path = stored(store_dir, delivery.path)
    if path is None:
        return "its row names a file outside of the store"
    try:
        with waiting_for_the_disk(), path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        if not store_dir.is_dir() or not any(store_dir.iterdir()):
            raise StoreUnavailable("store: it is empty; is it mounted?") from None
        return "its file is missing"
    except OSError as error:
        return f"its file cannot be read ({type(error).__name__})"
    return None if digest == delivery.sha256 else "its file is not the bytes that were built"


def leave_out_damaged(
    settler: Settler, store_dir: Path, batch: Sequence[Delivery]
) -> list[Delivery]:
    """Settle what must not be sent; returns the others.

    What nobody was ever sent is built again, with everything else of its job; what may be in an
    archive is parked.
    """
    intact: list[Delivery] = []
    built_again: set[int] = set()
    for delivery in batch:
        if delivery.job_id in built_again:
            continue
        try:
            damage = damage_of(store_dir, delivery)
        except StoreUnavailable as error:
            with settler.begin() as settling:
                settling.postponed(delivery, str(error))
            continue
        if damage is None:
            intact.append(delivery)
            continue
        with settler.begin() as settling:
            again = settling.damaged(delivery, damage, store_dir=store_dir)
        if again:
            built_again.add(delivery.job_id)
        _log.error(
            "stored result damaged, not sent",
            action="result_damaged",
            job=delivery.job_id,
            destination=delivery.destination,
            instance=short_uid(delivery.sop_instance_uid),
            error=damage,
            built_again=again,
        )
    return [delivery for delivery in intact if delivery.job_id not in built_again]
