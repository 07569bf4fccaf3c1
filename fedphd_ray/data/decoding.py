"""From the bytes of a picture to pixels, by stated rules.

Turned as its EXIF says. Colours on 8 bits a channel; of 16-bit grey the upper half. Transparent places are white. Made square by
cutting the middle out and scaling that (bicubic, antialiased). Of an animation the first picture.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MOST_PIXELS = 64_000_000  # of one picture: 8,000 x 8,000
RUNS_PROGRAMS = {"EPS", "WMF"}  # formats that Pillow has another program draw
GREY, WIDE_GREY, SEE_THROUGH = {"1", "L"}, {"I", "I;16", "I;16B", "I;16L"}, {"LA", "La", "PA", "RGBA", "RGBa"}


def decode(data: bytes, size: int | None) -> NDArray[np.uint8]:
    """Pixels [C, S, S] of an encoded picture; C is 1 for a grey one, 3 for colour.

    Args:
        data: of the file.
        size: S; None takes the picture as it is, which must be square.

    Raises:
        ValueError: it cannot be read, or is too large, or is not square and no size is given.
    """
    # Pillow raises nearly anything on damaged files: SyntaxError, struct.error, IndexError, ...
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")
            return pixels_of(ImageOps.exif_transpose(image), size)
    except Image.DecompressionBombError:
        raise ValueError(f"more than {MOST_PIXELS:,} pixels") from None
    except Exception as error:
        said = "not a picture of a known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(said or type(error).__name__) from None


def pixels_of(image: Image.Image, size: int | None) -> NDArray[np.uint8]:
    """Pixels [C, S, S] of an opened picture; see `decode`."""
    if size is None and image.width != image.height:
        raise ValueError(f"{image.width} x {image.height} pixels, and data.image_size does not say to what square it is cut")
    image = _eight_bits(image)
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def fitted(images: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    """Pictures [N, C, H, W] cut and scaled to [N, C, S, S]; as they are if that is what they are already."""
    channels, height, width = images.shape[1:]
    if size is None or (height, width) == (size, size):
        return images
    made = np.empty((len(images), channels, size, size), np.uint8)
    for row, image in enumerate(images):
        made[row] = pixels_of(Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0)), size)
    return made


def formats() -> tuple[str, ...]:
    """The formats that Pillow reads by itself."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - RUNS_PROGRAMS))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Pillow warns of what it mends or what is large; what it cannot read it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _eight_bits(image: Image.Image) -> Image.Image:
    """Of mode L or RGB."""
    if image.mode in GREY:
        return image.convert("L")
    if image.mode in WIDE_GREY:
        return Image.fromarray((np.clip(np.asarray(image), 0, 65_535) // 256).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("grey values as floating-point numbers, whose range nobody states")
    if image.mode in SEE_THROUGH or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("L" if image.mode in ("LA", "La") else "RGB")
    return image.convert("RGB")
