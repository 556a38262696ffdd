"""What our side was about to send when the peer ended the association."""

from __future__ import annotations

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.fsm import InvalidEventError, StateMachine
from pynetdicom.pdu_primitives import A_ABORT, A_RELEASE, P_DATA

from dicom_node.dimse import PatientStateMachine

# Event of PS3.8 table 9-10, and what is in the queue then.
LATE = {"Evt9": P_DATA, "Evt11": A_RELEASE, "Evt15": A_ABORT}


@pytest.mark.parametrize("event", LATE)
@pytest.mark.parametrize("state", ["Sta1", "Sta13"])
def test_what_comes_too_late_is_dropped_with_its_primitive(event: str, state: str) -> None:
    provider = Association(AE(), "requestor").dul
    machine = PatientStateMachine(provider)
    machine.current_state = state
    provider.to_provider_queue.put(LATE[event]())
    machine.do_action(event)
    assert machine.current_state == state
    assert provider.to_provider_queue.empty()


def test_what_the_peer_does_out_of_order_takes_nothing_of_ours() -> None:
    provider = Association(AE(), "requestor").dul
    machine = PatientStateMachine(provider)
    provider.to_provider_queue.put(A_ABORT())
    machine.do_action("Evt17")
    assert not provider.to_provider_queue.empty()


def test_the_library_alone_would_end_its_thread() -> None:
    provider = Association(AE(), "requestor").dul
    with pytest.raises(InvalidEventError):
        StateMachine(provider).do_action("Evt9")
