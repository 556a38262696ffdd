"""Text of a data set in whatever character set it came (PS3.3 C.12.1.1.2, PS3.5 section 6.1).

pydicom decodes what the standard allows. Added here: Simplified Chinese in ISO 2022 IR 58 and
Korean in ISO 2022 IR 149 whose escape sequences are sparse, ISO_IR 203, misspelt terms, and
text without a (true) character set, where nothing may turn into a replacement character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydicom.charset import convert_encodings, decode_bytes, default_encoding, python_encoding

from dicom_node.errors import BadInput

UTF8 = "ISO_IR 192"
"""Every result object is written in it; each of the other repertoires is a part of it."""

_REPLACEMENT = "\ufffd"
_UNDECLARED = ("", "ISO_IR 6", "ISO 2022 IR 6")
_ONE_WIDE_G1_SET = {"ISO 2022 IR 58": "gb18030", "ISO 2022 IR 149": "cp949"}
_LATIN_9 = {"ISO_IR 203", "ISO 2022 IR 203"}
_TERM = re.compile(r"ISO[ _-]*(2022[ _-]*)?IR[ _-]*(\d+)")
_ESCAPE_SEQUENCE = re.compile(r"\x1b[\x20-\x2f]+[\x30-\x7e]")
_ESCAPE_BYTES = re.compile(rb"(\x1b[\x20-\x2f]+[\x30-\x7e])")
_TO_LATIN_9 = b"\x1b-b"
_NAME_DELIMITERS = {0x5C, 0x5E, 0x3D}
_TEXT_DELIMITERS = {0x5C, 0x09, 0x0A, 0x0C, 0x0D}


def defined_terms(value: Sequence[str]) -> tuple[str, ...]:
    """Spell the values of Specific Character Set (0008,0005) as the standard does."""
    return tuple(_spelt(str(term)) for term in value) or ("",)


def _spelt(term: str) -> str:
    term = term.strip(" \0").upper()
    match = _TERM.fullmatch(term)
    if match is None:
        return term
    return f"ISO 2022 IR {match[2]}" if match[1] else f"ISO_IR {match[2]}"


def decode_text(raw: bytes, terms: tuple[str, ...], *, person_name: bool = False) -> str:
    """Decode a text value; its padding is cut off, its backslashes are kept.

    Parameters
    ----------
    raw
        The value as encoded.
    terms
        What `defined_terms` returned.

    Raises
    ------
    BadInput
        The text is not ASCII and its character set is not one of DICOM's.
    """
    raw = raw.rstrip(b" \0")
    if raw.isascii() and b"\x1b" not in raw:
        # JIS X 0201 alone puts other signs (yen, overline) at two ASCII positions; every system
        # shows them as backslash and tilde, and 5CH stays the delimiter (PS3.5 section 6.1.2.5.3).
        return raw.decode("ascii")
    if all(term in _UNDECLARED for term in terms) and b"\x1b" not in raw:
        return _guessed(raw)
    unknown = [term for term in terms if term not in python_encoding and term not in _LATIN_9]
    if unknown:
        raise BadInput(
            "SpecificCharacterSet (0008,0005) names a character set that DICOM does not have, and "
            "the data set holds letters beyond ASCII; correct the attribute and send it again"
        )
    text = _decoded(raw, terms, _NAME_DELIMITERS if person_name else _TEXT_DELIMITERS)
    return _guessed(raw) if _REPLACEMENT in text else _ESCAPE_SEQUENCE.sub("", text)


def _decoded(raw: bytes, terms: tuple[str, ...], delimiters: set[int]) -> str:
    if _LATIN_9.intersection(terms):
        return _with_latin_9(raw, terms, delimiters)
    return _decoded_by_pydicom(raw, terms, delimiters)


def _with_latin_9(raw: bytes, terms: tuple[str, ...], delimiters: set[int]) -> str:
    """Decode what pydicom does not know; with code extensions it lies beside others in one text.

    A delimiter brings the first set back (PS3.5 section 6.1.2.5.3), except inside of a set of two
    bytes a letter in G0, where it is half of a letter.
    """
    others = tuple("ISO 2022 IR 6" if term in _LATIN_9 else term for term in terms)
    initial = latin = terms[0] in _LATIN_9
    pieces = [b"", *_ESCAPE_BYTES.split(raw)]
    text = ""
    for escape, segment in zip(pieces[::2], pieces[1::2], strict=True):
        if escape == _TO_LATIN_9:
            latin = True
        elif escape[1:2] in (b"-", b")") or escape[1:3] == b"$)":
            latin = False  # another set in G1
        two_bytes = escape[1:3] in (b"$B", b"$@", b"$(")
        end = len(segment)
        if not two_bytes:
            end = next((i for i, byte in enumerate(segment) if byte in delimiters), end)
        head, tail = segment[:end], segment[end:]
        if latin and not two_bytes:
            text += head.decode("iso8859_15")
        else:
            text += _decoded_by_pydicom(escape + head, others, delimiters)
        if tail:
            latin = initial
            text += (
                tail.decode("iso8859_15")
                if latin
                else _decoded_by_pydicom(tail, others, delimiters)
            )
    return text


def _decoded_by_pydicom(raw: bytes, terms: tuple[str, ...], delimiters: set[int]) -> str:
    if len(terms) == 2 and terms[0] in _UNDECLARED and terms[1] in _ONE_WIDE_G1_SET:
        # Only one set can lie in G1, so bytes from 80H on need no escape sequence to be understood.
        return raw.decode(_ONE_WIDE_G1_SET[terms[1]], errors="replace")
    encodings = convert_encodings(list(terms))
    if len(encodings) > 1 and default_encoding not in encodings:
        # ESC ( B, back to ASCII, may follow any set.
        encodings = [*encodings, default_encoding]
    return decode_bytes(raw, encodings, delimiters)


def _guessed(raw: bytes) -> str:
    """Text whose declared character set is missing or wrong: UTF-8 if it can be, else Latin-1,
    under which every byte is a letter and none is lost."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
