"""Pictures and masks from files, Pillow, NumPy and PyTorch, and what is made of them."""

import io
import os
import stat
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retouch import OptionError
from retouch.editing.images import (
    MAX_PIXELS,
    ImageError,
    as_integers,
    as_mask,
    as_pixels,
    as_strengths,
    difference,
    from_tensor,
    pasted,
    save_png,
    to_tensor,
)


def _noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _over(rgb, alpha, ground=255):
    alpha = alpha[..., None] / 255
    return np.floor(rgb * alpha + ground * (1 - alpha) + 0.5).astype(np.uint8)


def _grey(levels):
    return np.repeat(np.asarray(levels)[..., None], 3, 2)


@st.composite
def _edits(draw, most=16):
    height, width = draw(st.integers(1, most)), draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random((height, width)) < draw(st.sampled_from([0.0, 0.02, 0.2, 1.0]))
    return _noise(height, width, seed=1), _noise(height, width, seed=2), mask


# Sources


@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_rgb_comes_unchanged_from_every_source(tmp_path, size):
    pixels = _noise(*size)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sources = [pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png"), tensor, tensor[None]]
    for source in [*sources, pixels / 255, (pixels / 255).astype(np.float32), tensor / 255, tensor.double() / 255]:
        found = as_pixels(source)
        assert found.dtype == np.uint8
        assert found.flags.c_contiguous
        assert found.flags.writeable
        assert not np.shares_memory(found, pixels)
        assert np.array_equal(found, pixels)


def test_a_part_of_one_picture_in_another():
    old, new = np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 9, np.uint8)
    mask = np.arange(20).reshape(4, 5) % 3 == 0
    found = pasted(new, mask, old)
    assert np.array_equal(found, np.where(mask[..., None], new, old))
    assert not old.any()
    with pytest.raises(ImageError, match="pictures"):
        pasted(new[:3], mask, old)


def test_arrays_of_every_type_and_shape():
    grey = _noise(4, 5, 1)
    for array in (grey, grey[..., 0], grey.astype(np.uint16) * 257, (grey * 257.0).astype(">u2"), grey / 255):
        assert np.array_equal(as_pixels(array), _grey(grey[..., 0]))
    assert np.array_equal(as_pixels(grey[..., 0] > 90), _grey(np.where(grey[..., 0] > 90, 255, 0)))
    assert np.array_equal(as_pixels(_noise(6, 4)[::-1, ::2]), _noise(6, 4)[::-1, ::2])
    rgba = _noise(9, 8, 4)
    assert np.array_equal(as_pixels(rgba), _over(rgba[..., :3], rgba[..., 3]))


def test_floats_round_half_to_even_and_half_types_work():
    assert as_pixels(np.full((1, 1), 127.5 / 255))[0, 0, 0] == 128
    assert as_pixels(np.full((1, 1), 126.5 / 255))[0, 0, 0] == 126
    for dtype in (torch.float16, torch.bfloat16):
        ends = torch.tensor([0.0, 1.0], dtype=dtype).expand(3, 1, 2).clone().requires_grad_()
        assert np.array_equal(as_pixels(ends), [[[0] * 3, [255] * 3]])


def test_sixteen_bit_levels_are_rounded():
    levels = np.array([[0, 128, 129, 385, 386, 65406, 65407, 65535]], np.uint16)
    assert as_pixels(levels)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 254, 255, 255]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bit_images_are_scaled(tmp_path, mode):
    levels = np.array([[0, 257, 32896, 65535]])
    image = Image.fromarray(levels.astype({"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]))
    assert image.mode == mode
    image.save(tmp_path / "deep.tiff")
    for source in (image, tmp_path / "deep.tiff"):
        assert as_pixels(source)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_sixteen_bit_png_with_a_transparent_level(tmp_path):
    image = Image.fromarray(np.array([[0, 514, 65535]], np.uint16))
    image.save(tmp_path / "deep.png", transparency=514)
    assert as_pixels(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 255, 255]
    image.save(tmp_path / "deep.png", transparency=0)
    assert as_pixels(tmp_path / "deep.png")[0, :, 0].tolist() == [255, 2, 255]


def test_levels_that_are_not_sixteen_bit_are_refused():
    with pytest.raises(ImageError, match="-1 to 5"):
        as_pixels(Image.fromarray(np.array([[-1, 5]], np.int32)))
    with pytest.raises(ImageError, match=r"0\.\.9"):
        as_pixels(Image.fromarray(np.array([[0, 9]], np.float32)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_opaque_modes_are_converted_to_rgb(tmp_path, mode):
    image = Image.fromarray(_noise(6, 4)).convert(mode)
    assert np.array_equal(as_pixels(image), np.asarray(image.convert("RGB")))


def test_grey_and_float_images():
    grey = _noise(3, 5, 1)[..., 0]
    assert np.array_equal(as_pixels(Image.fromarray(grey)), _grey(grey))
    assert np.array_equal(as_pixels(Image.fromarray((grey / 255).astype(np.float32))), _grey(grey))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_alpha_is_composited_on_white(mode):
    rgba = _noise(16, 16, 4)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    image = Image.fromarray(rgba).convert(mode)
    expected = np.asarray(image.convert("RGBA"))
    found = as_pixels(image)
    assert np.array_equal(found, _over(expected[..., :3], expected[..., 3]))
    assert (found[0] == 255).all()
    assert np.array_equal(found[1], expected[1, :, :3])


@pytest.mark.parametrize(("mode", "premultiplied"), [("LA", "La"), ("RGBA", "RGBa")])
def test_premultiplied_alpha(mode, premultiplied):
    image = Image.fromarray(_noise(4, 4, 4)).convert(mode).convert(premultiplied)
    assert np.array_equal(as_pixels(image), as_pixels(image.convert(mode)))


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGB", (7, 8, 9)), ("P", 1), ("1", 0)])
def test_a_transparent_colour_becomes_white(tmp_path, mode, colour):
    image = Image.new(mode, (3, 2), 0 if mode != "1" else 1)
    if mode == "P":
        image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), colour)
    image.save(tmp_path / "a.png", transparency=colour)
    found = as_pixels(tmp_path / "a.png")
    assert found[0, 1].tolist() == [255, 255, 255]
    assert found[0, 0].tolist() == {"P": [10, 20, 30], "1": [255] * 3}.get(mode, [0, 0, 0])


def test_a_palette_with_alpha_levels(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 100, 0, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=bytes([51, 255]))
    assert as_pixels(tmp_path / "a.png").tolist() == [[[204] * 3, [100, 0, 0]]]


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, kind, orientation):
    stored = _noise(16, 8)
    turned = [
        stored,
        stored[:, ::-1],
        stored[::-1, ::-1],
        stored[::-1],
        stored.transpose(1, 0, 2),
        np.rot90(stored, -1),
        stored[::-1, ::-1].transpose(1, 0, 2),
        np.rot90(stored),
    ]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"a.{kind}", exif=exif)
    found = as_pixels(tmp_path / f"a.{kind}")
    if kind == "jpeg":
        assert found.shape == turned[orientation - 1].shape
    else:
        assert np.array_equal(found, turned[orientation - 1])
        assert as_pixels(Image.fromarray(found)).shape == found.shape


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (as_pixels(tmp_path / "a.gif") == (255, 0, 0)).all()


# What is refused


def _png(width, height, data=b""):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_missing_files_folders_and_texts(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    for name, reason in [
        ("none.png", "there is no file .*none.png"),
        ("", "cannot read .*directory"),
        ("a.png", "a.png is not an image"),
        ("empty.png", "empty.png is not an image"),
        ("nul\0", "cannot read"),
    ]:
        with pytest.raises(ImageError, match=reason):
            as_pixels(tmp_path / name)


@given(st.floats(0, 0.98))
def test_truncated_pngs(tmp_path_factory, share):
    whole = io.BytesIO()
    Image.fromarray(_noise(20, 20)).save(whole, "png")
    path = tmp_path_factory.getbasetemp() / "truncated.png"
    path.write_bytes(whole.getvalue()[: int(share * len(whole.getvalue()))])
    with pytest.raises(ImageError, match=r"truncated\.png"):
        as_pixels(path)


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6))
def test_corrupted_files_are_read_or_refused(tmp_path_factory, changes):
    whole = io.BytesIO()
    Image.fromarray(_noise(20, 20)).save(whole, "png")
    data = bytearray(whole.getvalue())
    for place, value in changes:
        data[int(place * len(data))] = value
    path = tmp_path_factory.getbasetemp() / "corrupted.png"
    path.write_bytes(data)
    with suppress(ImageError):
        assert as_pixels(path).shape[2] == 3


# Below Pillow's limit of a warning, above it, and above that of its error.
@pytest.mark.parametrize("side", [10_001, 12_000, 100_000])
def test_huge_sizes_are_refused_before_decoding(tmp_path, side):
    (tmp_path / "huge.png").write_bytes(_png(side, side))
    with pytest.raises(ImageError, match=rf"huge\.png.*more than {MAX_PIXELS} pixels"):
        as_pixels(tmp_path / "huge.png")


def test_the_largest_size_is_only_truncated(tmp_path):
    (tmp_path / "large.png").write_bytes(_png(10_000, 10_000))
    with pytest.raises(ImageError, match="decoded"):
        as_pixels(tmp_path / "large.png")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((3, 4, 2), np.uint8), r"not \[3, 4, 2\]"),
        (np.zeros(3, np.uint8), r"not \[3\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"not \[1, 4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "4x0 pixels is empty"),
        (Image.new("RGB", (0, 4)), "0x4 pixels is empty"),
        (np.zeros((4, 4), np.int64), "not int64"),
        (np.zeros((4, 4), complex), "not complex128"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), 1.5), r"1\.5\.\.1\.5"),
        (np.full((4, 4), -np.inf), "-inf"),
        (torch.zeros(4, 4), r"not \[4, 4\]"),
        (torch.zeros(2, 3, 4, 4), r"not \[2, 3, 4, 4\]"),
        (torch.zeros(4, 4, 3), r"not \[4, 4, 3\]"),
        (-torch.ones(3, 4, 4), r"-1\.\.-1"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "not int32"),
        (b"png", "not bytes"),
        (None, "not NoneType"),
    ],
)
def test_other_values_are_refused(image, reason):
    with pytest.raises(ImageError, match=reason):
        as_pixels(image)


# Masks


def test_masks_from_every_source(tmp_path):
    mask = np.random.default_rng(0).random((4, 6)) < 0.4
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    image.save(tmp_path / "mask.png")
    tensor = torch.from_numpy(mask)
    sources = [image, image.convert("1"), image.convert("RGB"), tmp_path / "mask.png", str(tmp_path / "mask.png")]
    sources += [mask, mask[..., None], mask[None], mask[None, None], mask * 1.0, mask * np.uint8(255)]
    sources += [mask * np.uint16(65535), _grey(mask), tensor, tensor[None, None], tensor.float(), tensor.bfloat16()]
    for source in sources:
        found = as_mask(source, (4, 6))
        assert found.dtype == np.bool_
        assert not np.shares_memory(found, mask)
        assert np.array_equal(found, mask)


def test_edited_is_brighter_than_half():
    assert as_mask(np.array([[127, 128]], np.uint8), (1, 2)).tolist() == [[False, True]]
    assert as_mask(Image.fromarray(np.array([[127, 128]], np.uint8)), (1, 2)).tolist() == [[False, True]]
    assert as_mask(np.array([[32767, 32768]], np.uint16), (1, 2)).tolist() == [[False, True]]
    assert as_mask(np.array([[0.5, 0.5001]]), (1, 2)).tolist() == [[False, True]]
    assert as_mask(np.array([[[0, 0, 255], [0, 255, 0]]], np.uint8), (1, 2)).tolist() == [[False, True]]


def test_grey_masks_from_every_source(tmp_path):
    levels = np.array([[0, 51, 255], [128, 1, 102]], np.uint8)
    image = Image.fromarray(levels)
    image.save(tmp_path / "mask.png")
    alike = [image, image.convert("RGB"), tmp_path / "mask.png", levels, levels[None], torch.from_numpy(levels)]
    for source in [*alike, levels.astype(np.uint16) * 257, levels / 255]:
        found = as_strengths(source, (2, 3))
        assert found.dtype == np.float64
        assert np.array_equal(found, levels / 255)
    assert np.array_equal(as_strengths(levels > 100, (2, 3)), [[0, 0, 1], [1, 0, 1]])
    assert as_strengths(np.array([[0.1, 0.0001]], np.float32), (1, 2)) == pytest.approx(np.array([[0.1, 0.0001]]))
    assert as_strengths(torch.full((1, 1), 0.25, dtype=torch.bfloat16), (1, 1)).item() == 0.25
    for refused in (levels.astype(np.int64), levels - 128.0, np.full((2, 3), np.nan), levels[:1], levels * 0):
        with pytest.raises(ImageError):
            as_strengths(refused, (2, 3))


def test_transparent_parts_of_a_mask_are_not_edited():
    rgba = np.full((2, 2, 4), 255, np.uint8)
    rgba[0, :, 3] = 0
    for source in (rgba, Image.fromarray(rgba)):
        assert as_mask(source, (2, 2)).tolist() == [[False] * 2, [True] * 2]


def test_masks_are_rotated_as_pictures_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array([[255, 0, 0]], np.uint8)).save(tmp_path / "mask.png", exif=exif)
    assert as_mask(tmp_path / "mask.png", (3, 1)).tolist() == [[True], [False], [False]]


def test_masks_that_do_not_fit_or_are_empty(tmp_path):
    Image.new("L", (6, 4), 255).save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=r"mask\.png is 6x4 pixels, but the picture is 4x6"):
        as_mask(tmp_path / "mask.png", (6, 4))
    for source in (np.ones((4, 6), bool), torch.ones(4, 6), np.ones((4, 6, 3), bool)):
        with pytest.raises(ImageError, match=r"\[4, 6.*\[6, 4\]"):
            as_mask(source, (6, 4))
    for source in (np.zeros((4, 6), bool), torch.zeros(4, 6), Image.new("L", (6, 4), 127)):
        with pytest.raises(ImageError, match="empty"):
            as_mask(source, (4, 6))
    with pytest.raises(ImageError, match="NaN"):
        as_mask(np.full((4, 6), np.nan), (4, 6))
    with pytest.raises(ImageError, match=r"0\.\.255"):
        as_mask(torch.arange(2.0).view(1, 2) * 255, (1, 2))
    with pytest.raises(ImageError, match="no file"):
        as_mask(tmp_path / "none.png", (4, 6))


# Differences and tensors


@given(_edits(), st.sampled_from([0, 1, 2, 3, 128, 255]))
def test_difference_is_that_of_regions(edit, threshold):
    before, after, _ = edit
    expected = np.abs(after.astype(int) - before).max(2) > threshold
    assert np.array_equal(difference(before, after, threshold), expected)


def test_a_difference_of_the_threshold_is_none():
    before, after = np.zeros((1, 256, 3), np.uint8), np.zeros((1, 256, 3), np.uint8)
    after[0, :, 1] = np.arange(256)
    for level in range(256):
        assert np.array_equal(difference(before, after, level)[0], np.arange(256) > level)
        assert np.array_equal(difference(after, before, level)[0], np.arange(256) > level)
    assert np.array_equal(difference(before, after)[0], np.arange(256) > 2)
    with pytest.raises(OptionError, match="cannot be -1"):
        difference(before, after, -1)


def test_pictures_of_different_sizes_have_no_difference():
    with pytest.raises(ImageError, match="6x4 and 4x6"):
        difference(_noise(4, 6), _noise(6, 4))


def test_every_level_survives_the_round_trip():
    pixels = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3, 2)
    pixels[..., 1] = pixels[..., 1].T
    tensor = to_tensor(pixels)
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert (tensor.min(), tensor.max()) == (-1, 1)
    for same in (tensor, tensor[0], tensor.double()):
        assert np.array_equal(from_tensor(same), pixels)
    assert from_tensor(tensor).flags.c_contiguous


@given(st.integers(1, 9), st.integers(1, 9))
def test_round_trip_of_any_layout(height, width):
    pixels = _noise(2 * height, 2 * width)[::-2, ::2]
    pixels.flags.writeable = False
    assert np.array_equal(from_tensor(to_tensor(pixels)), pixels)


def test_tensors_are_clamped_and_rounded_half_to_even():
    values = torch.tensor([-7.0, -1, 0, 1, 7, float("inf")]).expand(1, 3, 1, 6)
    assert from_tensor(values)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]
    halves = (torch.arange(255, dtype=torch.float64) + 0.5) / 127.5 - 1
    found = from_tensor(halves.expand(3, 1, 255))[0, :, 0]
    exact = ((halves + 1) * 127.5).numpy() == np.arange(255) + 0.5
    assert exact.sum() > 50
    assert np.array_equal(found[exact], np.rint(np.arange(255) + 0.5)[exact])


def test_tensors_that_are_no_pictures():
    for tensor, reason in [
        (torch.full((1, 3, 2, 2), float("nan")), "NaN"),
        (torch.zeros(2, 3, 4, 4), r"\[2, 3, 4, 4\]"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "uint8"),
    ]:
        with pytest.raises(ImageError, match=reason):
            from_tensor(tensor)


# Saving


def test_saved_pictures_are_read_back(tmp_path):
    pixels = _noise(5, 7)
    for image in (pixels, Image.fromarray(pixels)):
        for name in ("a.png", "a.PNG", "b.tiff", "c.bmp"):
            assert save_png(image, str(tmp_path / name)) == tmp_path / name
            assert np.array_equal(as_pixels(tmp_path / name), pixels)
    assert len(list(tmp_path.iterdir())) == len({"a.png", "a.PNG", "b.tiff", "c.bmp"})


def test_saved_pictures_have_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    save_png(_noise(1, 1), tmp_path / "a.png")
    assert stat.S_IMODE(os.stat(tmp_path / "a.png").st_mode) == stat.S_IMODE(os.stat(tmp_path / "plain").st_mode)


def test_a_picture_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    save_png(_noise(2, 2), tmp_path / "kept.png")
    before = (tmp_path / "kept.png").read_bytes()
    monkeypatch.setattr(Image.Image, "save", lambda self, file, **_: file.write(b"half") / 0)
    with pytest.raises(ImageError, match=r"cannot write .*kept\.png"):
        save_png(_noise(2, 2), tmp_path / "kept.png")
    assert (tmp_path / "kept.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept.png"]


def test_places_and_formats_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.png").mkdir()
    picture = Image.new("RGBA", (2, 2))
    for name, reason in [
        ("none/a.png", "No such file"),
        ("folder.png", "directory"),
        ("a.txt", "suffix '.txt'"),
        ("a", "suffix ''"),
        ("a.psd", "suffix '.psd'"),
        ("a.jpg", "RGBA"),
    ]:
        with pytest.raises(ImageError, match=f"cannot write .*{name}.*{reason}"):
            save_png(picture, tmp_path / name)
    with pytest.raises(ImageError, match="not int64"):
        save_png(np.zeros((2, 2, 3), np.int64), tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


# Maps of ids


@pytest.mark.parametrize("kind", ["array", "tensor", "grey", "palette", "16 bit", "file", "array file", "channels"])
def test_ids_of_any_kind(kind, tmp_path):
    ids = np.random.default_rng(0).integers(0, 30, (6, 9)).astype(np.uint8)
    palette = Image.fromarray(ids, "P") if kind == "palette" else None
    if palette:
        palette.putpalette(list(range(255, -1, -1)) * 3)
    Image.fromarray(ids).save(tmp_path / "ids.png")
    np.save(tmp_path / "ids.npy", ids)
    made = {
        "array": ids,
        "tensor": torch.from_numpy(ids)[None],
        "grey": Image.fromarray(ids),
        "palette": palette,
        "16 bit": Image.fromarray(ids.astype(np.uint16)),
        "file": tmp_path / "ids.png",
        "array file": tmp_path / "ids.npy",
        "channels": np.repeat(ids[..., None], 3, 2),
    }[kind]
    found = as_integers(made)
    assert found.dtype == np.int32
    assert np.array_equal(found, ids)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (np.zeros((4, 4)), "one channel of integers"),
        (_noise(4, 4), "colours are no ids"),
        (np.zeros((0, 4), int), "one channel of integers"),
        (np.zeros(4, int), "one channel of integers"),
        (np.full((4, 4), 2**40), "beyond 32 bits"),
        (np.zeros((4, 5), int), "5x4, but the picture is 4x4"),
    ],
)
def test_what_is_no_map_of_ids(ids, reason):
    with pytest.raises(ImageError, match=reason):
        as_integers(ids, (4, 4))


class Code:
    def __reduce__(self):
        return print, ("this ran",)


def test_array_files_that_are_none(tmp_path, capsys):
    np.save(tmp_path / "code.npy", np.array([[Code()]]), allow_pickle=True)
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "cut.npy", np.zeros((4, 4), np.uint8))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-1])
    np.save(tmp_path / "colours.npy", _noise(4, 4))
    for name, reason in [
        ("code", "cannot read .*code.npy"),
        ("empty", "cannot read .*empty.npy"),
        ("cut", "cannot read .*cut.npy"),
        ("colours", "the map of ids .*colours.npy is not one channel"),
        ("missing", "there is no file .*missing.npy"),
    ]:
        with pytest.raises(ImageError, match=reason):
            as_integers(tmp_path / f"{name}.npy")
    assert "this ran" not in capsys.readouterr().out
