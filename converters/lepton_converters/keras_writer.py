"""A Keras model as a ``.keras`` file that can be opened again, or no file."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_converters.keras_reader import load_model
from lepton_converters.output_place import check_folder
from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_runtime.durable import remove_stale, sync, temporary_place
from lepton_runtime.errors import InputError, OutputError, UnsupportedError

if TYPE_CHECKING:
    import keras

# What Keras and a user's own layers were seen to raise for what has no configuration.
_SAVE_ERRORS = (NotImplementedError, ValueError, TypeError, AttributeError, KeyError, RuntimeError)


def check_keras_output(path: Path, *, force: bool) -> None:
    """Refuse a file that cannot be written, before any work is done.

    Raises:
        OutputError: It has another suffix, something is there, or its folder cannot be written to.
    """
    if path.suffix != ".keras":
        raise OutputError(f"the tuned network is written as a .keras file, found {str(path)!r}; end its name in .keras")
    if path.is_dir() or (path.exists() and not force):
        advice = "choose another with --output" if path.is_dir() else "add --force to replace it, or choose another with --output"
        raise OutputError(f"the output {str(path)!r} exists{' and is a folder' if path.is_dir() else ''}; {advice}")
    check_folder(path)
    remove_stale(path)


@contextmanager
def keras_file(model: "keras.Model", path: Path, *, custom_objects: Mapping[str, Any]) -> Iterator[Callable[[], None]]:
    """A function that writes the model with the weights that it has then; that it can is tried at once.

    Args:
        model: Any that Keras saves, with its loss, metrics and optimizer if it is compiled.
        path: The ``.keras`` file; one that is there is replaced in one step, after the new one was opened.
        custom_objects: The model's own layers and functions by name.

    Raises:
        OutputError: There is no room, or no permission.
        UnsupportedError: Keras cannot save the model, or not load what it has saved.
    """
    with temporary_place(path) as folder:
        draft = folder / path.name

        def save() -> None:
            with _refusing(path):
                folder.mkdir(exist_ok=True)
                with quiet_tensorflow():
                    model.save(draft)
                sync(draft)
            try:
                # The code in it is that of the model, which was loaded already.
                load_model(draft, trust_code=True, custom_objects=custom_objects)
            except InputError as error:
                raise UnsupportedError(f"the model must be one that can be loaded again once it is saved; {error}") from error

        def write() -> None:
            save()
            with _refusing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(draft, path)
                sync(path.parent)

        save()
        yield write


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or reason_of(error)
        raise OutputError(f"the output {str(path)!r} must be writable: {reason}; nothing was left behind") from error
    except _SAVE_ERRORS as error:
        raise UnsupportedError(
            f"the model must be one that Keras can save as a .keras file: {reason_of(error)}; give its own layers a get_config"
        ) from error
