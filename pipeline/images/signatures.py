"""What a file is if it is not a supported image, found by its first bytes."""

import re
from collections.abc import Collection

_HEIC = "HEIC, which needs an optional package: pip install pillow-heif"
_VIDEO = "a video, not an image: extract its frames"
_RAW = "a camera RAW file, which is not supported: convert it to JPEG or TIFF"
_ARCHIVE = "not an image but {} archive: unpack it first"
_CORRUPT = "{}, but truncated or corrupt"

# Pattern at the start of a file -> what the file is.
_BINARY: dict[bytes, str] = {
    rb"version https://git-lfs": "a Git LFS pointer, not the image: run `git lfs pull`",
    rb"%PDF": "not an image but a PDF document",
    rb"%!PS|\xc5\xd0\xd3\xc6": "not an image, or an unsupported format: PostScript (EPS)",
    rb"PK\x03\x04": _ARCHIVE.format("a ZIP"),
    rb"\x1f\x8b": _ARCHIVE.format("a gzip"),
    rb"Rar!": _ARCHIVE.format("a RAR"),
    rb"7z\xbc\xaf": _ARCHIVE.format("a 7z"),
    rb"8BPS": "a Photoshop file (PSD), which is not supported: export it as PNG or JPEG",
    rb".{128}DICM": "a DICOM file, which is not supported: convert it to 16-bit PNG",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "JPEG XL, which is not supported: convert it to JPEG or PNG",
    rb"SIMPLE  =": "a FITS file, which is not supported: convert it to 16-bit PNG or TIFF",
    rb"\x89HDF": "not an image but an HDF5 file",
    rb"\x93NUMPY": "not an image but a NumPy array: save it as PNG",
    rb"FUJIFILMCCD-RAW|IIRO|IIRS|IIU\0|....ftypcrx": _RAW,
    rb"....ftyp(hei|hev)": _HEIC,
    rb"....ftyp(avi[fs]|mi[fa]1.{4}.{0,40}avif)": _CORRUPT.format("AVIF"),
    rb"....ftyp(mif1|msf1)": _HEIC,
    rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ": _VIDEO,
    rb"RIFF....WAVE|ID3|OggS|fLaC": "not an image but a sound file",
    rb"\xff\xd8\xff": _CORRUPT.format("JPEG"),
    rb"\x89PNG": _CORRUPT.format("PNG"),
    rb"GIF8": _CORRUPT.format("GIF"),
    rb"RIFF....WEBP": _CORRUPT.format("WebP"),
    rb"II\*\0|MM\0\*|II\+\0|MM\0\+": _CORRUPT.format("TIFF, or a camera RAW file"),
    rb"\0+\Z": "only zero bytes: copy or download the file again",
}
# The same for files that are text. White space at the start is removed.
_TEXT: dict[str, str] = {
    r"<!doctype html|<html|<head": "not an image but an HTML page, often an error page: download the image again",
    r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg": (
        "an SVG drawing, which is not supported: render it as PNG"
    ),
    r"<\?xml": "not an image but an XML file",
    r"\{|\[": "not an image but a JSON file",
    r"[^\0-\x08\x0e-\x1f]*\Z": "not an image but a text file",
}
_PEEK = 1024  # bytes from the start that are compared


def describe(data: bytes, readable: Collection[str]) -> str:
    """Return what the content of an unreadable file is, with a remedy if there is one.

    Args:
        data: The content.
        readable: The formats that Pillow can open. HEIF depends on the installation.
    """
    start = data[:_PEEK]
    for pattern, kind in _BINARY.items():
        if re.match(pattern, start, re.DOTALL):
            return _CORRUPT.format("HEIC") if kind is _HEIC and "HEIF" in readable else kind
    text = start.decode("utf-8-sig", "ignore").lstrip()
    is_text = len(text.encode()) > len(start) // 2  # of binary data, most bytes are ignored above
    for text_pattern, kind in _TEXT.items():
        if is_text and re.match(text_pattern, text, re.DOTALL | re.IGNORECASE):
            return kind
    return "not an image, or an unsupported format"
