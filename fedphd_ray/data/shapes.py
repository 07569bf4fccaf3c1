"""Drawing of the procedural data set: signed distances, anti-aliased, vectorised."""

import colorsys

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.seeds import Purpose, numpy_rng

CHUNK = 4096
Plane = NDArray[np.float32]


def draw_shapes(num_images: int, num_classes: int, image_size: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images float32 [N, 3, S, S] in [-1, 1] and labels int64 [N], in chunks of bounded memory."""
    labels = numpy_rng(seed, Purpose.DATASET).permutation(np.arange(num_images, dtype=np.int64) % num_classes)
    colours = np.array([_colour(label, num_classes) for label in range(num_classes)], dtype=np.float32)
    images = np.empty((num_images, 3, image_size, image_size), dtype=np.float32)
    for chunk, start in enumerate(range(0, num_images, CHUNK)):
        own = labels[start : start + CHUNK]
        rng = numpy_rng(seed, Purpose.DATASET, 1, chunk)
        coverage = _coverage(own % len(SHAPES), image_size, rng)
        brightness = rng.uniform(0.75, 1.0, (len(own), 1)).astype(np.float32)
        ground = rng.uniform(-1.0, -0.8, (len(own), 3, 1, 1)).astype(np.float32)
        paint = (2 * brightness * colours[own] - 1)[:, :, None, None]
        images[start : start + CHUNK] = ground + coverage[:, None] * (paint - ground)
    return images, labels


def _colour(label: int, num_classes: int) -> tuple[float, float, float]:
    """Hues go round the circle once over all classes; lightness alternates between classes of the same shape."""
    return colorsys.hls_to_rgb(label / num_classes, 0.55 + 0.15 * (label // len(SHAPES) % 2), 0.95)


def _coverage(kinds: NDArray[np.int64], size: int, rng: np.random.Generator) -> Plane:
    """Share of each pixel [n, S, S] that lies inside the shape, from its signed distance in pixels."""
    n = len(kinds)
    radius = rng.uniform(0.45, 0.75, (n, 1, 1)).astype(np.float32)
    centre = rng.uniform(-0.2, 0.2, (2, n, 1, 1)).astype(np.float32)
    angle = rng.uniform(-0.4, 0.4, (n, 1, 1)).astype(np.float32)
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1)[None]
    x, y = axis[:, None, :] - centre[0], axis[:, :, None] - centre[1]
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = np.empty((n, size, size), dtype=np.float32)
    for kind, shape in enumerate(SHAPES):
        own = kinds == kind
        distance[own] = shape(x[own], y[own], radius[own])
    return np.clip(0.5 - distance * size / 2, 0, 1)


def _disc(x: Plane, y: Plane, radius: Plane) -> Plane:
    return np.asarray(np.hypot(x, y) - radius)


def _square(x: Plane, y: Plane, radius: Plane) -> Plane:
    return np.asarray(np.maximum(np.abs(x), np.abs(y)) - 0.85 * radius)


def _triangle(x: Plane, y: Plane, radius: Plane) -> Plane:
    return np.asarray(np.maximum(0.866 * np.abs(x) - 0.5 * y, y) - 0.6 * radius)


def _ring(x: Plane, y: Plane, radius: Plane) -> Plane:
    return np.asarray(np.abs(np.hypot(x, y) - 0.75 * radius) - 0.25 * radius)


def _cross(x: Plane, y: Plane, radius: Plane) -> Plane:
    arm = np.minimum(np.maximum(np.abs(x), 3 * np.abs(y)), np.maximum(3 * np.abs(x), np.abs(y)))
    return np.asarray((arm - radius) / 2)


SHAPES = (_disc, _square, _triangle, _ring, _cross)
