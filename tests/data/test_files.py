"""Data sets in files: the pictures that were put in come out, and whatever is damaged is one message."""

import contextlib
import io
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import made_files
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_files import LABELS, MAKERS, NUM, pixels, png
from PIL import Image
from processes import within
from pydantic import TypeAdapter

from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.sources import DataSource
from fedphd_ray.errors import DataError, UserError

ADAPTER: TypeAdapter[object] = TypeAdapter(DataSource)


def load(config: dict[str, object], said: list[str] | None = None) -> ImageDataset:
    source = ADAPTER.validate_python(config)
    return source.load(0, [].append if said is None else said.append)  # type: ignore[attr-defined, no-any-return]


def in_class_order(images: np.ndarray) -> np.ndarray:
    """As a folder per class has them."""
    return images[np.argsort(LABELS, kind="stable")]


@pytest.mark.parametrize("name", MAKERS)
def test_what_was_put_in_comes_out(name: str, tmp_path: Path) -> None:
    data = load(MAKERS[name](tmp_path))
    shape = {"mnist": (1, 28), "fashion_mnist": (1, 28), "cifar10": (3, 32), "cifar10_python": (3, 32), "celeba": (3, 32)}
    expected, labels = pixels(*shape.get(name, (3, 16))), LABELS
    if name == "image_folder":
        expected, labels = in_class_order(expected), in_class_order(labels)
    assert data.images.dtype == np.uint8
    assert np.array_equal(data.images, expected)
    assert np.array_equal(data.labels, labels)
    assert data.num_classes == {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar10_python": 10, "celeba": 4}.get(name, 3)


@pytest.mark.parametrize("name", MAKERS)
def test_a_limit_draws_some_and_a_size_scales_them(name: str, tmp_path: Path) -> None:
    config = MAKERS[name](tmp_path)
    whole, some = load(config), load({**config, "limit": 11})
    assert len(some) == 11
    rows = [next(row for row in range(NUM) if np.array_equal(whole.images[row], image)) for image in some.images]
    assert rows == sorted(set(rows))
    assert np.array_equal(whole.labels[rows], some.labels)
    small = load({**config, "image_size": 8})
    assert small.images.shape == (NUM, whole.channels, 8, 8)
    assert abs(float(small.images.mean()) - float(whole.images.mean())) < 5


@pytest.mark.parametrize("name", MAKERS)
def test_another_split_and_another_place_are_asked_for_in_words(name: str, tmp_path: Path) -> None:
    config = MAKERS[name](tmp_path)
    if name not in ("image_folder", "npz"):  # there a folder or archive without splits is all of them
        with pytest.raises(DataError, match="expected: "):
            load({**config, "split": "test"})
    for wrong in (tmp_path / "nowhere", Path("/dev/null")):
        with pytest.raises(DataError, match="expected: "):
            load({**config, "path": str(wrong)})


def test_decoded_pictures_are_kept_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPHD_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    config = MAKERS["image_folder"](tmp_path / "data")
    first = load(config)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setattr("fedphd_ray.data.encoded.decode", lambda *_: pytest.fail("decoded again"))
    assert load(config).content_hash == first.content_hash
    monkeypatch.undo()
    monkeypatch.setenv("FEDPHD_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "data/a/000.png").write_bytes(png(255 - pixels(3, 16)[0]))
    assert load(config).content_hash != first.content_hash
    for cached in (tmp_path / "cache").iterdir():
        cached.write_bytes(b"damaged")
    assert len(load(config)) == NUM
    for cached in (tmp_path / "cache").iterdir():
        cached.unlink()
        os.mkfifo(cached)
    with within(60):
        assert len(load(config)) == NUM


def encoded(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


RED = np.zeros((8, 8, 3), np.uint8) + np.array([200, 10, 30], np.uint8)
HALF = np.zeros((8, 8), np.uint8)
HALF[:4] = 255
RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8)
ROTATED = Image.Exif()
ROTATED[0x0112] = 6  # the camera lay on its side
CONVERSIONS: dict[str, tuple[bytes, np.ndarray]] = {
    "grey": (encoded(Image.fromarray(HALF)), HALF[None]),
    "one bit": (encoded(Image.fromarray(HALF).convert("1")), HALF[None]),
    "16 bits": (encoded(Image.fromarray(RAMP.astype(np.uint16) * 256 + 77)), RAMP[None]),
    "palette": (encoded(Image.fromarray(RED).convert("P", palette=Image.Palette.ADAPTIVE)), RED.transpose(2, 0, 1)),
    "transparent": (encoded(Image.fromarray(np.dstack([RED, HALF]))), np.where(HALF, RED.transpose(2, 0, 1), 255)),
    "turned": (encoded(Image.fromarray(HALF), "JPEG", exif=ROTATED, quality=100), np.rot90(HALF, -1)[None]),
    "bmp": (encoded(Image.fromarray(RED), "BMP"), RED.transpose(2, 0, 1)),
    "animated": (
        encoded(Image.fromarray(RED), "GIF", save_all=True, append_images=[Image.fromarray(RED // 2)]),
        RED.transpose(2, 0, 1),
    ),
    "wide": (encoded(Image.fromarray(np.repeat(RED, 3, axis=1))), RED.transpose(2, 0, 1)),
}


@pytest.mark.parametrize("kind", CONVERSIONS)
def test_pictures_are_converted_by_stated_rules(kind: str, tmp_path: Path) -> None:
    data, expected = CONVERSIONS[kind]
    (tmp_path / "picture").write_bytes(data)
    found = load({"name": "image_folder", "path": str(tmp_path), "image_size": 8}).images[0]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (4 if kind == "turned" else 0)


def test_grey_among_colour_is_grey_in_three_channels(tmp_path: Path) -> None:
    for name, picture in (("a", HALF), ("b", RED), ("c", HALF)):
        (tmp_path / f"{name}.png").write_bytes(encoded(Image.fromarray(picture)))
    images = load({"name": "image_folder", "path": str(tmp_path)}).images
    assert np.array_equal(images, np.stack([np.repeat(HALF[None], 3, 0), RED.transpose(2, 0, 1), np.repeat(HALF[None], 3, 0)]))


def test_what_cannot_be_read_is_refused_by_name_or_left_out_with_a_count(tmp_path: Path) -> None:
    config = MAKERS["image_folder"](tmp_path)
    (tmp_path / "a/001.png").write_text("no picture")
    (tmp_path / "b/loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "c/pipe.png")
    with pytest.raises(DataError, match=r"001\.png\n(.|\n)*not a picture of a known format(.|\n)*data.on_error: skip"):
        load(config)
    said: list[str] = []
    data = load({**config, "on_error": "skip"}, said)
    assert len(data) == NUM
    assert np.array_equal(data.labels, in_class_order(LABELS))
    assert "3 of 15 images" in said[0]
    assert "001.png" in said[0]
    load({**config, "on_error": "skip"}, said)
    assert "3 of 15 images" in said[1]  # from the cache, too


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: encoded(Image.new("L", (10_000, 10_000))), "10000 x 10000 pixels, more than 64,000,000"),
        (lambda: encoded(Image.new("L", (16, 15))), "data.image_size does not say to what square"),
        (lambda: encoded(Image.new("L", (4, 4)), "EPS"), "not a picture of a known format"),
        (lambda: encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floating-point"),
    ],
)
def test_a_picture_that_is_none_of_ours_is_named(make: Callable[[], bytes], words: str, tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(make())
    with pytest.raises(DataError, match=words):
        load({"name": "image_folder", "path": str(tmp_path)})


def test_links_that_form_a_loop_are_not_walked(tmp_path: Path) -> None:
    config = MAKERS["image_folder"](tmp_path)
    (tmp_path / "a/again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "d").symlink_to(tmp_path / "a", target_is_directory=True)
    assert len(load(config)) == NUM


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.where,)

    def __init__(self, where: str) -> None:
        self.where = where


def test_a_malicious_pickle_is_not_run(tmp_path: Path) -> None:
    config = MAKERS["cifar10_python"](tmp_path)
    batch, struck = tmp_path / "cifar-10-batches-py/data_batch_1", tmp_path / "struck"
    pickle.loads(pickle.dumps(Evil(str(struck))))
    assert struck.is_dir()  # it would have
    struck.rmdir()
    for tree in (Evil(str(struck)), {b"data": Evil(str(struck)), b"labels": []}, {b"data": np.zeros((1, 3072)), b"labels": [0]}):
        for protocol in (0, 2, 5):
            batch.write_bytes(pickle.dumps(tree, protocol=protocol))
            with pytest.raises(DataError, match="data_batch_1"):
                load(config)
    assert not struck.exists()


def test_archives_that_would_grow_without_end_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images", "labels"):
            archive.writestr(f"{name}.npy", b"\0" * 200_000_000)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DataError, match="would grow from"):
        load({"name": "npz", "path": str(path)})
    made_files.fashion_mnist(tmp_path)
    import gzip  # noqa: PLC0415

    images = tmp_path / "train-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(gzip.decompress(images.read_bytes()) + b"\0" * 100_000_000))
    with pytest.raises(DataError, match=r"9,408 bytes after the header(.|\n)*more"):
        load({"name": "fashion_mnist", "path": str(tmp_path)})


def test_arrays_that_would_run_code_or_lie_about_their_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, images=np.array([Evil("x")], dtype=object), labels=np.zeros(1, int))
    with pytest.raises(DataError, match="allow_pickle"):
        load({"name": "npz", "path": str(path)})
    for images, labels, words in (
        (np.zeros((2, 8, 8)), [0, 1], "float64"),
        (np.zeros((2, 8, 8), np.uint8), [0], "as many labels"),
        (np.zeros((2, 8, 8), np.uint8), [0, -1], "-1 in row 1"),
        (np.zeros((2, 8, 8), np.uint8), [0.5, 1], "whole numbers"),
        (np.zeros((2, 8, 8, 4), np.uint8), [0, 1], "shape"),
    ):
        np.savez(path, images=images, labels=np.array(labels))
        with pytest.raises(DataError, match=words):
            load({"name": "npz", "path": str(path)})


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"picture": [b"x"], "label": [0]}, "none is called image or img; there are picture, label"),
        ({"img": [b"x"], "label": [-1]}, "-1 in row 0"),
        ({"img": [b"x", b"y"], "label": [0, None]}, "none in row 1"),
        ({"img": [b"x"], "label": [0.5]}, "double"),
        ({"img": [3], "label": [0]}, r"row 0\n(.|\n)*a int instead of a picture"),
        ({"img": [{"bytes": None, "path": "a.png"}], "label": [0]}, "no picture in this row"),
        ({"img": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "no row"),
    ],
)
def test_parquet_columns_that_are_not_pictures_and_labels_are_named(
    columns: dict[str, object], words: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "some.parquet")
    with pytest.raises(DataError, match=words):
        load({"name": "parquet", "path": str(tmp_path / "some.parquet")})


def test_a_wrong_label_is_named_with_its_place(tmp_path: Path) -> None:
    for name, file, place, words in (
        ("cifar10", "data_batch_2.bin", 3 * 3073, r"label 77 at byte 9,219 \(image 3\)"),
        ("mnist", "train-labels-idx1-ubyte", 8 + 5, r"label 77 of image 5 \(byte 13\)"),
    ):
        root = tmp_path / name
        root.mkdir()
        config = MAKERS[name](root)
        content = bytearray((root / file).read_bytes())
        content[place] = 77
        (root / file).write_bytes(content)
        with pytest.raises(DataError, match=words):
            load(config)
    (tmp_path / "celeba").mkdir()
    config = MAKERS["celeba"](tmp_path / "celeba")
    attributes = tmp_path / "celeba/list_attr_celeba.txt"
    good = attributes.read_text()
    for old, new, words in (("000002.png", "000099.png", "attributes of 000002.png"), (" 1 -1\n", " 1 2\n", "line 3")):
        attributes.write_text(good.replace(old, new, 1))
        with pytest.raises(DataError, match=words):
            load(config)


def test_parquet_labels_may_be_names_and_missing(tmp_path: Path) -> None:
    images = [png(image) for image in pixels(3, 16)]
    pq.write_table(pa.table({"image": images, "label": ["cba"[label] for label in LABELS]}), tmp_path / "names.parquet")
    named = load({"name": "parquet", "path": str(tmp_path / "names.parquet")})
    assert np.array_equal(named.labels, 2 - LABELS)
    pq.write_table(pa.table({"image": images}), tmp_path / "none.parquet")
    unlabelled = load({"name": "parquet", "path": str(tmp_path / "none.parquet")})
    assert (unlabelled.num_classes, unlabelled.labels.max()) == (1, 0)
    with pytest.raises(DataError, match=r"data\.label_column\n(.|\n)*a column of(.|\n)*image"):
        load({"name": "parquet", "path": str(tmp_path / "none.parquet"), "label_column": "klass"})


def test_owners_come_from_a_column_a_folder_or_an_array(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    data = load({**MAKERS["parquet"](tmp_path / "p"), "client_column": "site"})
    assert data.owners is not None
    assert data.owners.tolist() == [row % 2 for row in range(NUM)]
    data = load(MAKERS["npz"](tmp_path))
    assert data.owners is not None
    assert np.array_equal(data.owners, LABELS)
    for client, rows in (("anna", range(4)), ("ben", range(4, NUM))):
        for row in rows:
            folder = tmp_path / "f" / client / "xyz"[LABELS[row]]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row}.png").write_bytes(png(pixels(3, 16)[row]))
    data = load({"name": "image_folder", "path": str(tmp_path / "f"), "client_folders": True})
    assert data.owners is not None
    assert (np.bincount(data.owners).tolist(), np.bincount(data.labels).tolist()) == ([4, 8], [4, 4, 4])


Mutation = Callable[[Path, st.DataObject], None]


def cut(path: Path, data: st.DataObject) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])


def flip(path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content) - 1, 4000)))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)


def garbage(path: Path, data: st.DataObject) -> None:
    path.write_bytes(data.draw(st.binary(max_size=200)))


def grow(path: Path, data: st.DataObject) -> None:
    path.write_bytes(path.read_bytes() + data.draw(st.binary(min_size=1, max_size=100)))


def folder(path: Path, _: st.DataObject) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path, _: st.DataObject) -> None:
    path.unlink()
    path.symlink_to(path.name)


def pipe(path: Path, _: st.DataObject) -> None:
    path.unlink()
    os.mkfifo(path)


def gone(path: Path, _: st.DataObject) -> None:
    path.unlink()


MUTATIONS: list[Mutation] = [cut, flip, flip, garbage, grow, folder, loop, pipe, gone]


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_one_message_or_does_no_harm(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        config = MAKERS[name](root)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        data.draw(st.sampled_from(MUTATIONS))(data.draw(st.sampled_from(files)), data)
        with contextlib.suppress(UserError):  # anything else is a fault
            assert 0 < len(load(config)) <= 2 * NUM
