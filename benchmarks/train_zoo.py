"""Trains the reference set that quantization is measured on: eight small networks, from seeds.

    python benchmarks/train_zoo.py cifar10.zip mnist10k.npz work/ [--only resnet8 …]

The first two hold the images (a folder or zip with ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``) and the digits. They are
CIFAR-10's and MNIST's. It leaves ``work/cifar10/``, ``work/NAME.keras`` and ``work/zoo.json``, leaves out what is there already, and
prints how to export each that it trains.
``benchmarks/zoo/trained/`` holds what it left on 24 November 2026 (tensorflow 2.21.0, keras 3.15.1, two threads).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from zoo.images import MEAN, STD, augmented_batches, load_digits, load_folder, normalized, shuffled_batches, unpack
from zoo.networks import NETWORKS, Network

SEED = 20
_BATCH = 64


def train(network: Network, trained: Any, tested: Any) -> tuple[keras.Model, float]:
    """The trained network, and its accuracy on the images to test on, 0 to 1."""
    keras.utils.set_random_seed(SEED)
    model = network.build()
    images, labels = trained
    steps = len(images) // _BATCH
    rate = keras.optimizers.schedules.CosineDecay(network.rate, steps * network.epochs)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    batches = shuffled_batches if network.of_digits else augmented_batches
    model.fit(batches(images, labels, _BATCH, np.random.default_rng(SEED)), steps_per_epoch=steps, epochs=network.epochs, verbose=2)
    _, accuracy = model.evaluate(*tested, verbose=0)
    return model, float(accuracy)


def main(arguments: argparse.Namespace) -> None:
    """Unpack, train what is missing, report the accuracies and save."""
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    folder = unpack(arguments.cifar, work)
    missing = [name for name in arguments.only if not (work / f"{name}.keras").exists()]
    data: dict[bool, Any] = {}
    for name in missing:
        network = NETWORKS[name]
        if network.of_digits not in data:
            data[network.of_digits] = _digits(arguments.digits) if network.of_digits else _photos(folder)
        start = time.perf_counter()
        model, accuracy = train(network, *data[network.of_digits])
        found = {"parameters": model.count_params(), "accuracy": accuracy, "seconds": round(time.perf_counter() - start)}
        keras.Model(model.inputs, model.outputs, name=name).save(work / f"{name}.keras")  # without the optimizer's state
        record = work / "zoo.json"
        known = json.loads(record.read_text()) if record.exists() else {}
        record.write_text(json.dumps({**known, name: found}, indent=2))
        print(f"{name}: {100 * accuracy:.2f} % of the test images, {found['parameters']:,} weights, {found['seconds']} s", flush=True)
        if not network.of_digits:
            numbers = [",".join(str(value) for value in values) for values in (MEAN, STD)]
            print(
                f"lepton-edge export {work / name}.keras --calib {folder / 'train'} --eval {folder / 'test'}"
                f" --scale 1/255 --mean {numbers[0]} --std {numbers[1]} -o {work / name}.bundle"
            )


def _photos(folder: Path) -> Any:
    return tuple((normalized(images), labels) for images, labels in (load_folder(folder / part) for part in ("train", "test")))


def _digits(path: Path) -> Any:
    return tuple(((images / np.float32(255)).astype(np.float32), labels) for images, labels in load_digits(path))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("digits", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    main(parser.parse_args())
