"""Pictures in full depth: what files keep, what models see, what changes put in and take back."""

import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from retouch import FallbackWarning, ImageError
from retouch.editing.canvas.picture import Picture
from retouch.editing.images import as_pixels

WIDE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def levels(shape=(23, 31), channels=3, dtype=np.uint16, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (*shape, channels), dtype, endpoint=True)


def everything(picture):
    return slice(0, picture.size[0]), slice(0, picture.size[1])


# Files


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (23, 31), (700, 601)])
def test_files_keep_every_bit(tmp_path, suffix, dtype, channels, shape):
    found = Picture(levels(shape, channels, dtype))
    again = Picture.read(found.write(tmp_path / f"picture.{suffix}"))
    assert again.levels.dtype == dtype
    assert np.array_equal(again.levels, found.levels)
    assert (again.icc, again.exif) == (None, None)


def test_written_16_bits_are_read_by_others(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    found = Picture(levels())
    tiff = found.write(tmp_path / "picture.tif")
    assert np.array_equal(tifffile.imread(tiff), found.levels)
    with Image.open(found.write(tmp_path / "picture.png")) as image:
        assert np.array_equal(image, found.levels >> 8)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"tile": (16, 16)},
                                     {"byteorder": ">", "compression": "zlib"}, {"rowsperstrip": 5}])  # fmt: skip
@pytest.mark.parametrize("channels", [3, 4])
def test_tiff_of_other_programs(tmp_path, options, channels):
    tifffile = pytest.importorskip("tifffile")
    found, extra = levels(channels=channels), {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(tmp_path / "picture.tif", found, photometric="rgb", **options, **extra)
    assert np.array_equal(Picture.read(tmp_path / "picture.tif").levels, found)


def test_16_bit_grey(tmp_path):
    grey = levels()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    for found in (Picture.read(tmp_path / "grey.png"), Picture.read(grey)):
        assert np.array_equal(found.levels, np.dstack([grey] * 3))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "F", "I;16"])
def test_what_a_model_sees_of_a_picture_is_what_sessions_see(tmp_path, mode):
    image = Image.fromarray(levels(channels=4, dtype=np.uint8))
    image = Image.fromarray(levels()[..., 0]) if mode == "I;16" else image.convert(mode)
    if mode == "F":
        image = image.point(lambda level: level / 255)
    assert np.array_equal(Picture.read(image).seen(), as_pixels(image))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_are_copied_with_their_alpha(dtype):
    source = levels(channels=4, dtype=dtype)
    found = Picture.read(source)
    assert np.array_equal(found.alpha, source[..., 3])
    assert np.array_equal(found.seen(), as_pixels(source))
    found.put(everything(found), np.zeros((*found.size, 3), np.uint8), np.ones(found.size))
    assert np.array_equal(source, levels(channels=4, dtype=dtype))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.webp"])
def test_orientation_is_applied_and_gone(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Artist] = orientation, "Ada"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"kept"
    Image.fromarray(levels(dtype=np.uint8)).save(tmp_path / name, exif=exif)
    found = Picture.read(tmp_path / name)
    assert np.array_equal(found.seen(), as_pixels(tmp_path / name))
    with Image.open(found.write(tmp_path / f"again-{name}")) as image:
        again = image.getexif()
    assert again[ExifTags.Base.Artist] == "Ada"
    assert ExifTags.Base.Orientation not in again
    assert again.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] == b"kept"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("names", [("a.tif", "b.png"), ("a.png", "b.tif"), ("a.tif", "b.tif"), ("a.png", "b.jpg")])
def test_profile_and_exif_pass_from_file_to_file(tmp_path, dtype, names):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ada"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSDateStamp] = "1843:09:01"
    first = Picture(levels(dtype=dtype), WIDE.tobytes(), exif.tobytes()).write(tmp_path / names[0])
    second = Picture.read(Picture.read(first).write(tmp_path / names[1]))
    assert second.icc == WIDE.tobytes()
    found = Image.Exif()
    found.load(second.exif)
    assert found[ExifTags.Base.Artist] == "Ada"
    assert found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSDateStamp] == "1843:09:01"


def test_formats_without_alpha_have_it_on_white(tmp_path):
    found = Picture(levels((16, 16), 4, np.uint8))
    assert np.array_equal(Picture.read(found.write(tmp_path / "picture.bmp")).levels, found.seen())


# Bad input


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="is not an image in a format"):
        Picture.read(tmp_path / "text.png")
    with pytest.raises(ImageError, match="no file"):
        Picture.read(tmp_path / "missing.png")
    whole = Picture(levels((300, 300))).write(tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut\.png"):
        Picture.read(tmp_path / "cut.png")


def test_more_than_100_megapixels_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (10_001, 10_000)).save(tmp_path / "large.png")
    for source in (tmp_path / "large.png", Image.new("1", (10_001, 10_000))):
        with pytest.raises(ImageError, match="10001x10000, more than 100000000 pixels"):
            Picture.read(source)


def test_other_suffixes_and_boxes(tmp_path):
    found = Picture(levels())
    with pytest.raises(ImageError, match="suffix"):
        found.write(tmp_path / "picture.txt")
    for box in ((slice(0, 24), slice(0, 5)), (slice(3, 3), slice(0, 5)), (slice(-1, 3), slice(0, 5))):
        with pytest.raises(ImageError, match="does not lie in the picture of 31x23"):
            found.seen(box)
    with pytest.raises(ImageError, match="different sizes"):
        found.put(everything(found), np.zeros((3, 3, 3), np.uint8), np.ones(found.size))


# Changes


@st.composite
def changes(draw):
    """A picture, and boxes with pixels and weights."""
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    dtype, channels = draw(st.sampled_from([np.uint8, np.uint16])), draw(st.sampled_from([3, 4]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    found = []
    for _ in range(draw(st.integers(1, 4))):
        spans = [sorted(draw(st.tuples(st.integers(0, side), st.integers(0, side)))) for side in size]
        box = tuple(slice(start, stop + (start == stop)) if stop < side or start < stop else slice(start - 1, stop)
                    for (start, stop), side in zip(spans, size, strict=True))  # fmt: skip
        shape = tuple(span.stop - span.start for span in box)
        weights = random.choice([0.0, 0.0, 1.0, 0.3], shape)
        found.append((box, random.integers(0, 256, (*shape, 3), np.uint8), weights))
    return Picture(levels(size, channels, dtype, draw(st.integers(0, 99)))), found


@given(changes())
@settings(deadline=None)
def test_changes_touch_their_weights_alone_and_are_taken_back(given):
    picture, found = given
    shown = [picture.levels.copy()]
    patches = []
    for box, pixels, weights in found:
        before = shown[-1]
        patches.append(picture.put(box, pixels, weights))
        support = np.zeros(picture.size, bool)
        support[box] = weights > 0
        assert np.array_equal(picture.levels[~support], before[~support])
        if picture.alpha is not None:
            assert np.array_equal(picture.alpha, before[..., 3])
        whole = np.zeros(picture.size, bool)
        whole[box] = weights == 1
        unit = 257 if before.dtype == np.uint16 else 1
        assert np.array_equal(picture.pixels[whole], pixels[weights == 1].astype(int) * unit)
        shown.append(picture.levels.copy())
    for patch, before in zip(patches[::-1], shown[-2::-1], strict=True):
        picture.swap(patch)
        assert np.array_equal(picture.levels, before)
    for patch, after in zip(patches, shown[1:], strict=True):
        picture.swap(patch)
        assert np.array_equal(picture.levels, after)


def test_16_bit_levels_are_mixed_in_full_depth():
    picture = Picture(np.full((1, 1, 3), 1000, np.uint16))
    picture.put(everything(picture), np.full((1, 1, 3), 10, np.uint8), np.full((1, 1), 0.25))
    assert (picture.levels == round(1000 + 0.25 * (2570 - 1000))).all()


# Colours


def rec2020():
    """A profile of a wide gamut: sRGB's with its primaries' columns turned into others."""
    icc = bytearray(WIDE.tobytes())
    columns = {b"rXYZ": (0.6734, 0.2790, -0.0019), b"gXYZ": (0.1657, 0.6753, 0.0300), b"bXYZ": (0.1251, 0.0456, 0.7969)}
    for at in range(132, 132 + 12 * int.from_bytes(icc[128:132]), 12):
        if bytes(icc[at : at + 4]) in columns:
            offset = int.from_bytes(icc[at + 4 : at + 8]) + 8
            for place, value in enumerate(columns[bytes(icc[at : at + 4])]):
                icc[offset + 4 * place : offset + 4 * place + 4] = round(value * 65536).to_bytes(4, signed=True)
    return bytes(icc)


def test_a_model_sees_srgb_and_the_picture_keeps_its_colours():
    before = levels((40, 40), dtype=np.uint8)
    picture = Picture(before.copy(), rec2020())
    grey = np.full((40, 40, 3), 128, np.uint8)
    assert np.abs(Picture(grey, rec2020()).seen().astype(int) - 128).max() <= 1
    seen, source, srgb = picture.seen(), ImageCms.ImageCmsProfile(io.BytesIO(rec2020())), ImageCms.createProfile("sRGB")
    expected = ImageCms.profileToProfile(Image.fromarray(before), source, srgb, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    assert np.array_equal(seen, np.asarray(expected))
    assert np.abs(seen.astype(int) - before).max() > 20
    weights = np.zeros((40, 40))
    weights[10:20, 10:20] = 1
    colours = levels((40, 40), dtype=np.uint8, seed=1) // 2 + 64
    picture.put(everything(picture), colours, weights)
    assert np.array_equal(picture.levels[weights == 0], before[weights == 0])
    assert np.abs(picture.seen()[10:20, 10:20].astype(int) - colours[10:20, 10:20]).max() <= 3


def test_srgb_by_profile_is_as_none():
    picture = Picture(levels(dtype=np.uint8), WIDE.tobytes())
    assert picture.profile is None
    assert np.array_equal(picture.seen(), picture.pixels)


def test_a_broken_profile_is_said_and_kept(tmp_path):
    picture = Picture(levels(dtype=np.uint8), WIDE.tobytes()[:200])
    with pytest.warns(FallbackWarning, match="colour profile cannot be used"):
        assert np.array_equal(picture.seen(), picture.pixels)
    assert Picture.read(picture.write(tmp_path / "picture.png")).icc == picture.icc


# Memory

MEASURED = """
import resource, sys
import numpy as np
from retouch.editing.canvas.picture import Picture
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
Picture.read(np.zeros((64, 64, 4), np.uint16)).write(sys.argv[2])
start = peak()
picture = Picture.read(sys.argv[1])
box, size = (slice(0, picture.size[0]), slice(0, picture.size[1])), picture.size
pixels, weights = np.broadcast_to(np.uint8(9), (*size, 3)), np.broadcast_to(np.float32(0.5), size)
patch = picture.put(box, pixels, weights)
assert patch.mask.all()
picture.swap(patch)
picture.write(sys.argv[2])
print((peak() - start) / (size[0] * size[1]))
"""


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint16, 4)])
def test_at_most_12_bytes_for_each_pixel(tmp_path, dtype, channels):
    small = levels((250, 200), channels, dtype)
    source = Picture(np.tile(small, (12, 14, 1))).write(tmp_path / "source.png")
    run = subprocess.run([sys.executable, "-c", MEASURED, source, tmp_path / "small.png"],
                         capture_output=True, text=True, check=True)  # fmt: skip
    assert float(run.stdout) < 12
