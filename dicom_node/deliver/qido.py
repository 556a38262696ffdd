"""Asking an archive by QIDO-RS whether it has an object (PS3.18 section 10.6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from dicom_node.config_destinations import DicomwebConfig
from dicom_node.deliver.http import Answer, HttpConnection, connect
from dicom_node.deliver.http_statuses import judge_page, judge_refusal
from dicom_node.deliver.query import OnLook
from dicom_node.deliver.stow_report import first_value
from dicom_node.errors import DestinationUnavailable
from dicom_node.store.deliveries import Delivery

_SOP_INSTANCE_UID: Final = "00080018"
_ACCEPT: Final = {"Accept": "application/dicom+json"}
_NO_QUERIES: Final = (403, 405, 501)
_NO_MATCH: Final = (204, 404)  # 404: neither has it the study or series in which we look


def look_for(destination: DicomwebConfig, sought: Sequence[Delivery], on_look: OnLook) -> None:
    """Ask for each object over one connection.

    Parameters
    ----------
    on_look
        Called for each object in order with whether the archive has it.

    Raises
    ------
    DestinationUnavailable
        It could not be asked for an object; those after it have not been asked for.
    DeliveryRejected
        It offers no such query, or not to us.
    """
    with connect(destination) as connection:
        for delivery in sought:
            on_look(delivery, _has(connection, destination, delivery))


def try_query(destination: DicomwebConfig) -> str | None:
    """Query for one study, whichever, to see whether the service is there and knows us.

    Returns
    -------
    str or None
        Why it is there and lets us make no queries; None: it does.

    Raises
    ------
    DestinationUnavailable, DeliveryRejected
        It is not there or does not know us; the sentence says what to mend.
    """
    with connect(destination) as connection:
        answer = connection.ask("GET", "/studies", parameters={"limit": "1"}, headers=_ACCEPT)
    if answer.status in _NO_QUERIES:
        return str(judge_refusal(destination.url, answer).error)
    _check(destination, answer)
    return None


def _has(connection: HttpConnection, destination: DicomwebConfig, delivery: Delivery) -> bool:
    study, series = (
        quote(uid, safe="") for uid in (delivery.study_instance_uid, delivery.series_instance_uid)
    )
    answer = connection.ask(
        "GET",
        f"/studies/{study}/series/{series}/instances",
        parameters={"SOPInstanceUID": delivery.sop_instance_uid},
        headers=_ACCEPT,
    )
    if answer.status in _NO_MATCH:
        return False
    _check(destination, answer)
    if answer.body is None:
        raise DestinationUnavailable(
            f"{destination.url} answers a query for one object with everything"
        )
    try:
        matches = json.loads(answer.body)
    except (RecursionError, ValueError) as error:
        raise _unreadable(destination) from error
    if not isinstance(matches, list):
        raise _unreadable(destination)
    uids = {str(first_value(match, _SOP_INSTANCE_UID)).strip(" \0") for match in matches}
    return delivery.sop_instance_uid in uids


def _check(destination: DicomwebConfig, answer: Answer) -> None:
    """Raise for what is no answer to a query."""
    if not 200 <= answer.status < 300:
        raise judge_refusal(destination.url, answer).error
    page = judge_page(destination.url, answer)
    if page is not None:
        raise page.error


def _unreadable(destination: DicomwebConfig) -> DestinationUnavailable:
    return DestinationUnavailable(
        f"{destination.url} answers a query with something else than JSON"
    )
