"""What people have on disk, made here: data sets, the same twelve pictures in each format, and models of diffusers."""

import gzip
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from diffusers import UNet2DModel
from PIL import Image

from fedphd_ray.seeds import Purpose, global_torch_seed

NUM = 12
LABELS = np.arange(NUM) % 3


def pixels(channels: int, size: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (NUM, channels, size, size), np.uint8)


def png(array: np.ndarray) -> bytes:
    """[C, H, W]."""
    stream = io.BytesIO()
    Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0)).save(stream, "PNG")
    return stream.getvalue()


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(root: Path) -> dict[str, object]:
    (root / "train-images-idx3-ubyte").write_bytes(idx(pixels(1, 28)[:, 0]))
    (root / "train-labels-idx1-ubyte").write_bytes(idx(LABELS.astype(np.uint8)))
    return {"name": "mnist", "path": str(root)}


def fashion_mnist(root: Path) -> dict[str, object]:
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels(1, 28)[:, 0])))
    (root / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS.astype(np.uint8))))
    return {"name": "fashion_mnist", "path": str(root)}


def cifar_records(images: np.ndarray, labels: np.ndarray) -> bytes:
    return np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], axis=1).tobytes()


def cifar10(root: Path) -> dict[str, object]:
    images = pixels(3, 32)
    for number, rows in enumerate((slice(0, 5), slice(5, NUM)), 1):
        (root / f"data_batch_{number}.bin").write_bytes(cifar_records(images[rows], LABELS[rows]))
    return {"name": "cifar10", "path": str(root)}


def cifar10_python(root: Path) -> dict[str, object]:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    tree = {b"data": pixels(3, 32).reshape(NUM, -1), b"labels": LABELS.tolist(), b"batch_label": b"training batch 1 of 1"}
    (folder / "data_batch_1").write_bytes(pickle.dumps(tree, protocol=2))
    return {"name": "cifar10", "path": str(root)}


def celeba(root: Path) -> dict[str, object]:
    (root / "img_align_celeba").mkdir()
    attributes, parts = [f"{NUM}", "Male Smiling Young"], []
    for row, (image, label) in enumerate(zip(pixels(3, 32), LABELS, strict=True)):
        name = f"{row:06d}.png"
        (root / "img_align_celeba" / name).write_bytes(png(image))
        attributes.append(f"{name} {1 if label >= 2 else -1} 1 {1 if label % 2 else -1}")
        parts.append(f"{name} 0")
    (root / "list_attr_celeba.txt").write_text("\n".join(attributes) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return {"name": "celeba", "path": str(root), "image_size": 32}


def image_folder(root: Path) -> dict[str, object]:
    for row, (image, label) in enumerate(zip(pixels(3, 16), LABELS, strict=True)):
        folder = root / "abc"[label]
        folder.mkdir(exist_ok=True)
        (folder / f"{row:03d}.png").write_bytes(png(image))
    return {"name": "image_folder", "path": str(root)}


def parquet(root: Path) -> dict[str, object]:
    for shard, rows in enumerate((range(5), range(5, NUM))):
        images = [{"bytes": png(pixels(3, 16)[row]), "path": None} for row in rows]
        table = pa.table({"img": images, "label": [int(LABELS[row]) for row in rows], "site": ["nw"[row % 2] for row in rows]})
        names = {"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}
        pq.write_table(
            table.replace_schema_metadata({"huggingface": json.dumps(names)}), root / f"train-0000{shard}-of-00002.parquet"
        )
    return {"name": "parquet", "path": str(root)}


def npz(root: Path) -> dict[str, object]:
    images = pixels(3, 16).transpose(0, 2, 3, 1)
    np.savez_compressed(root / "some.npz", train_images=images, train_labels=LABELS[:, None].astype(np.uint8), clients=LABELS)
    return {"name": "npz", "path": str(root / "some.npz")}


MAKERS: dict[str, Callable[[Path], dict[str, object]]] = {
    made.__name__: made for made in (mnist, fashion_mnist, cifar10, cifar10_python, celeba, image_folder, parquet, npz)
}


def stock(directory: Path, **changes: object) -> Path:
    """A small grey U-Net as diffusers saves it."""
    kwargs: dict[str, object] = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
        "norm_num_groups": 2,
    }
    with global_torch_seed(0, Purpose.INITIAL_MODEL):
        UNet2DModel(**(kwargs | changes)).save_pretrained(directory)
    return directory
