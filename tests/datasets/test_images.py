"""Folders of images."""

import struct
import zlib

import numpy as np
import pytest

from girsanov.datasets import load, read, take
from girsanov.types import InputError
from tests.seeds import rng

Image = pytest.importorskip("PIL.Image")
RNG = rng(0)


def picture(path, *, shape=(5, 4), mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, shape).astype(np.uint8)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return pixels


def test_flat_grey_folder(tmp_path):
    pixels = [picture(tmp_path / f"{i}.png") for i in range(3)]
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image")
    data = load(tmp_path)
    np.testing.assert_array_equal(data.x[:, 0].numpy(), pixels)
    assert data.labels is None
    assert data.schema.event_shape == (1, 5, 4)


def touched(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"some bytes")


@pytest.mark.parametrize(
    ("images", "others", "words"),
    [
        (["a.png"], ["b.heic"], "Left out 1 file, not read as images (b.heic)"),
        (
            ["a.png"],
            ["b.HEIC", "c.jxl", "d.svg", "e.dng"],
            "Left out 4 files, not read as images (b.HEIC, c.jxl, d.svg and 1",
        ),
        (["u/a.png", "v/a.png"], ["u/b.heif", "names.csv"], "2 files, not read as images (names.csv, u/b.heif)"),
        (["u/a.png", "v/a.png", "v/deep/b.png"], [], "1 file, not read as images (v/deep/b.png)"),
        (["train/a.png", "test/a.png"], ["test/b.heic"], "test: Left out 1 file, not read as images (b.heic)"),
        (["a.png"], ["b"], "(b): save as png or jpg what belongs"),
        (["a.png"], ["Thumbs.db", ".DS_Store"], None),
        (["a.jfif", "b.tga", "c.pbm", "d.webp", "e.jp2", "f.avif"], [], None),
    ],
)
def test_files_that_are_no_images_are_named(tmp_path, images, others, words):
    for image in images:
        picture(tmp_path / image, mode="1" if image.endswith("pbm") else "RGB" if image[0] in "adef" else None)
    touched(tmp_path, *others)
    if words is None and len(images) > 1:
        for image in images:  # whatever pillow writes, it is asked to read
            assert len(read_alone(tmp_path, image)) == 1
        return
    notes = read(tmp_path).notes
    assert len(notes) == (words is not None)
    assert words is None or words in notes[0]


def read_alone(folder, image):
    alone = folder / image.replace(".", "-")
    alone.mkdir()
    (folder / image).rename(alone / image)
    return read(alone)


@pytest.mark.parametrize(
    ("images", "others", "sentence"),
    [
        ([], ["a.heic", "b.heic"], r"holds images that cannot be read \(a.heic, b.heic\); save them as png or jpg"),
        ([], ["u/a.heic", "v/a.heic"], r"cannot be read \(u/a.heic, v/a.heic\)"),
        (["u/a.png"], ["v/a.heic"], r"'v' holds no images that can be read \(but a.heic\); fill or remove it"),
        (["train/a.png"], ["test/a.heic"], r"test: holds no images that can be read \(but a.heic\); give"),
        ([], ["a.txt"], "holds neither images"),
    ],
)
def test_images_that_cannot_be_read_are_named(tmp_path, images, others, sentence):
    for image in images:
        picture(tmp_path / image)
    touched(tmp_path, *others)
    with pytest.raises(InputError, match=sentence):
        read(tmp_path)


def test_class_folders_in_colour(tmp_path):
    for label in ("dog", "cat"):
        for i in range(2 if label == "cat" else 3):
            picture(tmp_path / label / f"{i}.png", shape=(5, 4, 3))
    data = load(tmp_path)
    assert data.x.shape == (5, 3, 5, 4)
    assert data.classes == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == ["cat"] * 2 + ["dog"] * 3


def test_train_and_test_folders(tmp_path):
    for part, n in (("train", 3), ("test", 2)):
        for label in ("a", "b"):
            for i in range(n):
                picture(tmp_path / part / label / f"{i}.png")
    data = load(tmp_path)
    assert (len(data.x), data.n_train, data.classes) == (10, 6, ("a", "b"))
    assert data.labels is not None
    assert "".join(data.labels) == "aaabbbaabb"


@pytest.mark.parametrize("mode", ["1", "P"])
def test_lossless_modes(tmp_path, mode):
    for i in range(3):
        picture(tmp_path / f"{i}.png", mode=mode)
    assert load(tmp_path).x.shape == (3, 1 if mode == "1" else 3, 5, 4)


def test_pictures_stand_as_viewers_show_them(tmp_path):
    pixels = RNG.integers(0, 256, (5, 4)).astype(np.uint8)
    for file, orientation in (("a.png", 1), ("b.png", 6), ("c.png", 3)):
        image = Image.fromarray(np.rot90(pixels, {1: 0, 6: 1, 3: 2}[orientation]).copy())
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(tmp_path / file, exif=exif)
    np.testing.assert_array_equal(read(tmp_path).stack[:, 0], [pixels] * 3)


def test_sixteen_bits_are_not_halved_in_silence(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, rows = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0), zlib.compress(b"".join([b"\0" + bytes(12)] * 2))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.png: has 16 bits per pixel"):
        read(tmp_path)


def test_rows_know_their_files(tmp_path):
    for part, label in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        picture(tmp_path / part / label / "0.png")
    assert read(tmp_path / "train" / "a").files == ("0.png",)
    assert read(tmp_path).files == ("train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png")
    assert take(read(tmp_path), np.array([1, 2])).files == ("train/b/0.png", "test/a/0.png")


def bomb(width, height):
    """The header of a png that claims to be huge."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def truncated(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda p: picture(p, shape=(6, 4)), r"9\.png: has shape \(1, 6, 4\).*the images before it have \(1, 5, 4\)"),
        (lambda p: picture(p, shape=(5, 4, 3)), r"has shape \(3, 5, 4\)"),
        (lambda p: picture(p, shape=(5, 4, 4)), "has mode RGBA"),
        (lambda p: picture(p, mode="I;16"), "has 16 bits per pixel"),
        (lambda p: p.write_bytes(b""), r"9\.png: cannot be read as an image"),
        (lambda p: p.write_bytes(b"no image"), r"9\.png: cannot be read as an image"),
        (lambda p: (picture(p), truncated(p)), r"9\.png: cannot be read as an image"),
        (lambda p: p.write_bytes(bomb(8000, 8000)), "8000 x 8000 pixels, too many"),
        (lambda p: p.write_bytes(bomb(60_000, 60_000)), r"9\.png: cannot be read as an image"),
    ],
)
def test_bad_image(tmp_path, spoil, sentence):
    picture(tmp_path / "0.png")
    spoil(tmp_path / "9.png")
    with pytest.raises(InputError, match=sentence) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_animation(tmp_path):
    frames = [Image.fromarray(RNG.integers(0, 256, (5, 4)).astype(np.uint8)) for _ in range(2)]
    frames[0].save(tmp_path / "0.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="several frames"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        (("train", "val", "test"), r"parts of one data set by their names \(test, train, val\), not classes"),
        (("Train", "Test"), r"parts of one data set by their names \(Test, Train\)"),
        (("train/a", "valid/a"), r"parts of one data set by their names \(train, valid\)"),
        (("train/a", "train/b"), r"parts of one data set by their names \(train\)"),
        ((".", "a"), "holds images and a folder of images too, 'a'"),
    ],
)
def test_folders_that_may_mean_several_things(tmp_path, places, sentence):
    for place in places:
        picture(tmp_path / place / "0.png")
        picture(tmp_path / place / "1.png")
    with pytest.raises(InputError, match=sentence):
        load(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    for label in ("plane", "train"):
        picture(tmp_path / label / "0.png")
    assert load(tmp_path).classes == ("plane", "train")


def test_empty_class_folder(tmp_path):
    picture(tmp_path / "a" / "0.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="class folder 'b' holds no images"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"train/a": (5, 4), "test/a": (6, 4)}, "one shape per folder"),
        ({"train/a": (5, 4), "test/b": (5, 4)}, "different class folders"),
    ],
)
def test_parts_that_do_not_fit(tmp_path, shapes, sentence):
    for folder, shape in shapes.items():
        picture(tmp_path / folder / "0.png", shape=shape)
    with pytest.raises(InputError, match=sentence):
        load(tmp_path)
