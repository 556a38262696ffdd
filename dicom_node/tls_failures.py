"""Why a TLS handshake failed, in words for the person who has to mend it; "it" is the peer."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class TlsFailure:
    """A key for logs, what was found, and what to do."""

    reason: str
    found: str
    remedy: str


_NO_TLS: Final = TlsFailure(
    "no_tls", "it does not speak TLS on this port", "use TLS on both sides, or on neither"
)
_OLD: Final = TlsFailure(
    "old_tls", "it offers neither TLS 1.2 nor TLS 1.3", "update it, or its TLS settings"
)
_TIMEOUT: Final = TlsFailure(
    "handshake_timeout", "it did not finish the TLS handshake in time", "check that it speaks TLS"
)
_OURS_REFUSED = "our_certificate_refused"

# Reasons of OpenSSL: what this side found wrong, and alerts that tell what the other side did.
_BY_REASON: Final = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "UNEXPECTED_EOF_WHILE_READING": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "UNSUPPORTED_PROTOCOL": _OLD,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD,
    "NO_SHARED_CIPHER": TlsFailure(
        "no_common_cipher_suite",
        "it shares no cipher suite with us",
        "enable a BCP 195 profile there",
    ),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": TlsFailure(
        "no_common_cipher_suite",
        "it shares no cipher suite with us, or demands a certificate of ours",
        "enable a BCP 195 profile there; set tls.certificate_file if it demands one",
    ),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": TlsFailure(
        "no_certificate",
        "it showed no certificate",
        "give it a certificate and private key for DICOM TLS",
    ),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": TlsFailure(
        "no_certificate",
        "it demands a certificate of ours",
        "set tls.certificate_file and tls.private_key_file",
    ),
    "TLSV1_ALERT_UNKNOWN_CA": TlsFailure(
        _OURS_REFUSED,
        "it does not know the CA of our certificate",
        "register that CA there, or have our certificate signed by one that it knows",
    ),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": TlsFailure(
        _OURS_REFUSED, "it says that our certificate has expired", "have ours renewed"
    ),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": TlsFailure(
        _OURS_REFUSED, "it says that our certificate is revoked", "have ours renewed"
    ),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": TlsFailure(
        _OURS_REFUSED, "it does not accept our certificate", "look into its log"
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": TlsFailure(
        _OURS_REFUSED, "it does not accept our certificate", "look into its log"
    ),
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": TlsFailure(
        _OURS_REFUSED,
        "it says that our certificate is not for this role",
        "have ours reissued with serverAuth and clientAuth as extended key usage",
    ),
}

_UNTRUSTED: Final = TlsFailure(
    "certificate_untrusted",
    "its certificate is not signed by a CA that we trust",
    "put that CA, and intermediate ones that it does not send, into ca_file",
)
_OTHER_NAME: Final = TlsFailure(
    "certificate_of_another_name",
    "its certificate is for another host name",
    "set tls.server_name to the name in the certificate, or have it reissued",
)
# X509_V_ERR_* of OpenSSL's x509_vfy.h
_BY_VERIFY_CODE: Final = {
    9: TlsFailure(
        "certificate_not_yet_valid",
        "its certificate is not valid yet",
        "compare the clocks of both machines",
    ),
    10: TlsFailure("certificate_expired", "its certificate has expired", "have it renewed there"),
    23: TlsFailure(
        "certificate_revoked",
        "its certificate is revoked by its CA",
        "find out why; it needs a new one",
    ),
    3: TlsFailure(
        "no_revocation_list",
        "tls.crl_file holds no list of the CA of its certificate",
        "put one list of each CA into crl_file",
    ),
    12: TlsFailure(
        "revocation_list_expired",
        "the list of its CA in tls.crl_file has expired",
        "put the current list of that CA into crl_file",
    ),
    **dict.fromkeys((2, 18, 19, 20, 21, 27), _UNTRUSTED),
    26: TlsFailure(
        "certificate_for_another_purpose",
        "its certificate is not for this role",
        "have it reissued with serverAuth and clientAuth as extended key usage",
    ),
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}


def explain_failure(error: OSError) -> TlsFailure:
    """Put an error of a handshake, or of the first read after it, into words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(error.verify_code) or TlsFailure(
            "certificate_not_valid",
            f"its certificate is not valid ({error.verify_message})",
            "have it reissued there",
        )
    reason = getattr(error, "reason", None) or ""
    if reason in _BY_REASON:
        return _BY_REASON[reason]
    if isinstance(error, TimeoutError):
        return _TIMEOUT
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return _NO_TLS
    return TlsFailure(
        "tls_error",
        f"the TLS handshake failed ({reason.lower() or type(error).__name__})",
        "compare the TLS settings of both sides",
    )
