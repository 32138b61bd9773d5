"""Images of files and records on their way to one size."""

from typing import Any

from vaejax.checks import check_count


def import_pillow() -> Any:
    """The module `PIL.Image`.

    Raises:
      ModuleNotFoundError: pillow is not installed.
    """
    try:
        from PIL import Image  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('images need pillow: pip install "vaejax[data]"') from error
    return Image


def check_fit(size: Any, crop: Any) -> None:
    """Raise `TypeError` or `ValueError` on what `fit_image` cannot do."""
    if crop is not None:
        check_count("crop", crop)
    if size is not None:
        if not isinstance(size, tuple | list) or len(size) != 2:
            raise TypeError(f"size must be (height, width); got {size!r}")
        for name, number in zip(("height", "width"), size, strict=True):
            check_count(f"size: {name}", number)


def fit_image(image: Any, size: tuple[int, int] | None, crop: int | None) -> Any:
    """An image of PIL, cut and resized.

    First a centred square of `crop` pixels is cut out; where a pixel is left over, it is one on the right or below.
    Then whole pixels that are too many for the aspect of `size` are cut off on both sides in the same way, and the
    rest is resized by PIL's bilinear filter, which averages where it shrinks.

    Raises:
      ValueError: an image that is smaller than `crop`.
    """
    if crop is not None:
        if crop > min(image.size):
            raise ValueError(f"crop must be at most the {min(image.size)} pixels of the image; got {crop}")
        image = _cut(image, crop, crop)
    return image if size is None else _resize(image, *size)


def _cut(image: Any, height: int, width: int) -> Any:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _resize(image: Any, height: int, width: int) -> Any:
    # The largest part of that aspect, to a pixel. The filter would look beyond a box that is not cut out.
    scale = min(image.width / width, image.height / height)
    part = _cut(image, max(1, round(scale * height)), max(1, round(scale * width)))
    return part.resize((width, height), import_pillow().Resampling.BILINEAR)
