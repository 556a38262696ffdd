"""Drawing on the Secondary Capture: one look, one font, text that fits.

The font is Pillow's own (Aileron, CC0), so that the same text gives the same pixels everywhere.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from functools import cache

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

WIDTH, HEIGHT = 1024, 768
BACKGROUND: Colour = (9, 11, 14)
PANEL: Colour = (22, 26, 32)
LINE: Colour = (58, 66, 77)
TEXT: Colour = (236, 239, 242)
MUTED: Colour = (158, 168, 180)
BANNER: Colour = (122, 16, 24)
WARNING: Colour = (255, 176, 32)
CALM: Colour = (118, 190, 214)
BLACK: Colour = (0, 0, 0)

BANNER_TEXT = "RESEARCH USE ONLY - NOT FOR DIAGNOSIS"
BANNER_HEIGHT = 46
FREE_END = round(0.15 * WIDTH)
"""Viewers write their own overlays into the corners: nothing of ours lies there."""

_BANNER_SIZE = 24
_BOLD = 0.6
_LINE_SPACING = 1.28
_LAST_LATIN = 0x17F


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font in a size in pixels."""
    loaded = ImageFont.load_default(size)
    assert isinstance(loaded, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return loaded


def latin(text: str) -> str:
    """Keep what the font can draw: Latin letters; anything else becomes its base or `?`."""
    kept = []
    for letter in text.replace("\u2013", "-").replace("\u2014", "-").replace("\u2265", ">="):
        if letter.isspace():
            kept.append(" ")
        elif letter.isprintable() and ord(letter) <= _LAST_LATIN:
            kept.append(letter)
        else:
            base = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
            kept.append(base or "?")
    return "".join(kept)


def wrapped(text: str, size: int, width: int, *, most: int) -> list[str]:
    """Break a text into at most `most` lines of `width` pixels; a cut ends in an ellipsis."""
    lines, line = [], ""
    for word in _pieces(latin(text), size, width):
        longer = f"{line} {word}".strip()
        if font(size).getlength(longer) <= width or not line:
            line = longer
        else:
            lines.append(line)
            line = word
    lines.append(line)
    if len(lines) > most:
        lines = lines[:most]
        lines[-1] = _fitted(lines[-1] + "...", size, width)
    return lines


def _pieces(text: str, size: int, width: int) -> list[str]:
    """Words, those that are wider than a line cut into parts."""
    pieces = []
    for word in text.split():
        part = ""
        for letter in word:
            if font(size).getlength(part + letter) > width:
                pieces.append(part)
                part = ""
            part += letter
        pieces.append(part)
    return pieces


def _fitted(text: str, size: int, width: int) -> str:
    body = text.removesuffix("...")
    while body and font(size).getlength(body + "...") > width:
        body = body[:-1]
    return body.rstrip() + "..."


def fitted(text: str, size: int, width: int) -> str:
    """Return a text that fits into `width` pixels on one line, cut with an ellipsis if need be."""
    text = latin(text)
    return text if font(size).getlength(text) <= width else _fitted(text, size, width)


@dataclass(slots=True)
class Canvas:
    """The picture under construction: 1024 x 768 RGB."""

    image: Image.Image = field(
        default_factory=lambda: Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    )

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        """Pillow's drawing tools for the picture."""
        return ImageDraw.Draw(self.image)

    def text(
        self,
        at: tuple[float, float],
        text: str,
        size: int,
        colour: Colour = TEXT,
        *,
        bold: bool = False,
        anchor: str = "la",
    ) -> None:
        """Write one line; `anchor` as Pillow has it ("la": left, ascender)."""
        self.draw.text(
            at,
            latin(text),
            fill=colour,
            font=font(size),
            anchor=anchor,
            stroke_width=_BOLD if bold else 0,
            stroke_fill=colour,
        )

    def paragraph(
        self,
        at: tuple[int, int],
        text: str,
        size: int,
        width: int,
        colour: Colour = TEXT,
        *,
        most: int = 4,
    ) -> int:
        """Write wrapped lines; returns the y below them."""
        left, top = at
        for line in wrapped(text, size, width, most=most):
            self.text((left, top), line, size, colour)
            top += round(size * _LINE_SPACING)
        return top

    def banners(self) -> None:
        """Write the warning above and below, centred, the corners left free."""
        for top in (0, HEIGHT - BANNER_HEIGHT):
            self.draw.rectangle(
                (FREE_END, top, WIDTH - FREE_END - 1, top + BANNER_HEIGHT - 1), fill=BANNER
            )
            middle = (WIDTH / 2, top + BANNER_HEIGHT / 2)
            self.text(middle, BANNER_TEXT, _BANNER_SIZE, (255, 255, 255), bold=True, anchor="mm")
