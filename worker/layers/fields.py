"""Numbers and texts as they stand in the headers of a tar. Pure."""

from worker.layers.errors import BadLayer


def digits(text: bytes) -> int:
    """Return the number that decimal digits are.

    Raises:
        BadLayer: there is something else among them, or too many.
    """
    if not text.isdigit() or len(text) > 20:
        raise BadLayer(f"{text[:40]!r} is not a number")
    return int(text)


def text_of(field: bytes) -> bytes:
    """Return what stands before the first NUL."""
    return field.partition(b"\0")[0]


def number(field: bytes) -> int:
    """Return a header's number.

    Raises:
        BadLayer: it is none.
    """
    try:
        return int(field.rstrip(b"\0 "), 8)
    except ValueError:
        return _other_number(field)


def _other_number(field: bytes) -> int:
    """Return a number that is not just octal digits: none, cut short, or in base 256."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (len(field) * 8 - 1)) - 1)
        negative = 1 << (len(field) * 8 - 2)
        return value - (negative << 1) if value & negative else value
    text = field.strip(b" \0").partition(b"\0")[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError as exc:
        raise BadLayer(f"{field!r} is not a number in a tar header") from exc
