"""An unreadable file is named by what it is, with the remedy for it."""

import re

import pytest

from pipeline.images.signatures import describe
from tests.images.hazards import encode, noise

KINDS = {
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        r"Git LFS.*: run `git lfs pull`",
    ),
    "PDF": (b"%PDF-1.4\n%%EOF", "PDF"),
    "HTML": (b"\xef\xbb\xbf\n <!DOCTYPE html><html>404</html>", "HTML page.*: download the image again"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC.*: pip install pillow-heif"),
    "HEIC by its second brand": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
    "AVIF": (b"\0\0\0\x1cftypavif\0\0\0\0mif1miaf", "AVIF, but truncated or corrupt"),
    "AVIF by its second brand": (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "AVIF, but truncated or corrupt"),
    "Canon RAW": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera RAW"),
    "MP4": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "video.*: extract its frames"),
    "WebM": (b"\x1aE\xdf\xa3\x01\0", "video"),
    "AVI": (b"RIFF\0\1\0\0AVI LIST", "video"),
    "WAV": (b"RIFF\0\1\0\0WAVEfmt ", "sound"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    "PSD": (b"8BPS\0\1", "Photoshop"),
    "DICOM": (bytes(128) + b"DICM\2\0", "DICOM.*: convert it to 16-bit PNG"),
    "ZIP": (b"PK\x03\x04\x14\0", "ZIP archive: unpack it first"),
    "NumPy": (b"\x93NUMPY\1\0", "NumPy"),
    "SVG": (b'<?xml version="1.0"?>\n<!-- Inkscape -->\n<svg xmlns="x">', "SVG.*: render it as PNG"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    "JSON": (b'{"error": "not found"}', "JSON"),
    "text": ("Büro, 图像".encode(), "text file"),
    "JPEG without its data": (encode(noise(), "JPEG")[:30], "JPEG, but truncated or corrupt"),
    "TIFF without its data": (encode(noise(), "TIFF")[:6], "TIFF, or a camera RAW file, but truncated or corrupt"),
    "zeros": (bytes(5000), "only zero bytes: copy or download the file again"),
    "random bytes": (noise().tobytes(), "not an image, or an unsupported format$"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_named(kind: str) -> None:
    data, expected = KINDS[kind]
    assert re.search(expected, describe(data, ("JPEG", "PNG", "AVIF")))


def test_a_corrupt_heic_file_needs_no_package_that_is_there() -> None:
    assert describe(KINDS["HEIC"][0], ("JPEG", "HEIF")) == "HEIC, but truncated or corrupt"
