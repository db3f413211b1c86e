"""Writes the bundle that is shipped with the package: the demo's network as ONNX fp32 and static-int8 with uint8 doors.

python benchmarks/make_digits_bundle.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from lepton_converters import export
from lepton_converters.digits_model import train_digits
from lepton_edge.digits import load_digits, shipped_bundle
from lepton_runtime import Format, Precision


def main() -> None:
    """Train, export and say what came out."""
    digits = load_digits()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "digits.keras"
        train_digits(digits.train_images, digits.train_labels).save(model)
        np.savez(Path(folder) / "train.npz", x=digits.train_images, y=digits.train_labels)
        np.savez(Path(folder) / "test.npz", x=digits.test_images, y=digits.test_labels)
        result = export(
            model,
            shipped_bundle(),
            formats=[Format.ONNX],
            precisions=[Precision.FP32, Precision.STATIC_INT8],
            calib=f"{folder}/train.npz",
            evaluate=f"{folder}/test.npz",
            io="uint8",  # integer answers are the same to the bit on every CPU; a float softmax is not
            labels=[str(number) for number in range(10)],
            license_="weights trained on a part of MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0)",
            force=True,
        )
    for record in result.verified:
        print(record.file, record.size_bytes, record.accuracy, record.verdict)


if __name__ == "__main__":
    main()
