"""Tables with any bytes in them are read, or raise an error for users."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.data.conftest import png_bytes, write_parquet
from tests.data.properties import examples, folder, load

_PNG = png_bytes()

_VALID = {
    "csv": b'image,label\n1.png,"a"\n2.png,a\n3.png,b\n4.png,b\n',
    "tsv": b"image\tlabel\n1.png\ta\n2.png\ta\n3.png\tb\n4.png\tb\n",
    "jsonl": b'{"image": "1.png", "label": 1}\n{"image": "2.png", "label": 0}\n{"image": "3.png", "label": 1}\n',
    "json": b'[{"image": "1.png", "label": "a"}, {"image": "2.png", "label": null}, {"image": "3.png", "label": "b"}]',
}
_PIECES = [
    b'"',
    b"\n",
    b"\r",
    b",",
    b"\x00",
    b"\xff",
    b"\xed\xb0\x80",
    b"{",
    b"[" * 2000,
    b"1" * 5000,
    b"1e999",
    b"sep=;\n",
]
_PIECES += [
    b"\xef\xbb\xbf",
    b"x" * 300,
    b"true",
    b"null",
    b"{}",
    b"[]",
    b"-",
    b"2020-01-01",
    b'"\\ud800"',
    b"://",
    b"/",
    b"~",
]


@st.composite
def mutations(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return valid contents after a few changes: pieces are inserted, overwritten or cut."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(data)))
        piece = draw(st.sampled_from(_PIECES) | st.binary(max_size=4))
        data[start : start + draw(st.sampled_from([0, len(piece), len(piece), 1, 40, len(data)]))] = piece
    return bytes(data)


@st.composite
def damaged_tables(draw: st.DrawFn) -> tuple[str, bytes]:
    extension = draw(st.sampled_from(list(_VALID)))
    return extension, draw(mutations(_VALID[extension]) | st.binary(max_size=60))


@examples(80)
@given(damaged_tables())
def test_any_bytes_of_a_text_table_are_read_or_refused(table: tuple[str, bytes]) -> None:
    extension, contents = table
    with folder() as root:
        for number in range(1, 5):
            (root / f"{number}.png").write_bytes(_PNG)
        file = root / f"table.{extension}"
        file.write_bytes(contents)
        load(file, bad_images="skip", max_bad_images=1, min_images_per_class=1)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_parquet(tmp_path_factory.mktemp("parquet") / "valid.parquet", ["a", "b", "a", "b"]).read_bytes()


@examples(25)
@given(data=st.data())
def test_any_bytes_of_a_parquet_file_are_read_or_refused(data: st.DataObject, parquet: bytes) -> None:
    with folder() as root:
        file = root / "table.parquet"
        file.write_bytes(data.draw(mutations(parquet)))
        load(file, bad_images="skip", max_bad_images=1)
