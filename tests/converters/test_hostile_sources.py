"""Model files that were made to do harm, or were damaged so that they do: all are refused, and this process lives on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_converters import export, model_file, model_reader
from lepton_converters.keras_source import KerasSource
from lepton_converters.model_file import read_model_file
from lepton_converters.weight_limit import limited_weights
from lepton_runtime import InputError, UnsupportedError

DATA = Path(__file__).parent / "data"
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def plain(keras, tmp_path: Path) -> Path:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="first"), keras.layers.Dense(2, name="second")])
    model.save(tmp_path / "plain.keras")
    return tmp_path / "plain.keras"


def edited(plain: Path, edit: Edit) -> Path:
    """The file with another configuration."""

    def change(files: dict[str, bytes]) -> None:
        config = json.loads(files["config.json"])
        edit(config)
        files["config.json"] = json.dumps(config).encode()

    return repacked(plain, change)


def repacked(plain: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(plain) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    path = plain.with_name("hostile.keras")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def first_layer(config: dict[str, Any]) -> dict[str, Any]:
    return config["config"]["layers"][1]


# Programs


def with_object(**value: Any) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        first_layer(config).update(registered_name=None, build_config={"input_shape": [None, 4]}, **value)

    return edit


GADGETS = {
    "os.system": with_object(module="os", class_name="system", config={"command": "touch ran"}),
    "subprocess.Popen": with_object(module="subprocess", class_name="Popen", config={"args": ["touch", "ran"]}),
    "get_file": with_object(module="keras.utils", class_name="get_file", config={"fname": "ran", "origin": "file:///etc/passwd"}),
    "unsafe": with_object(module="keras.config", class_name="enable_unsafe_deserialization", config={}),
    "function": lambda config: first_layer(config)["config"].update(
        activation={"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
    ),
}


@pytest.mark.parametrize("gadget", GADGETS)
def test_a_configuration_that_names_code_runs_none(gadget: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for trust_code in (False, True):
        with pytest.raises((InputError, UnsupportedError)):
            KerasSource.open(edited(plain, GADGETS[gadget]), trust_code=trust_code)
    assert not list(tmp_path.rglob("ran"))
    assert not (Path.home() / ".keras/datasets/ran").exists()


@pytest.mark.parametrize("kind", ["TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"])
def test_layers_that_load_a_program_need_trust(kind: str, plain: Path, tmp_path: Path) -> None:
    settings = {"name": "inner", "filepath": "/elsewhere", "module": "gASVAAAA"}
    path = edited(plain, with_object(module="keras.layers", class_name=kind, config=settings))
    with pytest.raises(UnsupportedError, match=rf"holds code in the {kind} layer 'inner'.* add --trust-code"):
        KerasSource.open(path)
    with pytest.raises(UnsupportedError, match=r"inner.* holds code.* add --trust-code"):
        export(path, tmp_path / "b")


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_lambda_does_not_run_untrusted(ending: str, keras, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    twice = keras.layers.Lambda(lambda x: [__import__("os").system("touch ran"), 2 * x][1], output_shape=(4,))
    model = keras.Sequential([keras.Input((4,)), twice])
    model.save(tmp_path / f"m.{ending}")
    with pytest.raises(UnsupportedError, match=r"holds code in the Lambda layer .* add --trust-code"):
        KerasSource.open(tmp_path / f"m.{ending}")
    assert not (tmp_path / "ran").exists()


def test_a_saved_model_is_not_even_read_untrusted(tmp_path: Path) -> None:
    with zipfile.ZipFile(DATA / "keras2_saved_model.zip") as archive:
        archive.extractall(tmp_path)
    folder = next(tmp_path.rglob("saved_model.pb")).parent
    (folder / "saved_model.pb").unlink()
    os.mkfifo(folder / "saved_model.pb")  # whoever reads it waits for ever
    with pytest.raises(InputError, match=r"a model is a .keras or .h5 file, or a SavedModel folder"):
        KerasSource.open(folder)
    (folder / "saved_model.pb").unlink()
    (folder / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(UnsupportedError, match=r"is a program.* add --trust-code"):
        KerasSource.open(folder)


def test_a_vocabulary_is_not_taken_from_a_file_of_this_machine(plain: Path) -> None:
    settings = {"name": "lookup", "vocabulary": "/etc/passwd", "max_tokens": None, "num_oov_indices": 1, "output_mode": "int"}
    path = edited(plain, with_object(module="keras.layers", class_name="StringLookup", config=settings))
    with pytest.raises(InputError, match="must be able to load"):
        KerasSource.open(path)


# Sizes


def test_a_zip_bomb_is_not_unpacked(plain: Path) -> None:
    path = plain.with_name("bomb.keras")
    shutil.copy(plain, path)
    with zipfile.ZipFile(plain) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["config.json"] += b" " * (2**30)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    del files
    with pytest.raises(InputError, match=r"must unpack to at most 100 times its size, 'config.json' .* that say they are 1,073,7"):
        read_model_file(path)


@pytest.mark.parametrize(
    ("text", "because"),
    [
        (b" " * (64 * 2**20 + 1), r"must have a config.json under 64 MiB"),
        (b"[" * 100_000, r"must hold a readable model configuration"),
        (b"[" * 200 + b"]" * 200, r"must be nested at most 150 deep"),
        (b"[" + b"[[[]]]," * 8_000_000 + b"[]]", r"must be readable with 1130 MB of memory, it asks for more"),
    ],
    ids=["large", "unreadable", "deep", "many"],
)
def test_a_configuration_has_limits(text: bytes, because: str, plain: Path) -> None:
    with pytest.raises(InputError, match=because):
        read_model_file(repacked(plain, lambda files: files.update({"config.json": text})))


@pytest.mark.parametrize("name", ["../../escaped.txt", "/tmp/escaped.txt", "assets/../../escaped.txt", "..\\escaped.txt"])
def test_a_part_has_its_place_inside(name: str, plain: Path) -> None:
    with pytest.raises(InputError, match=r"must have a name of its own inside of it, found '.*escaped"):
        KerasSource.open(repacked(plain, lambda files: files.update({name: b"x"})))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_part_is_there_once(plain: Path) -> None:
    with zipfile.ZipFile(plain, "a") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(InputError, match=r"must have a name of its own inside of it, found 'config.json'"):
        read_model_file(plain)


@pytest.mark.parametrize("units", [2**34, 10_000_000])
def test_a_configuration_asks_for_no_more_weights_than_the_file_has(units: int, plain: Path) -> None:
    path = edited(plain, lambda config: first_layer(config)["config"].update(units=units))
    with pytest.raises(InputError, match=rf"its configuration asks for {4 * units:,} and more, it holds 23; save the model again"):
        KerasSource.open(path)


def test_each_thread_has_its_own_limit(keras, plain: Path) -> None:
    """Two loads at once, and a layer that is built meanwhile."""
    inside, done = threading.Event(), threading.Event()

    def load() -> None:
        with limited_weights(1, plain):
            inside.set()
            assert done.wait(60)

    thread = threading.Thread(target=load)
    thread.start()
    assert inside.wait(60)
    with limited_weights(10**7, plain):
        keras.layers.Dense(3000).build((None, 3000))
    done.set()
    thread.join()
    keras.layers.Dense(3000).build((None, 3000))
    with pytest.raises(InputError, match="asks for 9,000,000 and more, it holds 1"), limited_weights(1, plain):
        keras.layers.Dense(3000).build((None, 3000))


def weights_of(path: Path, change: Callable[[Any], None]) -> Path:
    """The file with other HDF5 content: of a ``.keras`` file, the part inside."""
    import h5py

    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            change(file)
        return path
    inner = path.with_name("inner.h5")

    def repack(files: dict[str, bytes]) -> None:
        inner.write_bytes(files["model.weights.h5"])
        with h5py.File(inner, "r+") as file:
            change(file)
        files["model.weights.h5"] = inner.read_bytes()

    return repacked(path, repack)


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("kind", ["huge", "crumbs", "packed", "promised", "twice", "external", "virtual", "link", "soft link"])
def test_weights_are_in_the_file_itself(kind: str, ending: str, keras, plain: Path, tmp_path: Path) -> None:
    import h5py

    (tmp_path / "secret").write_bytes(np.arange(12, dtype=np.float32).tobytes())

    def change(file: Any) -> None:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) and item.shape == (4, 3) else None)
        del file[names[0]]
        group, _, name = names[0].rpartition("/")
        if kind == "huge":
            file[group].create_dataset(name, (2**34,), "float32")
        elif kind == "crumbs":  # HDF5 would keep a record for each of 25 million pieces, in a file of a megabyte
            file[group].create_dataset(name, (5000, 5000), "float32", chunks=(1, 1))
        elif kind == "packed":
            file[group].create_dataset(name, (2**14, 2**12), "float32", compression="gzip", fillvalue=0)[0, 0] = 1
        elif kind == "promised":
            file[group].create_dataset(name, (4, 3), "float32", compression="gzip")
        elif kind == "twice":
            file[group].create_dataset(name, data=np.zeros((4, 3), np.float32))
            file["again"] = file[group][name]
        elif kind == "external":
            file[group].create_dataset(name, (4, 3), "float32", external=[(str(tmp_path / "secret"), 0, 48)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4, 3), "float32")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret"), "x", (4, 3))
            file[group].create_virtual_dataset(name, layout)
        else:
            file[group][name] = h5py.ExternalLink(str(tmp_path / "secret"), "x") if kind == "link" else h5py.SoftLink("/elsewhere")

    path = plain
    if ending == "h5":
        keras.saving.load_model(plain).save(path := tmp_path / "plain.h5")
    size = r"is to have 68,719,476,736 bytes and the file holds 0 of them"
    because = {
        "huge": size,
        "crumbs": r"is to have 100,000,000 bytes",
        "packed": r"is to have 268,435,456 bytes",
        "promised": r"is to have 48 bytes and the file holds 0 of them",
        "twice": "is there by two names",
        "external": "values are in another file",
        "virtual": "values are in another file",
    }.get(kind, "is a link to")
    with pytest.raises(InputError, match=rf"all weights must be in '.*' itself, .*{because}.*; save the model again"):
        KerasSource.open(weights_of(path, change))


def test_another_store_of_weights_is_not_read(plain: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        files["model.weights.npz"] = files.pop("model.weights.h5")

    with pytest.raises(InputError, match=r"must hold its weights as model.weights.h5"):
        KerasSource.open(repacked(plain, change))


# The process that reads


@pytest.mark.parametrize("name", ["circle_64.h5", "circle_512.h5"])
def test_a_damaged_file_leads_its_reader_in_circles_and_not_us(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(DATA / "damaged_h5.zip") as archive:
        archive.extract(name, tmp_path)
    with pytest.raises(
        InputError, match=r"must be readable within 10 s of computing, it was not: a damaged file can lead its reader in circles"
    ):
        KerasSource.open(tmp_path / name)


def test_a_reader_that_waits_is_not_waited_for(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "_WAITED", 0.001)
    with pytest.raises(InputError, match=r"must be readable within 0.01 s, it was not; is its disk well\?"):
        read_model_file(plain)


def test_a_reader_that_crashes_is_a_sentence(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"must be readable, its reader failed \(ended by signal 11\): it is damaged; copy it again"):
        read_model_file(plain)


def test_a_reader_keeps_to_lower_limits_and_finds_modules_as_we_do(plain: Path, tmp_path: Path) -> None:
    """What starts with Python may print, and a cluster may limit what a process takes."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("print('hello')\n", encoding="utf-8")
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (8, 8))
sys.path.insert(0, {str(tmp_path / "site")!r})
from pathlib import Path
from lepton_converters.model_file import read_model_file
print(read_model_file(Path({str(plain)!r})).parameters)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "23\n"


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"m.keras' is no plain file"):
        KerasSource.open(tmp_path / "m.keras")


def test_what_is_read_is_the_same_as_before(keras, plain: Path, tmp_path: Path) -> None:
    """The copy gives Keras the same weights, also of a file with text in its attributes and with an optimizer."""
    model = keras.saving.load_model(plain)
    model.compile("adam", keras.losses.MeanSquaredError())
    model.fit(np.ones((8, 4), np.float32), np.ones((8, 2), np.float32), verbose=0)
    for ending in ("keras", "h5"):
        model.save(tmp_path / f"m.{ending}")
        file = read_model_file(tmp_path / f"m.{ending}", copy=tmp_path / f"copy.{ending}")
        assert file == read_model_file(tmp_path / f"m.{ending}")
        assert file.parameters == 23
        assert file.is_compiled
        original, copied = (keras.saving.load_model(tmp_path / f"{name}.{ending}") for name in ("m", "copy"))
        for before, after in zip(
            original.variables + original.optimizer.variables, copied.variables + copied.optimizer.variables, strict=True
        ):
            np.testing.assert_array_equal(before, after)


def test_the_reader_imports_no_keras() -> None:
    code = f"import {model_reader.__name__}, sys; print([name for name in ('keras', 'tensorflow', 'onnx') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
