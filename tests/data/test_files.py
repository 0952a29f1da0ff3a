"""Which files of folders are images and videos: no hidden ones, none that cannot be read, and the others by name."""

import ast
import logging
import subprocess
import sys
import types

import pytest
from PIL import Image

from dna_hf.data import files
from dna_hf.data.errors import DataError
from dna_hf.data.files import image_files, is_image, look_into, media_files


@pytest.fixture
def mess(tmp_path):
    """Three images and a video among what lies around in folders."""
    for name in ("b.JPG", "a/c.png", "a/deep/d.webp", "a/.ipynb_checkpoints/c.png", "__MACOSX/._b.png", ".hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    for name in ("Thumbs.db", "report.pdf", "weights.h5", "a/clip.mp4", "a/notes"):
        (tmp_path / name).write_text("no image")
    return tmp_path


def test_images_of_a_folder_and_what_is_left_out(mess, caplog):
    with caplog.at_level(logging.WARNING):
        found = image_files([mess])
    assert [path.relative_to(mess).as_posix() for path in found] == ["a/c.png", "a/deep/d.webp", "b.JPG"]
    assert "no image by its name: 'clip.mp4' and 3 more" in caplog.text
    assert [path.name for path in media_files([mess])] == ["c.png", "clip.mp4", "d.webp", "b.JPG"]


def test_a_folder_of_other_files_says_what_they_are(mess):
    (mess / "a" / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image.$"):
        image_files([mess / "a" / "empty"])
    (mess / "a" / "empty" / "x.pdf").write_text("x")
    with pytest.raises(DataError, match="holds no image: no image by its name: 'x.pdf'"):
        image_files([mess / "a" / "empty"])


def test_links_are_followed_and_loops_are_not(mess, tmp_path):
    (mess / "a" / "again").symlink_to(mess)
    (mess / "far").symlink_to(mess / "a" / "deep")
    (mess / "gone.png").symlink_to(mess / "nowhere.png")
    folder = look_into(mess)
    assert str(mess / "far" / "d.webp") in folder.all_files()
    assert {(one.path.rpartition("/")[2], one.reason) for one in folder.all_left_out()} == {
        ("again", "link to a folder that it lies in"),
        ("gone.png", "broken link"),
    }


def test_heif_is_read_where_its_library_is_installed(monkeypatch):
    """The library is stood in for by what it does to Pillow: it cannot be had everywhere."""
    assert not is_image("a.HEIC") and files.why_no_image("a.HEIC") == ".heic needs pillow-heif"
    library = types.ModuleType("pillow_heif")
    library.register_heif_opener = lambda: (
        Image.register_open("HEIF", Image.OPEN["PNG"][0]),
        Image.register_extensions("HEIF", [".heic", ".heif"]),
    )
    library.__spec__ = types.SimpleNamespace(name="pillow_heif")
    monkeypatch.setitem(sys.modules, "pillow_heif", library)
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    for function in (files.image_suffixes, files.register_heif):
        monkeypatch.setattr(files, function.__name__, files.cache(function.__wrapped__))
    assert is_image("a.HEIC") and is_image("b.heif")


def test_suffixes_that_pillow_knows_and_cannot_read_are_no_images():
    for suffix in (".png", ".jPg", ".JPEG", ".tif", ".jp2", ".bmp", ".avif", ".gif", ".webp", ".mpo"):
        assert is_image(f"a{suffix}"), suffix
    for suffix in (".pdf", ".h5", ".mpg", ".mpeg", ".grib", ".palm", ".emf", ""):
        assert not is_image(f"a{suffix}"), suffix


def test_pillow_goes_on_trying_the_usual_formats_first():
    """In the order of their names PNG is the thirtieth, and opening an image takes a fifth longer."""
    script = "from PIL import Image\nfrom dna_hf.data.files import is_image\nis_image('a.png')\nprint(Image.ID[:6])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(ast.literal_eval(done.stdout)) == {"BMP", "DIB", "GIF", "JPEG", "PPM", "PNG"}
