"""Layers in traced graphs under the names that they have in the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lepton_converters.keras_loading import import_keras
from lepton_converters.replaced import replaced


@contextmanager
def traced_names() -> Iterator[None]:
    """Until the context ends, what a layer makes has its name, however often it is called.

    Keras 3.15 opens the scope of a layer to build it and again to call it, and TensorFlow numbers what it knows: ``conv`` would
    become ``conv_1``, which another layer may be called.
    """
    import_keras()
    from keras.src import backend

    with replaced([(backend, "name_scope", _once_named(backend.name_scope))]):
        yield


def _once_named(name_scope: Any) -> Any:
    """Keras' scope, which a layer that opens it again enters as it was.

    Source: ``tf.name_scope``: a name that ends in / is taken as it is.
    """
    import tensorflow as tf

    known: dict[tuple[int, str, int], str] = {}

    class OnceNamed(name_scope):  # type: ignore[misc]  # Keras has no type hints
        def __enter__(self) -> Any:
            opened = (id(tf.compat.v1.get_default_graph()), tf.get_current_name_scope(), id(self.caller))
            if self.caller is not None and opened in known:
                self._tf_name_scope = tf.name_scope(known[opened])
            entered = super().__enter__()
            known.setdefault(opened, f"{tf.get_current_name_scope()}/")
            return entered

    return OnceNamed
