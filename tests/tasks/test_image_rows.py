"""Weights that a network begins with, and features that are computed once."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from unrolled.core.errors import UsageError
from unrolled.data.examples import Examples, Images
from unrolled.data.image_batches import ImageChanges
from unrolled.nn.convolution import BasicBlock, ResidualNetwork
from unrolled.nn.image_encoder import ImageEncoder
from unrolled.nn.image_settings import EncoderConfig, build_encoder
from unrolled.tasks import image_rows
from unrolled.tasks.image_rows import (
    begin_encoder,
    changes_of,
    computed,
    read_weights,
    with_features,
)
from unrolled.training.precision import ComputeDevice

CPU = ComputeDevice(torch.device("cpu"), "fp32", "for tests")
Weights = dict[str, Tensor]


def begun(path: Path, **settings: Any) -> ImageEncoder:
    config = EncoderConfig.read({"weights": str(path), **settings})
    encoder = build_encoder(config)
    begin_encoder(encoder, config)
    return encoder


def refused(path: Path, **settings: Any) -> str:
    config = EncoderConfig.read({"weights": str(path), **settings})
    encoder = build_encoder(config)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        begin_encoder(encoder, config)
    # all of the weights or none
    torch.testing.assert_close(dict(encoder.state_dict()), before, rtol=0, atol=0)
    return str(caught.value)


@pytest.fixture(scope="module")
def trained() -> Weights:
    """Weights of the network ``small``, as a training leaves them."""
    torch.manual_seed(1)
    network = build_encoder(EncoderConfig()).network.train()
    network(torch.randn(4, 3, 32, 32))
    return dict(network.state_dict())


# ---------------------------------------------------------------------- files of weights


@pytest.mark.parametrize("suffix", [".safetensors", ".SAFETENSORS", ".pth", ".pt"])
def test_a_network_begins_with_the_weights_of_a_file(
    trained: Weights, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    with_classifier = {**trained, "fc.weight": torch.ones(2, 256)}
    save: Any = save_file if suffix.lower() == ".safetensors" else torch.save
    save(with_classifier, path)
    encoder = begun(path, freeze=2)
    torch.testing.assert_close(
        dict(encoder.network.state_dict()), trained, rtol=0, atol=0
    )
    assert not encoder.network.conv1.weight.requires_grad


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_checkpoint_of_a_training_is_read_too(
    trained: Weights, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "checkpoint.pth"
    parallel = {f"module.{name}": tensor for name, tensor in trained.items()}
    torch.save({key: parallel, "epoch": 7, "optimizer": {"lr": [0.1]}}, path)
    torch.testing.assert_close(
        dict(begun(path).network.state_dict()), trained, rtol=0, atol=0
    )


def test_parameters_are_weights_and_half_precision_is_widened(
    trained: Weights, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in trained.items()
    }
    halves["conv1.weight"] = nn.Parameter(halves["conv1.weight"])
    torch.save(halves, path)
    weight = begun(path).network.state_dict()["conv1.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, trained["conv1.weight"].half().float())


def test_files_from_before_batches_were_counted_are_read(
    trained: Weights, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    old = {
        name: tensor
        for name, tensor in trained.items()
        if not name.endswith("num_batches_tracked")
    }
    assert len(old) < len(trained)
    torch.save(old, path)
    own = begun(path).network.state_dict()
    for name, tensor in old.items():
        assert torch.equal(own[name], tensor), name
    assert own["bn1.num_batches_tracked"] == 0


def test_published_names_of_lite0_are_read(tmp_path: Path) -> None:
    torch.manual_seed(2)
    path = tmp_path / "lite0.pth"
    config = EncoderConfig.read({"network": "lite0", "weights": str(path)})
    names = {
        "stem.": "_conv_stem.",
        "stem_norm.": "_bn0.",
        "head.": "_conv_head.",
        "head_norm.": "_bn1.",
        "blocks.": "_blocks.",
    }
    inner = {
        ".expand.": "._expand_conv.",
        ".expand_norm.": "._bn0.",
        ".depthwise.": "._depthwise_conv.",
        ".depthwise_norm.": "._bn1.",
        ".project.": "._project_conv.",
        ".project_norm.": "._bn2.",
    }
    weights = build_encoder(config).network.state_dict()
    published: Weights = {"_fc.weight": torch.ones(3, 1280), "_fc.bias": torch.ones(3)}
    for name, tensor in weights.items():
        (begin,) = (start for start in names if name.startswith(start))
        spelt = names[begin] + name.removeprefix(begin)
        for ours, theirs in inner.items():
            spelt = spelt.replace(ours, theirs)
        published[spelt] = tensor
    assert "_blocks.3._bn0.running_mean" in published
    torch.save(published, path)
    encoder = begun(path, network="lite0", freeze="all")
    torch.testing.assert_close(
        dict(encoder.network.state_dict()), dict(weights), rtol=0, atol=0
    )


class Opened:
    """What creates a file when a pickle of it is read by running its code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch", "pickle", "in a state"])
def test_code_in_a_file_is_not_run(trained: Weights, tmp_path: Path, how: str) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "weights.pth"
    code = Opened(mark)
    if how == "pickle":
        path.write_bytes(pickle.dumps({"conv1.weight": code}))
    elif how == "torch":
        torch.save(code, path)
    else:
        torch.save({"state_dict": {**trained, "conv1.weight": code}}, path)
    message = refused(path)
    assert not mark.exists()
    assert "holds no weights that can be read without running code" in message
    assert message.endswith("; save them as safetensors")
    # the file is one that would have run it
    if how == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\x00" * 4000])
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    message = refused(path)
    assert message.startswith(f"encoder.weights={path} holds no weights that can be")
    assert "\n" not in message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        assert refused(path) == f"encoder.weights={path}: there is no such file"


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(2)],
        torch.ones(2),
        {"a": 1.0},
        {"a": [torch.ones(1)]},
        {3: torch.ones(1)},
    ],
)
def test_tensors_without_names_are_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    expected = f"encoder.weights={path} holds no tensors by their names"
    assert refused(path) == expected


def test_a_home_folder_is_found(
    trained: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(trained, tmp_path / "weights.safetensors")
    encoder = begun(Path("~/weights.safetensors"))
    weight = encoder.network.state_dict()["conv1.weight"]
    assert torch.equal(weight, trained["conv1.weight"])


def test_weights_of_another_network_are_refused(
    trained: Weights, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(trained, path)
    message = refused(path, network="resnet18")
    assert "lacks 'layer1.1.conv1.weight', unlike encoder.network=resnet18" in message
    assert "(40 weights missing, 0 too many)" in message
    assert message.endswith("name the network that the file is of")
    save_file({**trained, "layer5.weight": torch.ones(1)}, path)
    message = refused(path)
    assert (
        "has 'layer5.weight', unlike encoder.network=small (0 weights missing, 1"
        in message
    )
    save_file({"fc.weight": torch.ones(1)}, path)
    assert "lacks 'conv1.weight'" in refused(path)


def test_weights_of_another_shape_are_refused(trained: Weights, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({**trained, "layer2.0.bn1.weight": torch.ones(65)}, path)
    assert refused(path) == (
        f"encoder.weights={path}: layer2.0.bn1.weight has the shape (65,), and "
        "encoder.network=small (64,)"
    )


def test_names_of_a_file_are_shown_in_one_line(
    trained: Weights, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({**trained, "a\nb" * 500: torch.ones(1)}, path)
    message = refused(path)
    assert "\n" not in message
    assert len(message) < 700


@pytest.mark.parametrize("freeze", [1, "all"])
def test_random_weights_are_not_frozen(freeze: Any) -> None:
    config = EncoderConfig(freeze=freeze)
    with pytest.raises(
        UsageError, match=rf"encoder.freeze={freeze} keeps weights that"
    ):
        begin_encoder(build_encoder(config), config)


@pytest.mark.parametrize("freeze", [0, "none"])
def test_without_a_file_random_weights_are_learnt_from(freeze: Any) -> None:
    config = EncoderConfig(freeze=freeze)
    encoder = build_encoder(config)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    begin_encoder(encoder, config)
    torch.testing.assert_close(dict(encoder.state_dict()), before, rtol=0, atol=0)


def test_read_weights_returns_tensors_by_their_names(
    trained: Weights, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(trained, path)
    torch.testing.assert_close(read_weights(path), trained, rtol=0, atol=0)


# ---------------------------------------------------------------------- features


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def frozen(seed: int = 3, **settings: Any) -> ImageEncoder:
    torch.manual_seed(seed)
    network = ResidualNetwork(BasicBlock, (1, 1, 1, 1), (8, 8, 8, 10), stem=3, stride=1)
    network.bn1.running_mean.normal_()  # type: ignore[union-attr]
    return ImageEncoder(network, **{"frozen": None, **settings})


def drawn(count: int = 5, seed: int = 0) -> Examples:
    """Return seven rows of images."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 16))
    rows = np.arange(7) % count
    return Examples(np.arange(7), images=Images(pixels.astype(np.uint8), rows))


def counted(encoder: ImageEncoder) -> list[int]:
    """Return a list of how many images are read at once, from now on."""
    read: list[int] = []
    encoder.network.register_forward_pre_hook(
        lambda _, inputs: read.append(len(inputs[0]))
    )
    return read


def pixels_of(examples: Any) -> NDArray[Any]:
    return examples.images.pixels


class Holder(nn.Module):
    """A model that reads images by its source."""

    def __init__(self, source: ImageEncoder) -> None:
        super().__init__()
        self.source = source


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("compute_device", [None, CPU])
@torch.no_grad()
def test_features_are_what_the_network_says(
    held: bool, compute_device: ComputeDevice | None
) -> None:
    encoder = frozen(coordinates=True)
    examples = drawn()
    model: nn.Module = Holder(encoder) if held else encoder
    read = with_features(model, examples, compute_device)
    features = pixels_of(read)
    assert features.dtype == np.float16
    assert features.shape == (5, 4, 12)
    images = torch.from_numpy(pixels_of(examples))
    expected = encoder.eval()(images)
    torch.testing.assert_close(
        torch.from_numpy(features).float(), expected, rtol=2**-10, atol=1e-6
    )
    # rows name the images they named before, and nothing else has changed
    assert read.images.rows.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert read.lines is examples.lines
    assert pixels_of(examples).dtype == np.uint8
    taken = read.images.take(np.array([5, 1]))
    assert taken.dtype == torch.float32
    torch.testing.assert_close(taken, expected[[0, 1]], rtol=2**-10, atol=1e-6)


def test_features_are_computed_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_rows, "CHUNK", 2)
    encoder = frozen()
    read = counted(encoder)
    first = with_features(encoder, drawn())
    assert read == [2, 2, 1]
    kept = sorted(path for path in cache.rglob("*.npy"))
    assert len(kept) == 1
    # neither by this network nor by an equal one in another model
    other = frozen()
    read += counted(other)
    for model in (encoder, other, Holder(other)):
        again = with_features(model, drawn(), CPU)
        np.testing.assert_array_equal(pixels_of(again), pixels_of(first))
    assert read == [2, 2, 1]
    kept[0].write_bytes(b"damaged")
    again = with_features(encoder, drawn())
    assert read == [2, 2, 1, 2, 2, 1]
    np.testing.assert_array_equal(pixels_of(again), pixels_of(first))


def test_features_are_read_again_when_they_would_differ() -> None:
    seen = [pixels_of(with_features(frozen(), drawn()))]

    def differs(encoder: ImageEncoder, examples: Examples) -> None:
        read = counted(encoder)
        features = pixels_of(with_features(encoder, examples))
        assert read
        expected = computed(encoder, pixels_of(examples), torch.device("cpu"))
        np.testing.assert_array_equal(features, expected)
        for other in seen:
            assert features.shape != other.shape or (features != other).any()
        seen.append(features)

    differs(frozen(seed=4), drawn())
    weight_changed = frozen()
    with torch.no_grad():
        weight_changed.network.layer4[0].conv2.weight[4, 0, 0, 0] += 1  # type: ignore[union-attr]
    differs(weight_changed, drawn())
    average_changed = frozen()
    average_changed.network.bn1.running_var[0] = 3.0  # type: ignore[union-attr]
    differs(average_changed, drawn())
    differs(frozen(), drawn(seed=1))
    differs(frozen(), drawn(count=4))
    differs(frozen(coordinates=True), drawn())
    differs(frozen(means=(0.5, 0.5, 0.5)), drawn())
    differs(frozen(deviations=(0.5, 0.5, 0.5)), drawn())
    one_pixel = drawn()
    pixels_of(one_pixel)[3, 2, 15, 15] ^= 255
    differs(frozen(), one_pixel)


@pytest.mark.parametrize("count", [0, 3])
def test_images_of_a_network_that_learns_stay_pixels(count: int, cache: Path) -> None:
    examples = drawn()
    encoder = frozen(frozen=count)
    read = counted(encoder)
    assert with_features(encoder, examples) is examples
    assert with_features(nn.Linear(2, 2), examples) is examples
    assert not read
    assert not cache.exists()


def test_what_is_no_image_of_bytes_stays() -> None:
    encoder = frozen()
    without = Examples(np.arange(2))
    assert with_features(encoder, without) is without
    features = with_features(encoder, drawn())
    assert with_features(encoder, features) is features


@pytest.mark.parametrize("training", [True, False])
def test_the_network_evaluates_and_is_left_as_it_was(training: bool) -> None:
    # that of a model under way: its last stages learn, but no image is learnt from here
    encoder = frozen(frozen=2).train(training)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    features = computed(encoder, pixels_of(drawn()), torch.device("cpu"))
    assert encoder.training is training
    assert encoder.network.layer4.training is training
    torch.testing.assert_close(dict(encoder.state_dict()), before, rtol=0, atol=0)
    again = computed(encoder.eval(), pixels_of(drawn()), torch.device("cpu"))
    np.testing.assert_array_equal(features, again)


def test_images_of_a_frozen_network_are_never_changed() -> None:
    settings: dict[str, Any] = {"crop": 0.2, "flip": True, "colour": 0.1}
    for freeze in ("none", 2):
        config = EncoderConfig(freeze=freeze, **settings)
        assert changes_of(config) == ImageChanges(0.2, True, 0.1)
    assert not changes_of(EncoderConfig(freeze="all", **settings))


def test_every_row_is_of_one_image() -> None:
    images = drawn().images
    assert images is not None
    assert images.by_image() == [[0, 5], [1, 6], [2], [3], [4]]
    examples = drawn()
    assert examples.images is not None
    unread = replace(examples.images, rows=np.array([4, 4, 0, 0, 0, 0, 0]))
    rows = unread.by_image()
    assert rows == [[2, 3, 4, 5, 6], [], [], [], [0, 1]]
