"""What `check` says of a DICOMweb destination: there, known to it, credentials well kept."""

from __future__ import annotations

from collections.abc import Iterator

from dicom_node.cli.check_tls import destination_certificates, exposed
from dicom_node.cli.verdict import Verdict
from dicom_node.config_destinations import DicomwebConfig
from dicom_node.config_network import ClientTlsConfig
from dicom_node.config_values import is_loopback
from dicom_node.errors import NodeError


def dicomweb(name: str, peer: DicomwebConfig) -> Iterator[Verdict]:
    """Query for one study: STOW-RS itself cannot be tried without storing something."""
    from dicom_node.deliver.qido import try_query

    secret = peer.basic_auth_file or peer.bearer_token_file
    if secret is not None and not peer.is_encrypted and not is_loopback(peer.host):
        found = f"{name}: credentials travel unencrypted to {peer.url}"
        yield Verdict("destination", "warning", found, "use an https url")
    try:
        no_queries = try_query(peer)
    except NodeError as error:
        yield Verdict("destination", "failed", f"{name}: {error}", f"check {peer.url}")
        return
    if no_queries is None:
        yield Verdict("destination", "ok", f"{name}: {peer.url} answers QIDO-RS")
    elif peer.confirm == "query":
        yield Verdict("destination", "failed", f"{name}: {no_queries}", "set confirm: status")
    else:
        mend = "nothing, if it is there to store alone: that cannot be tried without storing"
        yield Verdict("destination", "warning", f"{name}: {no_queries}", mend)
    if secret is not None:
        yield from exposed("credentials", f"destinations.{name}", secret)
    if peer.is_encrypted:
        tls = peer.tls or ClientTlsConfig()
        yield from destination_certificates(name, peer.model_copy(update={"tls": tls}))
