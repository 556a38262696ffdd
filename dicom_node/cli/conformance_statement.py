"""The DICOM conformance statement (PS3.2) of a node, written from what its code and settings do.

Everything that can change by code or configuration is read from there: presentation contexts,
roles, limits, reasons of refusal and the meaning of every status.
"""

from __future__ import annotations

from dicom_node import __version__
from dicom_node.charset import UTF8
from dicom_node.cli.conformance_receiving import receiving
from dicom_node.cli.conformance_sending import dicomweb, sending
from dicom_node.cli.conformance_words import table
from dicom_node.config import NodeConfig
from dicom_node.tls import CIPHERS


def conformance_statement(config: NodeConfig) -> str:
    """Markdown of the statement for one configuration."""
    parts = (
        _overview(config),
        receiving(config),
        sending(config),
        dicomweb(config),
        _security(config),
        _rest(),
    )
    return "\n\n".join(parts) + "\n"


def _overview(config: NodeConfig) -> str:
    vouches = "Yes" if config.dicom.storage_commitment else "Option"
    rows = [
        ("Storage of CR, DX and CT images, which are scored", "No", "Yes"),
        ("Storage of what stands beside them, which is kept", "No", "Yes"),
        ("Storage of Comprehensive 3D SR and Secondary Capture results", "Yes", "Yes, as above"),
        ("Verification", "Yes", "Yes"),
        ("Storage Commitment Push Model", "Option, by destination", vouches),
        ("Study Root Query/Retrieve Information Model - FIND", "Option, by destination", "No"),
        ("DICOMweb Store Transaction (STOW-RS)", "Option, by destination", "No"),
        ("DICOMweb Search Transaction (QIDO-RS)", "Option, by destination", "No"),
    ]
    return f"""# DICOM conformance statement

dicom_node {__version__} takes chest radiographs and CT series, scores them with models and sends a
Structured Report and a Secondary Capture into the same study. This statement follows PS3.2; it was
written by `dicom-node conformance` from the code and from one configuration, here that of AE title
`{config.ae_title}`. Run the command with your own configuration for the statement of your site.

## Overview

{table(("Network service", "User (SCU)", "Provider (SCP)"), rows)}

No media storage services. No Modality Worklist, MPPS, Query/Retrieve as provider or printing.

One application entity, `{config.ae_title}`, accepts associations to receive and initiates others to
send. An image is answered with success after it is durable on disk; a study is scored when it is
complete; results wait in a queue until their destination has confirmed them."""


def _security(config: NodeConfig) -> str:
    suites = [name for name in CIPHERS.split(":") if not name.startswith("@")]
    here = "off" if config.dicom.tls is None else f"on, port {config.dicom.tls.port}"
    syslog = "configured" if config.audit.syslog else "not configured"
    return f"""## Security

- DICOM TLS in both roles by the "BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile"
  (PS3.15 B.12), TLS 1.2 and 1.3. Here for receiving: {here}. Cipher suites of TLS 1.2:
  {", ".join(suites[:2])},
  {", ".join(suites[2:])}.
- User identity negotiation (PS3.7 D.3.3.7) as acceptor: user name, and user name with passcode.
- Audit messages (PS3.15 A.5) are kept in a chained trail and, where configured, sent by syslog over
  TLS (RFC 5425); here {syslog}.
- No de-identification profile: results carry the identity of their study."""


def _rest() -> str:
    return f"""## Results

Comprehensive 3D SR by TID 1500 and Secondary Capture, both with Specific Character Set {UTF8},
in new series of the source study, with UIDs derived from their content: a repeated run sends the
same UIDs. Content, codes and the repair of attributes are in `docs/results.md`.

## Character sets

Received: every Specific Character Set of PS3.3 C.12.1.1.2, and common misspellings.
Sent: {UTF8}."""
