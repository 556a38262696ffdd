"""Why no connection to a destination could be made, in words for the person who mends it."""

from __future__ import annotations

import socket
import ssl

from dicom_node.tls_failures import explain_failure


def why_no_connection(name: str, failure: OSError, *, limit_seconds: float, tls: bool) -> str:
    """Say what failed and what to check.

    Parameters
    ----------
    name
        The destination, as the sentence begins.
    limit_seconds
        How long it had for accepting the connection.
    """
    if isinstance(failure, socket.gaierror):
        return f"{name}: the host name cannot be resolved; correct the host"
    if isinstance(failure, ConnectionRefusedError):
        return f"{name} refused the connection; is it running, and is the port right?"
    if isinstance(failure, TimeoutError):
        return f"{name} did not answer within {limit_seconds:g} s; check host, port and firewall"
    if tls and isinstance(failure, ssl.SSLError | ConnectionResetError):
        explained = explain_failure(failure)
        return f"{name}: {explained.found}; {explained.remedy}"
    return f"{name} cannot be reached ({failure.strerror}); check host, port and network"
