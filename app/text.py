"""The text that people may type into a field that others will read."""

import re

from app.errors import Invalid

# Characters that show nothing, spaces aside: Unicode's Default_Ignorable_Code_Point, the blank Braille pattern and the
# marks of interlinear annotations. Control characters are not among them: CSS has them shown as a box.
INVISIBLE = "".join(
    f"{first}-{last}"
    for first, last in (
        ("\u00ad", "\u00ad"), ("\u034f", "\u034f"), ("\u061c", "\u061c"), ("\u115f", "\u1160"), ("\u17b4", "\u17b5"),
        ("\u180b", "\u180f"), ("\u200b", "\u200f"), ("\u202a", "\u202e"), ("\u2060", "\u206f"), ("\u2800", "\u2800"),
        ("\u3164", "\u3164"), ("\ufe00", "\ufe0f"), ("\ufeff", "\ufeff"), ("\uffa0", "\uffa0"), ("\ufff0", "\ufffb"),
        ("\U0001bca0", "\U0001bca3"), ("\U0001d173", "\U0001d17a"), ("\U000e0000", "\U000e0fff"),
    )
)  # fmt: skip
_VISIBLE = re.compile(rf"[^\s{INVISIBLE}]")
_NEVER = re.compile(r"[\0\ud800-\udfff]")  # MongoDB takes no NUL in a pattern, UTF-8 no lone surrogate; JSON has both


MENTION = re.compile(r"(?<![\w/])@([A-Za-z0-9_]{1,30})(?!\w)")


def mentions(text: str) -> list[str]:
    """Return the handles that a text names, in lower case, each once: as `@Ann` or `(@ann)`, not as `me@ann` or
    `/@ann`.
    """
    return list(dict.fromkeys(handle.lower() for handle in MENTION.findall(text)))


def storable(text: str) -> bool:
    return not _NEVER.search(text)


def checked(field: str, text: str, longest: int) -> str:
    """Return the text, trimmed, if it has at most so many code points and something of it is
    visible. Raises Invalid.
    """
    trimmed = text.strip()
    if not trimmed:
        raise Invalid(field, f"Write something, at most {longest:,} characters.")
    if len(trimmed) > longest:
        raise Invalid(field, f"At most {longest:,} characters.")
    if not storable(trimmed):
        raise Invalid(field, "No NUL character and no lone surrogate.")
    if not _VISIBLE.search(trimmed):
        raise Invalid(field, "At least one character that can be seen.")
    return trimmed
