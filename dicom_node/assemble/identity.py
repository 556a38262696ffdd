"""Whose image it is, as digests that tell patients apart; no text of the patient leaves here.

Texts are compared decoded: one patient's name has other bytes in another Specific Character Set.
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256

from pydicom import Dataset
from pydicom.dataelem import RawDataElement

from dicom_node.charset import decode_text, defined_terms
from dicom_node.errors import BadInput

IDENTITY = ("PatientID", "IssuerOfPatientID", "PatientBirthDate")
NAME = "PatientName"
_NAME_GROUPS = 3
_NO_NAME = "-"


def identity_digest(dataset: Dataset) -> str:
    """SHA-256 of Patient ID, Issuer of Patient ID and birth date."""
    texts = (decoded_text(dataset, keyword) for keyword in IDENTITY)
    return sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()


def name_digests(dataset: Dataset) -> str:
    """Digests of the name's groups: alphabetic, ideographic and phonetic (PS3.5 section 6.2.1).

    Family and given name count, not how systems write them: neither case, accents and punctuation
    nor middle names, titles and suffixes.

    Returns
    -------
    str
        Three words, `-` for a group without a name.
    """
    groups = decoded_text(dataset, NAME).split("=")[:_NAME_GROUPS]
    groups += [""] * (_NAME_GROUPS - len(groups))
    return " ".join(_digest_of_name(group) for group in groups)


def _digest_of_name(group: str) -> str:
    plain = "".join(map(_plain, unicodedata.normalize("NFKC", "".join(group.split("^")[:2]))))
    letters = re.sub(r"[\W_]", "", plain.casefold())
    return sha256(letters.encode(errors="surrogatepass")).hexdigest()[:16] if letters else _NO_NAME


def _plain(letter: str) -> str:
    """Take the accent off a Latin letter; in other scripts such marks make other letters."""
    latin = "LATIN" in unicodedata.name(letter, "")
    return unicodedata.normalize("NFKD", letter)[0] if latin else letter


def decoded_text(dataset: Dataset, keyword: str) -> str:
    """Decode a text attribute, however its character set is declared; empty if it is absent."""
    raw = dataset.get_item(keyword)
    if not isinstance(raw, RawDataElement):  # absent, or somebody asked for it before
        return "" if raw is None else str(raw.value or "").strip()
    value = raw.value or b""
    try:
        stated = dataset.get("SpecificCharacterSet") or ()
        terms = defined_terms([stated] if isinstance(stated, str) else list(stated))
        return decode_text(value, terms, person_name=keyword == NAME).strip()
    except (BadInput, ValueError, LookupError, TypeError, AttributeError):
        return value.decode("latin-1").strip()  # no result will carry it; to compare, it will do
