"""Readers on tiny files and wrong files; levels of grey."""

import gzip
import io
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_dgm import datasets

from .test_toy import TEST_FAILURE_RATE, chi_squared

DATA = Path(os.environ.get("PYRO_DGM_DATA") or Path(__file__).parents[2] / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real data: set PYRO_DGM_DATA")


def idx_bytes(array, code=8):
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_mnist(folder, split="train", images=None, labels=None):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) if images is None else images
    labels = np.array([7, 3], dtype=np.uint8) if labels is None else labels
    (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images), mtime=0))
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))


@pytest.mark.parametrize(("code", "dtype"), [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")])
def test_read_idx(tmp_path, code, dtype):
    array = np.arange(-3 if dtype != "u1" else 0, 3).astype(dtype).reshape(-1, 3)
    (tmp_path / "a").write_bytes(idx_bytes(array, code))
    tensor = datasets.read_idx(tmp_path / "a")
    assert tensor.dtype == torch.from_numpy(array).dtype and (tensor.numpy() == array).all()


def test_mnist(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    write_mnist(tmp_path, "t10k", labels=np.array([1, 2], dtype=np.uint8))
    images, labels = datasets.mnist(tmp_path)
    assert images.shape == (2, 1, 3, 4) and images.dtype == torch.uint8 and images[1, 0, 2, 3] == 23
    assert labels.dtype == torch.int64 and labels.tolist() == [7, 3]
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "mnist").symlink_to(tmp_path)
    monkeypatch.setenv("PYRO_DGM_DATA", str(tmp_path / "root"))
    assert datasets.mnist(split="test")[1].tolist() == [1, 2]


def test_stacked_mnist(tmp_path):
    images, digits = np.random.default_rng(0).integers(256, size=(10, 3, 4), dtype=np.uint8), np.arange(10)[::-1]
    write_mnist(tmp_path, images=images, labels=digits.astype(np.uint8))
    state = torch.get_rng_state()
    x, labels = datasets.stacked_mnist(tmp_path, n=500, seed=1)
    assert x.shape == (500, 3, 3, 4) and x.dtype == torch.uint8 and labels.dtype == torch.int64
    for place, unit in enumerate((100, 10, 1)):  # each channel is the image of its digit
        digit = labels // unit % 10
        assert (x[:, place].numpy() == images[9 - digit.numpy()]).all()
        assert digit.unique().tolist() == list(range(10)), "a digit is missed by 500 draws for 1e-22 of seeds"
    again = datasets.stacked_mnist(tmp_path, n=500, seed=1)
    assert torch.equal(again[0], x) and torch.equal(again[1], labels) and torch.equal(state, torch.get_rng_state())
    assert not torch.equal(datasets.stacked_mnist(tmp_path, n=500, seed=2)[1], labels)
    with pytest.raises(ValueError, match="n must be positive, got 0"):
        datasets.stacked_mnist(tmp_path, n=0)


def test_where_the_data_are(tmp_path, monkeypatch):
    monkeypatch.delenv("PYRO_DGM_DATA", raising=False)
    for read in (
        datasets.mnist,
        datasets.cifar10,
        lambda: datasets.debd("nltcs"),
        lambda: datasets.uci("yacht"),
    ):
        with pytest.raises(ValueError, match="pass folder=, or set PYRO_DGM_DATA"):
            read()
    with pytest.raises(FileNotFoundError, match="nowhere: expected the folder of mnist"):
        datasets.mnist(tmp_path / "nowhere")
    monkeypatch.setenv("PYRO_DGM_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="debd: expected the folder of debd"):
        datasets.debd("nltcs")
    for read in (datasets.read_idx, datasets.read_table, datasets.read_images):
        with pytest.raises(FileNotFoundError, match="absent: expected a f"):
            read(tmp_path / "absent")


ARRAY = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\x00\x01\x08\x02" + ARRAY[4:], r"bad: expected the magic number of an IDX file .*got 00 01 08 02"),
        (b"\x00\x00\x07\x02" + ARRAY[4:], "got 00 00 07 02"),
        (b"", "expected the magic number"),
        (ARRAY[:8], "expected a header of 12 bytes, got a file of 8"),
        (ARRAY[:-1], r"expected 6 bytes for shape \(2, 3\), got 5"),
        (ARRAY + b"\0", "got 7"),
        (gzip.compress(ARRAY, mtime=0)[:-12], "bad: expected a whole gzip file, got a damaged one"),
        (gzip.compress(ARRAY, mtime=0)[:-8] + b"12345678", "whole gzip file"),
    ],
)
def test_wrong_idx(tmp_path, content, match):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ValueError, match=match):
        datasets.read_idx(tmp_path / "bad")


def test_wrong_mnist(tmp_path):
    with pytest.raises(ValueError, match="split: expected one of train, test, got 'valid'"):
        datasets.mnist(tmp_path, "valid")
    with pytest.raises(FileNotFoundError, match=r"expected train-images-idx3-ubyte or train-images-idx3-ubyte.gz"):
        datasets.mnist(tmp_path)
    write_mnist(tmp_path, labels=np.zeros(3, dtype=np.uint8))
    with pytest.raises(ValueError, match="expected 2 labels, one for each image, got 3"):
        datasets.mnist(tmp_path)
    write_mnist(tmp_path, images=np.zeros((2, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"expected torch.uint8 with 3 axes, got torch.uint8 with 2"):
        datasets.mnist(tmp_path)


def test_debd(tmp_path):
    row = ",".join("01" * 8)
    (tmp_path / "nltcs.train.data.gz").write_bytes(gzip.compress(f"{row}\n{row}\n".encode(), mtime=0))
    (tmp_path / "mine.valid.data").write_text("1,0,1\n")
    rows = datasets.debd("nltcs", tmp_path)
    assert rows.shape == (2, 16) and rows.dtype == torch.uint8 and rows[0].tolist() == [0, 1] * 8
    assert datasets.debd("mine", tmp_path, "valid").tolist() == [[1, 0, 1]]


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("nltcs", "1,0\n", "nltcs.train.data: expected 16 columns for nltcs, got 2"),
        ("mine", "1,0\n1,2\n", "mine.train.data: expected zeros and ones only, got 2"),
        ("mine", "1,0.5\n", "zeros and ones only, got 0.5"),
        ("mine", "1,nan\n", "zeros and ones only, got nan"),
        ("mine", "1,0\n1\n", "expected 2 columns as in the first row, got 1 in row 2"),
        ("mine", "1,x\n", "expected numbers only, but .*'x'"),
        ("mine", "\n", "expected a table of numbers, got an empty file"),
    ],
)
def test_wrong_debd(tmp_path, name, text, match):
    (tmp_path / f"{name}.train.data").write_text(text)
    with pytest.raises(ValueError, match=match):
        datasets.debd(name, tmp_path)
    with pytest.raises(ValueError, match="expected one of train, valid, test"):
        datasets.debd(name, tmp_path, "validation")


def test_read_table(tmp_path):
    (tmp_path / "spaces").write_bytes(b" 1.5\t 2 \n\n-3e1  4 \r\n")
    (tmp_path / "commas.gz").write_bytes(gzip.compress(b"1,2,g\n3,4,b", mtime=0))
    assert datasets.read_table(tmp_path / "spaces").tolist() == [[1.5, 2.0], [-30.0, 4.0]]
    assert datasets.read_table(tmp_path / "commas.gz", range(1, 2)).tolist() == [[2.0], [4.0]]
    with pytest.raises(ValueError, match=r"commas.gz: expected numbers only"):
        datasets.read_table(tmp_path / "commas.gz")
    with pytest.raises(ValueError, match=r"expected columns up to 5 \(from 0\), got 3 columns"):
        datasets.read_table(tmp_path / "commas.gz", (0, 5))


def test_split_follows_the_protocol():
    table = torch.randn(57, 3, dtype=torch.float64) * 5 + 2
    parts = datasets.split(table)
    rows = table[torch.from_numpy(np.random.RandomState(0).permutation(57))]
    assert [len(part) for part in parts[:3]] == [47, 5, 5]
    for part, expected in zip(parts[:3], (rows[:47], rows[47:52], rows[52:]), strict=True):
        torch.testing.assert_close((part * parts.std + parts.mean).double(), expected, rtol=1e-5, atol=1e-5)
    assert parts.train.dtype == torch.get_default_dtype()
    torch.testing.assert_close(parts.train.mean(0), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(parts.train.square().mean(0), torch.ones(3))


def test_wrong_tables(tmp_path):
    with pytest.raises(ValueError, match=r"at least 10 rows, got shape \(9, 2\)"):
        datasets.split(torch.randn(9, 2))
    with pytest.raises(ValueError, match=r"vary on the training rows, not \[1\]"):
        datasets.split(torch.stack((torch.randn(20), torch.ones(20)), -1))
    with pytest.raises(ValueError, match=r"name: expected one of bostonHousing.*got 'houses'"):
        datasets.uci("houses", tmp_path)
    (tmp_path / "yacht.txt").write_text("1 2 3\n" * 20)
    with pytest.raises(ValueError, match=r"yacht.txt: expected 7 columns for yacht, got 3"):
        datasets.uci("yacht", tmp_path)


def test_red_wine_leaves_out_its_quality(tmp_path):
    np.savetxt(tmp_path / "wine-quality-red.txt.gz", np.random.default_rng(0).normal(size=(30, 12)))
    assert datasets.uci("wine-quality-red", tmp_path).test.shape == (3, 11)


def png(height, width, level, mode="RGB"):
    image = pytest.importorskip("PIL.Image").new(mode, (width, height), level)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(params=["folder", "zip"])
def pictures(request, tmp_path):
    """The same four pictures as a folder and as an archive, and a function that adds one."""
    root = tmp_path / ("pictures.zip" if request.param == "zip" else "pictures")

    def add(name, content):
        if request.param == "zip":
            with zipfile.ZipFile(root, "a") as archive:
                archive.writestr(name, content)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

    for name, level in (
        ("train/dog/b.PNG", 3),
        ("train/dog/a.png", 2),
        ("train/cat/a.png", 1),
        ("test/cat/a.png", 4),
    ):
        add(name, png(2, 3, (level, 0, 0)))
    add("train/dog/notes.txt", b"no picture")
    return root, add


def test_read_images(pictures):
    root, _ = pictures
    images, labels, classes = datasets.read_images(root, "train", size=(2, 3))
    assert images.shape == (3, 3, 2, 3) and images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == [1, 2, 3] and not images[:, 1:].any()
    assert labels.tolist() == [0, 1, 1] and classes == ("cat", "dog")
    grey = datasets.read_images(root, "train", channels=1, per_class=1)
    assert grey.images.shape == (2, 1, 2, 3) and grey.labels.tolist() == [0, 1]
    assert len(datasets.read_images(root).images) == 4


def test_wrong_images(pictures, tmp_path):
    root, add = pictures
    with pytest.raises(ValueError, match=r"a.png: expected 8x8 pixels \(height x width\), got 2x3"):
        datasets.read_images(root, "train", size=(8, 8))
    with pytest.raises(ValueError, match="expected images in 'valid', got none"):
        datasets.read_images(root, "valid")
    add("odd/x/a.png", png(2, 3, 0, "L"))
    add("odd/x/b.png", png(3, 2, 0, "L"))
    with pytest.raises(ValueError, match=r"b.png: expected 2x3 pixels .*got 3x2"):
        datasets.read_images(root, "odd")
    add("broken/x/a.png", png(2, 3, 0, "L")[:40])
    with pytest.raises(ValueError, match=r"broken/x/a.png: expected an image, but"):
        datasets.read_images(root, "broken")
    add("text/x/a.png", b"no picture")
    with pytest.raises(ValueError, match=r"text/x/a.png: expected an image, but"):
        datasets.read_images(root, "text")
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"bad.zip: expected a whole zip archive"):
        datasets.read_images(tmp_path / "bad.zip")


def test_digits():
    pytest.importorskip("sklearn")
    images, labels = datasets.digits()
    assert images.shape == (1797, 1, 8, 8) and images.dtype == torch.uint8 and images.max() == 16
    assert labels.dtype == torch.int64 and labels.unique().tolist() == list(range(10))


def test_missing_dependency_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"needs sklearn.datasets: pip install pyro-dgm\[datasets\]"):
        datasets.digits()


def test_import_is_cheap():
    code = """
import sys, torch, pyro
before, state = set(sys.modules), torch.get_rng_state()
import pyro_dgm.datasets
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert not new & {"sklearn", "PIL", "pooch", "scipy", "matplotlib"}, new
assert torch.get_rng_state().equal(state)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# -- levels -------------------------------------------------------------------------------------------------


def test_dequantize_is_uniform_within_its_level():
    x = torch.arange(4).repeat_interleave(10_000)
    y = datasets.dequantize(x, 4)
    assert y.dtype == torch.get_default_dtype() and (y * 4).floor().equal(x.to(y.dtype))
    counts = torch.bincount((y * 40).long(), minlength=40)
    assert chi_squared(torch.full((40,), 1 / 40), counts, len(x)) > TEST_FAILURE_RATE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dequantize_never_rounds_up(monkeypatch, dtype):
    largest = 1 - torch.finfo(dtype).eps / 2  # the largest number below 1
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, generator=None: self.fill_(largest))
    for levels in range(1, 1025):
        x = torch.arange(levels, dtype=dtype)
        y = datasets.dequantize(x, levels)
        assert y.dtype == dtype and y.max() < 1 and (y * levels).floor().equal(x)


def test_binarize_draws_with_the_intensity():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(20_000, 3)
    mean = datasets.binarize(x).mean(0)
    assert mean[0] == 0 and mean[2] == 1 and mean[1].item() == pytest.approx(0.2, abs=0.012)  # 4 deviations
    assert datasets.binarize(torch.tensor([16]), 16).tolist() == [1.0]


@pytest.mark.parametrize("draw", [datasets.dequantize, datasets.binarize])
def test_levels_generator(draw):
    x = torch.randint(0, 256, (10, 10))
    first, second = (draw(x, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.equal(second) and not first.equal(draw(x))


def test_wrong_levels():
    with pytest.raises(ValueError, match=r"dequantize: expected values in 0..16, got 0..17"):
        datasets.dequantize(torch.tensor([0, 17]), 17)
    with pytest.raises(ValueError, match="dequantize: levels must be positive, got 0"):
        datasets.dequantize(torch.tensor([0]), 0)
    with pytest.raises(ValueError, match=r"binarize: expected values in 0..1, got 0..255"):
        datasets.binarize(torch.tensor([0, 255]), 1)
    with pytest.raises(ValueError, match="binarize: maximum must be positive, got 0"):
        datasets.binarize(torch.tensor([0]), 0)
