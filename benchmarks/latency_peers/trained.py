"""A trained network's folder: ``python -m latency_peers.trained trained-NAME ZOO DIGITS FOLDER``, with labelled samples."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from fidelity_peers.samples import write_samples
from zoo.networks import NETWORKS


def main(name: str, zoo: str, digits: str, folder: str) -> None:
    """Copy the network, and say where the samples are that an export measures ranges and accuracy on."""
    network, target = name.removeprefix("trained-"), Path(folder)
    of_digits = NETWORKS[network].of_digits
    place = target.parent / "samples" / ("digits" if of_digits else "photos")
    samples = write_samples(place, photos=None if of_digits else Path(zoo) / "cifar10", digits=Path(digits) if of_digits else None)
    shutil.copyfile(Path(zoo) / f"{network}.keras", target / "trained.keras")
    np.save(target / "trained.npy", np.concatenate(list(samples.calibration()))[:64])
    found = {"calib": str(samples.train_file.resolve()), "evaluate": str(samples.evaluation_file.resolve())}
    (target / "labelled.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
