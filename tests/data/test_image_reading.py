"""What becomes of the pixels of an image file, whatever its mode: scaled to 8 bits, or named in one sentence."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dna_hf.data.errors import DataError
from dna_hf.data.image_reading import image_mode, read_image, read_image_file
from dna_hf.models.image_processing_dna_video_llama3 import read_image as read_image_of_video_llm


GREY = np.array([[0, 1, 255, 256], [9000, 32768, 50000, 65535]], dtype=np.uint16)
UPPER = np.array([[0, 0, 0, 1], [35, 128, 195, 255]], dtype=np.uint8)
UNIT = np.array([[0.0, 0.002, 0.25, 1.0]], dtype=np.float32)


def pgm(values):
    rows, columns = values.shape
    return f"P5 {columns} {rows} 65535\n".encode() + values.astype(">u2").tobytes()


def tiff_big_endian(values):
    """A TIFF of 16 bits in the byte order that Pillow opens as "I;16B", written by hand."""
    rows, columns = values.shape
    fields = {256: columns, 257: rows, 258: 16, 259: 1, 262: 1, 273: 200, 277: 1, 278: rows, 279: values.size * 2}
    head = b"MM\x00*" + (8).to_bytes(4, "big") + len(fields).to_bytes(2, "big")
    for tag, value in fields.items():
        head += tag.to_bytes(2, "big") + (4).to_bytes(2, "big") + (1).to_bytes(4, "big") + value.to_bytes(4, "big")
    return (head + bytes(4)).ljust(200, b"\0") + values.astype(">u2").tobytes()


def encoded(values, ending):
    file = io.BytesIO()
    Image.fromarray(values).save(file, ending)
    return file.getvalue()


# name of the file -> its bytes, the mode that Pillow opens it with, and its grey values in 8 bits
DEEP = {
    "grey16.png": (encoded(GREY, "PNG"), "I;16", UPPER),
    "grey16.tif": (encoded(GREY, "TIFF"), "I;16", UPPER),
    "big_endian.tif": (tiff_big_endian(GREY), "I;16B", UPPER),
    "grey16.pgm": (pgm(GREY), "I", UPPER),
    "int32.tif": (encoded(GREY.astype(np.int32), "TIFF"), "I", UPPER),
    "black.tif": (encoded(np.zeros((1, 4), np.int32), "TIFF"), "I", np.zeros((1, 4), np.uint8)),
    "float.tif": (encoded(UNIT, "TIFF"), "F", np.array([[0, 1, 64, 255]], dtype=np.uint8)),
}
RANGELESS = {
    "over.tif": (np.array([[0.0, 1.5]], np.float32), r"from 0 to 1\.5, of which only those in \[0, 1\]"),
    "below.tif": (np.array([[-0.1, 1.0]], np.float32), r"from -0\.1 to 1"),
    "nan.tif": (np.array([[0.5, np.nan]], np.float32), "from nan to nan"),
    "infinite.tif": (np.array([[0.5, np.inf]], np.float32), "from 0.5 to inf"),
    "bytes in floats.tif": (np.array([[0.0, 255.0]], np.float32), "from 0 to 255"),
    "wide.tif": (np.array([[0, 65536]], np.int32), "32 bits from 0 to 65536, of which only 0 to 65,535"),
    "negative.tif": (np.array([[-1, 5]], np.int32), "32 bits from -1 to 5"),
    "bytes in words.tif": (np.array([[0, 200]], np.int32), "up to 200 in 32 bits, and as 16 bits it would be black"),
}


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_are_scaled_by_their_range(name, write):
    content, mode, grey = DEEP[name]
    path = write(name, content)
    with Image.open(path) as opened:
        assert opened.mode == mode
    assert np.array_equal(read_image_file(path, "L"), grey)
    assert np.array_equal(read_image_file(path), np.stack([grey] * 3, axis=-1))
    assert np.array_equal(np.asarray(read_image_file(path, "RGBA"))[..., 3], np.full(grey.shape, 255))
    assert np.array_equal(read_image({"bytes": content, "path": None}, "in row 3", "L"), grey)
    # as a file and as an opened image
    assert np.array_equal(read_image_of_video_llm(str(path)), np.stack([grey] * 3, axis=-1))
    with Image.open(path) as opened:
        assert np.array_equal(read_image_of_video_llm(opened), grey)


@pytest.mark.parametrize("name", RANGELESS)
def test_numbers_without_a_known_range_are_named(name, write):
    values, sentence = RANGELESS[name]
    path = write(name, encoded(values, "TIFF"))
    with pytest.raises(DataError, match=rf"^cannot read image .*{name}: it holds .*{sentence}.*\.$"):
        read_image_file(path)
    with pytest.raises(ValueError, match=rf"^cannot read image .*{name}': it holds .*{sentence}"):
        read_image_of_video_llm(str(path))


def test_a_row_of_a_table_is_named_by_its_number():
    source = {"bytes": encoded(RANGELESS["wide.tif"][0], "TIFF"), "path": None}
    with pytest.raises(DataError, match="^cannot read image in row 3 of split 'test': it holds"):
        read_image(source, "in row 3 of split 'test'")


def test_colours_of_16_bits_come_in_8(write):
    """Pillow reads them so by itself."""
    header = b"P6 2 1 65535\n"
    path = write("colour.ppm", header + np.array([9000, 50000, 65535, 0, 256, 255], dtype=">u2").tobytes())
    assert np.abs(np.asarray(read_image_file(path)).astype(int) - [[[35, 195, 255], [0, 1, 0]]]).max() <= 1


def test_16_bits_are_turned_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GREY).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image_file(tmp_path / "turned.png", "L"), np.rot90(UPPER, -1))
    assert read_image_of_video_llm(str(tmp_path / "turned.png")).size == (2, 4)


# -- channels and transparency


CLEAR = (200, 100, 50, 0)


@pytest.mark.parametrize(
    "mode, colour, rgb",
    [
        ("1", 1, (255, 255, 255)),
        ("L", 7, (7, 7, 7)),
        ("LA", (200, 0), (200, 200, 200)),
        ("RGBA", CLEAR, CLEAR[:3]),
        ("CMYK", (0, 255, 0, 0), (255, 0, 255)),
    ],
)
def test_what_lies_beneath_transparency_is_kept(mode, colour, rgb, tmp_path):
    """As in torchvision's ImageFolder and in transformers' pipelines, which both call `convert("RGB")`."""
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (2, 1), colour).save(path)
    assert read_image_file(path).getpixel((0, 0)) == rgb


def test_the_transparent_colour_of_a_palette_is_that_of_its_entry(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.png", transparency=1)
    assert [read_image_file(tmp_path / "a.png").getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (40, 50, 60)]
    assert read_image_file(tmp_path / "a.png", "RGBA").getpixel((1, 0)) == (40, 50, 60, 0)


@pytest.mark.parametrize("count, mode", [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_images_of_so_many_channels(count, mode, tmp_path):
    Image.new("RGBA", (2, 1), CLEAR).save(tmp_path / "a.png")
    picture = read_image_file(tmp_path / "a.png", image_mode(count))
    assert (picture.mode, len(picture.getbands())) == (mode, count)


@pytest.mark.parametrize("count", [2, 5])
def test_other_channels_are_refused(count):
    with pytest.raises(DataError, match=f"num_channels is {count}: set it to one of these"):
        image_mode(count)


def test_common_formats_are_tried_first():
    """However Pillow is asked for its endings: else each image is opened by a dozen readers that refuse it."""
    script = (
        "from dna_hf.data.files import image_suffixes; from PIL import Image; image_suffixes();"
        "at = Image.ID.index; print(max(at('JPEG'), at('PNG')) < min(at('BLP'), at('PCX'), at('TGA')))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "True", result.stderr
