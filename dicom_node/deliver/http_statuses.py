"""What the status code of an HTTP answer means for a request that did not succeed (RFC 9110)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dicom_node.deliver.http import Answer
from dicom_node.errors import DeliveryRejected, DestinationUnavailable

_REJECTED: Final = {
    400: "it does not understand the request",
    401: "it does not accept our credentials; check basic_auth_file or bearer_token_file, or set "
    "one of them",
    403: "it does not allow us to do this; give our user, token or certificate the right to store "
    "and to query",
    405: "it does not offer this service here; check url",
    406: "it answers neither in DICOM JSON nor in DICOM XML",
    407: "a proxy before it wants credentials",
    409: "it stored nothing, and does not say why",
    411: "it wants another way of sending; look into its log",
    413: "it does not take a request of this size; raise its limit",
    415: "it does not take multipart/related with application/dicom; does url name a DICOMweb "
    "service?",
    422: "it cannot process what was sent",
    501: "it does not offer this service; check url",
}
_TRY_AGAIN: Final = {
    404: "there is no such service; check url",
    408: "it gave up waiting for our request",
    429: "it has too many requests",
    500: "it failed",
    502: "a proxy cannot reach it",
    503: "it is not available now",
    504: "a proxy got no answer from it in time",
}
_WEB_PAGES: Final = ("text/html", "application/xhtml+xml")
_FOR_GOOD: Final = (301, 308)
# Answers to which one object of several may have led.
_BLAME_CONTENT: Final = (400, 409, 413, 415, 422, 500)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request as a whole did not succeed.

    Attributes
    ----------
    blames_content
        Whether the same request with other objects may succeed.
    """

    error: DestinationUnavailable | DeliveryRejected
    blames_content: bool = False


def judge_refusal(name: str, answer: Answer) -> Refusal:
    """Sort an answer that is no success.

    Parameters
    ----------
    name
        The destination, as the sentence begins.
    """
    status = answer.status
    begin = f"{name} answers HTTP {status}"
    blames_content = status in _BLAME_CONTENT
    if 300 <= status < 400:
        place = f" to {answer.elsewhere}" if answer.elsewhere else ""
        sentence = f"{begin}: it redirects{place}, which is not followed; correct url"
        if status in _FOR_GOOD:
            return Refusal(DeliveryRejected(sentence))
        return Refusal(DestinationUnavailable(sentence, wait=answer.wait))
    if status in _REJECTED:
        return Refusal(DeliveryRejected(f"{begin}: {_REJECTED[status]}"), blames_content)
    if status in _TRY_AGAIN or status >= 500:
        words = _TRY_AGAIN.get(status, "it failed")
        return Refusal(
            DestinationUnavailable(f"{begin}: {words}", wait=answer.wait), blames_content
        )
    return Refusal(DeliveryRejected(f"{begin}, which is no answer that we know"))


def judge_page(name: str, answer: Answer) -> Refusal | None:
    """Tell a web page from an answer: a proxy, a login form or a portal shows one with any status.

    Returns
    -------
    Refusal or None
        None: it is none.
    """
    if answer.media_type not in _WEB_PAGES:
        return None
    return Refusal(
        DestinationUnavailable(
            f"{name} answers with a web page ({answer.media_type}, HTTP {answer.status}); is a "
            "proxy or a login page before it, and is url the DICOMweb service?"
        )
    )
