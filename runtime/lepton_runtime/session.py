"""One loaded model: arrays in, arrays out; or a picture, a text or a row of a table in, named answers out."""

import atexit
import ctypes
import math
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast, overload
from weakref import WeakSet

import numpy as np

from lepton_runtime.bundle import Bundle
from lepton_runtime.choice import choose_artifact, other_choices
from lepton_runtime.cpu import may_saturate, saturation_text
from lepton_runtime.device_profile import DeviceProfile, load_profile, optimized_path, read_optimized, warn_of_optimized
from lepton_runtime.engines import Engine, engine_of, open_engine
from lepton_runtime.engines.budget import BudgetedEngine, ThreadBudget
from lepton_runtime.engines.ending import EndingEngine, wait_for_calls
from lepton_runtime.errors import BundleError, InputError, LeptonError, TargetWarning, UnsupportedError
from lepton_runtime.labels import Prediction, class_output, rank_labels
from lepton_runtime.manifest import ArtifactRecord
from lepton_runtime.memory import check_memory
from lepton_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from lepton_runtime.encoders import Encoder

_SHOWN = 5  # answers, of all that a network has scores for

_sessions: "WeakSet[Session]" = WeakSet()


class Session:
    """One artifact of a bundle, loaded. Safe to call from many threads, and in a process that is forked off, which loads it anew.

    Attributes:
        bundle: Where it comes from.
        artifact: Which of the bundle's models it is.
        engine: The name of what runs it.
        threads: How many threads one call may use.
        spins: Whether these wait actively for work while a call goes on.
        timeout_s: How long a call may take, in seconds; ``None`` if it may take for ever.
        encoders: What :meth:`encode` runs before it, for texts and tables.
        inputs: What :meth:`run` takes; the noise of a model that keeps its dropout is drawn where it is not given.
    """

    def __init__(
        self,
        bundle: Bundle,
        artifact: ArtifactRecord,
        *,
        engine: str | None = None,
        threads: int = 1,
        spins: bool = True,
        timeout_s: float | None = None,
        seed: int | None = None,
        optimized: bytes | None = None,
        budget: ThreadBudget | None = None,
    ) -> None:
        """Load one artifact; :meth:`open` chooses it for you. A :class:`TargetWarning` says if it may answer wrongly on this CPU.

        Args:
            bundle: Where it comes from.
            artifact: Which of the bundle's models.
            engine: What runs it; by default the first of its format.
            threads: How many threads one call may use.
            spins: Whether these wait actively for work while a call goes on; onnxruntime only.
            timeout_s: How long a call may take, in seconds; onnxruntime only.
            seed: Of the noise that it draws, for a model that keeps its dropout; by default another each time.
            optimized: The artifact as the engine has rewritten it on this device, to be loaded in its place.
            budget: Shared with other sessions, whose calls wait for each other.

        Raises:
            BundleError: The file is damaged, or the engine cannot load it.
            UnsupportedError: The engine cannot be stopped, as ``timeout_s`` asks for.
            MissingExtraError: The engine is not installed.
            LeptonError: There is surely not enough memory for it.
        """
        if not isinstance(threads, int) or threads < 1:
            raise InputError(f"threads must be a whole number of at least 1, found {threads!r}")
        if timeout_s is not None and not (isinstance(timeout_s, float | int) and 0 < timeout_s < math.inf):
            raise InputError(f"timeout_s must be a number of seconds above 0, found {timeout_s!r}")
        if may_saturate(artifact):
            warnings.warn(saturation_text(artifact), TargetWarning, stacklevel=2)
        self.bundle = bundle
        self.artifact = artifact
        self.engine = engine or engine_of(artifact)
        self.threads = threads
        self.spins = spins
        self.timeout_s = timeout_s
        self.encoders: tuple[Encoder, ...] = bundle.load_encoders()
        self._budget = budget
        self._engine: Engine | None = self._load(optimized)
        self._is_closed = False
        self._bound: tuple[Array, Array, Callable[[], object]] | None = None
        self._spec = artifact.inputs[0]
        self._dtype = np.dtype(self._spec.dtype)
        noise = bundle.manifest.noise_inputs
        self.inputs = tuple(spec for spec in artifact.inputs if spec.name not in noise)
        self._noise = tuple(spec for spec in artifact.inputs if spec.name in noise)
        self._seed = seed
        self._generator = np.random.default_rng(seed) if noise else None
        self._generator_lock, self._loading = threading.Lock(), threading.Lock()
        self._is_simple = len(self.inputs) == len(artifact.outputs) == 1
        _sessions.add(self)

    def _load(self, optimized: bytes | None = None) -> Engine:
        check_memory(self.engine, self.artifact.file, self.artifact.size_bytes)
        engine = open_engine(
            self.engine,
            self.bundle.read(self.artifact) if optimized is None else optimized,
            inputs=self.artifact.inputs,
            outputs=self.artifact.outputs,
            threads=self.threads,
            spins=self.spins,
            timeout_s=self.timeout_s,
            is_optimized=optimized is not None,
        )
        return engine if self._budget is None else BudgetedEngine(engine, self._budget, self.threads)

    def _loaded_again(self) -> Engine:
        """The engine, in a process that was forked off: its threads are the parent's.

        Raises:
            LeptonError: The session is closed.
        """
        if self._is_closed:
            raise LeptonError("the session must be open, it was closed; open a new one")
        with self._loading:
            if self._engine is None:
                self._engine = self._load()
            return self._engine

    @classmethod
    def open(
        cls,
        bundle: str | Path | Bundle,
        *,
        precision: str | None = None,
        engine: str | None = None,
        threads: int | None = None,
        timeout_s: float | None = None,
        seed: int | None = None,
        selfcheck: bool = False,
        budget: ThreadBudget | None = None,
        trusted_keys: str | Path | None = None,
    ) -> "Session":
        """A session on one artifact of a bundle.

        Where ``lepton-edge tune`` has measured the bundle on this device, and neither precision, engine nor threads are given, it
        is the fastest variant; a :class:`ProfileWarning` says if that was measured on another device or with another engine.

        Else, without ``precision``, it is the one closest to the source model, ``fp32`` if there is one. Without
        ``engine`` it is onnxruntime, or LiteRT for a bundle that holds TFLite files only. One that may answer wrongly on
        this CPU is taken if there is no other, with a :class:`TargetWarning`.

        Args:
            bundle: A bundle folder, its ``.zip``, or an opened bundle.
            precision: ``fp32``, ``fp16``, ``dynamic-int8``, ``static-int8`` or ``int16x8``.
            engine: ``onnxruntime``, ``litert`` or ``openvino``.
            threads: How many threads one call may use; 1 by default.
            timeout_s: How long a call may take, in seconds, waiting for a budget aside; one that takes longer is stopped at the next
                operator, and raises a :class:`CallTimeoutError`. The session can be called again. onnxruntime only.
            seed: Of the noise that a model draws which keeps its dropout, to have the same answers again.
            selfcheck: Run the bundle's golden inputs first, and open the next artifact that gives the golden answers here, with a
                :class:`SelfcheckWarning`, if the one that would be opened does not: on the engine that was asked for, or any that
                is installed, of the nearest precision, with ``fp32`` at last.
            budget: How many threads this and other sessions may use at a time, together: their calls wait for each other.
            trusted_keys: A folder with public keys, see :class:`lepton_runtime.signature.TrustedKeys`: a bundle that none of them signed
                is refused.

        Raises:
            SignatureError: No trusted key signed it, as it is.
            BundleError: The bundle is missing, damaged or too new; or, with ``selfcheck``, nothing in it is right on this machine.
            InputError: It holds no such artifact, or ``threads`` is below 1.
            UnsupportedError: The engine cannot be stopped, as ``timeout_s`` asks for.
            MissingExtraError: The engine is not installed.
            LeptonError: There is surely not enough memory for it.
        """
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        if trusted_keys is not None:
            from lepton_runtime.signature import TrustedKeys  # for those who ask

            TrustedKeys.read(trusted_keys).check_bundle(bundle)
        profile = load_profile(bundle) if precision is None and engine is None and threads is None else None
        record = choose_artifact(bundle, precision=precision, engine=engine) if profile is None else bundle.artifact(profile.file)
        settings: dict[str, Any] = {"timeout_s": timeout_s, "seed": seed, "budget": budget}

        chosen = {**settings, "threads": 1 if threads is None else threads}

        def first() -> Session:
            return cls._open_profile(bundle, profile, settings) if profile else cls(bundle, record, engine=engine, **chosen)

        if not selfcheck:
            return first()
        from lepton_runtime.selfcheck import open_right  # golden arrays are for those who ask

        used = profile.engine if profile else engine or engine_of(record)
        others = other_choices(bundle, record, used, only_engine=engine)
        openers: list[tuple[str, Callable[[], Session]]] = [(f"{record.file} on {used}", first)]
        openers += [(f"{other.file} on {name}", partial(cls, bundle, other, engine=name, **chosen)) for other, name in others]
        return open_right(bundle, openers)

    @classmethod
    def _open_profile(cls, bundle: Bundle, profile: DeviceProfile, settings: dict[str, Any]) -> "Session":
        """What was found to be the fastest on this device, as the engine has rewritten it where that is kept."""
        record = bundle.artifact(profile.file)
        settings = {**settings, "engine": profile.engine, "threads": profile.threads, "spins": profile.spins}
        optimized = read_optimized(bundle, profile)
        if optimized is not None:
            try:
                return cls(bundle, record, **settings, optimized=optimized)
            except BundleError as error:
                warn_of_optimized(optimized_path(bundle), f"must be one that {profile.engine} loads: {error}")
        return cls(bundle, record, **settings)

    @overload
    def run(self, inputs: Array, *, out: Array | None = None) -> Array: ...
    @overload
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...
    def run(self, inputs: Array | Mapping[str, Array], *, out: Array | None = None) -> Array | dict[str, Array]:
        """The model's answer: an array for an array, or named outputs for named inputs.

        Values are taken as the model takes them: already preprocessed, batch axis included. NaN and
        infinity pass; ask ``session.artifact.inputs[0].check(array, finite=True)`` where they must not.

        Args:
            inputs: An array for a model with one input and one output, such as
                ``(batch, height, width, channels)`` float32; otherwise one array a name.
            out: For a model with one input and one output: the array that the answer is written into. Called again and again
                with the same two arrays, the engine reads and writes them where they are, which saves a few microseconds.
                Between calls the values may change, shapes, types and flags must not.

        Raises:
            InputError: Something does not fit the model.
            CallTimeoutError: It took longer than the session's calls may.
            LeptonError: The session is closed, or there is not enough memory.
        """
        engine = self._engine or self._loaded_again()
        if out is not None:
            bound = self._bound
            if bound is not None and bound[0] is inputs and bound[1] is out:
                bound[2]()
                return out
            return self._run_into(engine, inputs, out)
        if self._is_simple and isinstance(inputs, np.ndarray):
            if inputs.dtype != self._dtype or inputs.shape != self._spec.shape or type(inputs) is not np.ndarray:
                self._spec.check(inputs)
            return engine.run((inputs, *self._draw(self._noise, len(inputs))) if self._noise else (inputs,))[0]
        return self._run_named(engine, inputs)

    @overload
    async def run_async(self, inputs: Array) -> Array: ...
    @overload
    async def run_async(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...
    async def run_async(self, inputs: Array | Mapping[str, Array]) -> Array | dict[str, Array]:
        """What :meth:`run` gives, without holding up an ``asyncio`` loop: it computes in one of the loop's threads.

        A task that is cancelled stops waiting; the call itself goes on to its end.

        Raises:
            InputError: Something does not fit the model.
            LeptonError: The session is closed.
        """
        import asyncio  # for those who wait

        run = cast(Callable[[Any], Any], self.run)  # one of its overloads
        return await asyncio.to_thread(run, inputs)

    def _run_into(self, engine: Engine, inputs: Array | Mapping[str, Array], out: Array) -> Array:
        """The answer in a caller's array; the engine remembers both arrays for the next call."""
        if not self._is_simple or not isinstance(inputs, np.ndarray):
            raise InputError(f"out is for a model with one input and one output that is given an array, found {type(inputs).__name__}")
        self._spec.check(inputs)
        try:
            self.artifact.outputs[0].check(out)
        except InputError as error:
            raise InputError(f"out must be able to take the answer: {str(error).removeprefix('input ')}") from None
        if not (out.flags.c_contiguous and out.flags.writeable) or np.may_share_memory(inputs, out):
            raise InputError("out must be contiguous, writable, and no part of the input; numpy.empty(shape, dtype) makes such an array")
        if self._noise or not inputs.flags.c_contiguous:
            answer = self.run(inputs)
            if answer.shape != out.shape:
                raise InputError(f"out must have the shape of the answer, {answer.shape}, found {out.shape}")
            np.copyto(out, answer)
            return out
        call = engine.bind((inputs,), (out,))
        call()
        if self._engine is engine:  # it was not closed meanwhile
            self._bound = inputs, out, call
        return out

    @overload
    def run_batch(self, inputs: Array) -> Array: ...
    @overload
    def run_batch(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...
    def run_batch(self, inputs: Array | Mapping[str, Array]) -> Array | dict[str, Array]:
        """The model's answers to any number of samples, in as many calls as its batch makes of them.

        The last call of a model with a batch of more than one is filled up with its last sample.

        Args:
            inputs: As :meth:`run` takes them, with as many samples in the first axis as there are.

        Returns:
            What :meth:`run` gives, with as many rows as there are samples.

        Raises:
            InputError: Something does not fit the model, or there are no samples.
        """
        if not isinstance(inputs, np.ndarray | Mapping):
            raise InputError(f"run_batch takes a numpy array, or a mapping from input names to arrays, found {type(inputs).__name__}")
        given = {self._spec.name: inputs} if isinstance(inputs, np.ndarray) else inputs
        counts = {name: len(array) if np.ndim(array) else 0 for name, array in given.items()}
        count = next(iter(counts.values()), 0)
        if count < 1 or set(counts.values()) != {count}:
            raise InputError(f"every input must hold the same number of samples, at least 1, found {counts}")
        batch = self._spec.shape[0] or count
        parts = []
        for start in range(0, count, batch):
            chunk = {name: array[start : start + batch] for name, array in given.items()}
            missing = batch - min(batch, count - start)
            if missing:
                chunk = {name: np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for name, array in chunk.items()}
            answer = self.run(chunk[self._spec.name]) if isinstance(inputs, np.ndarray) else self.run(chunk)
            parts.append(answer if isinstance(answer, dict) else {"": answer})
        joined = {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}
        return joined[""] if isinstance(inputs, np.ndarray) else joined

    def _run_named(self, engine: Engine, inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
        wanted = [spec.name for spec in self.inputs]
        if not isinstance(inputs, Mapping):
            outputs = [spec.name for spec in self.artifact.outputs]
            raise InputError(
                f"run takes a numpy array for a model with one input and one output, else a mapping from input names to arrays; "
                f"found {type(inputs).__name__} for inputs {wanted} and outputs {outputs}"
            )
        if set(inputs) - {spec.name for spec in self._noise} != set(wanted):
            remedy = "; call run(encode(sample)) for raw values" if self.encoders else ""
            raise InputError(f"the model's inputs are {wanted}, found {list(inputs)}{remedy}")
        for spec in self.artifact.inputs:
            if spec.name in inputs:
                spec.check(inputs[spec.name])
        missing = [spec for spec in self._noise if spec.name not in inputs]
        if missing:
            drawn = self._draw(missing, len(inputs[wanted[0]]))
            inputs = {**inputs, **{spec.name: noise for spec, noise in zip(missing, drawn, strict=True)}}
        answers = engine.run([inputs[spec.name] for spec in self.artifact.inputs])
        return {spec.name: answer for spec, answer in zip(self.artifact.outputs, answers, strict=True)}

    def _draw(self, specs: Sequence[TensorSpec], samples: int) -> list[Array]:
        """Fresh noise for dropout, uniform from 0 to 1."""
        assert self._generator is not None
        with self._generator_lock:  # a generator must not be shared by threads
            drawn = [self._generator.random([samples if axis is None else axis for axis in spec.shape], np.float32) for spec in specs]
        return [spec.quantize(noise) for spec, noise in zip(specs, drawn, strict=True)]

    def preprocess(self, image: str | Path | Array) -> Array:
        """The model's input for one picture or raw sample, batch axis included.

        Args:
            image: An image file; or an array as :meth:`lepton_runtime.Preprocessing.apply` takes it. For a bundle whose models take
                frames it is made one: a frame that a camera gave needs nothing but a batch axis, for :meth:`run`.

        Raises:
            InputError: It does not fit, or holds NaN or infinity.
            UnsupportedError: The bundle records no preprocessing, or its batch is not 1.
            MissingExtraError: Pillow is needed and not installed.
        """
        steps = self.bundle.manifest.preprocessing
        if steps is None or self._spec.shape[0] not in (1, None):
            raise UnsupportedError(
                f"preprocessing one sample needs a model with one input and a batch of 1, found inputs "
                f"{', '.join(map(str, self.artifact.inputs))}; prepare the arrays yourself and call run"
            )
        sample = steps.load(image) if isinstance(image, str | Path) else steps.apply(np.asarray(image))
        batch = sample[None]
        self.bundle.manifest.inputs[0].check(batch, finite=True)
        return self._spec.quantize(batch)

    def encode(self, raw: Any) -> dict[str, Array]:  # Any: whatever a caller has
        """What :meth:`run` takes for raw values: texts, or the columns of a table, with the ids that Keras gives them.

        Args:
            raw: A mapping from the names of the raw inputs to a value each, or to a list or an array of them, one a
                sample; for a single raw input, such as a text, the value or values alone do.

        Raises:
            InputError: A name or a value does not fit.
            UnsupportedError: The model takes a picture or an array; :meth:`preprocess` is for those.
        """
        from lepton_runtime.encoders import encode, read_samples  # for texts and tables only: it would cost every start

        manifest = self.bundle.manifest
        if not self.encoders and manifest.preprocessing is not None:
            raise UnsupportedError(
                f"encode is for models of texts and tables, this one takes {', '.join(map(str, manifest.inputs))}; call predict"
            )
        encoded = encode(self.encoders, read_samples(manifest.given_inputs, self.encoders, raw))
        return {spec.name: spec.quantize(encoded[spec.name]) for spec in self.inputs}

    def predict(self, sample: str | Path | Array | Mapping[str, Any], *, count: int | None = None) -> list[Prediction]:
        """Named answers for one picture, text, row of a table or other raw sample, the best first.

        The recorded preprocessing is done here: values are given raw, as they are before it (0 to 255 for a photo),
        where :meth:`run` takes them behind it.

        Args:
            sample: For a model of pictures an image file, or a raw array such as ``(height, width, channels)`` uint8 in
                RGB order. For a model of texts the text. For one of tables a mapping from columns to values.
            count: How many answers at the most; by default 5, or as many as there are where the models choose them.

        Raises:
            InputError: It does not fit the model.
            UnsupportedError: The model has several inputs of arrays, or no output of class scores.
            MissingExtraError: Pillow is needed and not installed.

        Returns:
            The answers; of a detector each a :class:`lepton_runtime.Detection`, with its box.
        """
        labels, answers, spec = self.bundle.manifest.labels, self.bundle.manifest.answers, class_output(self.artifact.outputs)
        is_ranked = answers is not None and answers.top_k is not None
        if not is_ranked and (spec is None or (spec.shape[1] == 1 and not labels)):
            raise UnsupportedError(
                f"predict needs an output of (batch, classes), or one sigmoid unit with two labels, "
                f"found {', '.join(map(str, self.artifact.outputs))}; "
                f"call run({'encode' if self.encoders else 'preprocess'}(sample))"
            )
        inputs = self.encode(sample) if self.encoders or isinstance(sample, Mapping) else {self._spec.name: self.preprocess(sample)}
        found = self.named(self.run(inputs), count=count)
        if len(found) != 1:
            raise InputError(f"predict takes one sample, found {len(found)}; call run(encode(samples)) for several")
        return found[0]

    def named(self, outputs: Array | Mapping[str, Array], *, count: int | None = None) -> list[list[Prediction]]:
        """Named answers, the best first, to each sample of what :meth:`run` gave; none if no output holds class scores.

        Args:
            outputs: By name; or the array of a single one.
            count: How many answers at the most to a sample, as in :meth:`predict`.
        """
        labels, answers, spec = self.bundle.manifest.labels, self.bundle.manifest.answers, class_output(self.artifact.outputs)
        outputs = outputs if isinstance(outputs, Mapping) else {self.artifact.outputs[0].name: outputs}
        if answers is not None and answers.top_k is not None:
            return answers.named(outputs, labels, count=count)
        return [rank_labels(row, labels, count=count or _SHOWN) for row in spec.dequantize(outputs[spec.name])] if spec else []

    def __reduce__(self) -> tuple[Any, ...]:
        """To send to another process, or to copy: it is opened again there, of the same bundle."""
        if self._is_closed or self._budget is not None:
            what = "was closed" if self._is_closed else "has a budget, which is one of this process"
            raise LeptonError(
                f"a session that is sent to another process or copied must be open and on its own, this one {what}; open one there"
            )
        settings = {"engine": self.engine, "threads": self.threads, "spins": self.spins, "timeout_s": self.timeout_s, "seed": self._seed}
        return _opened_again, (str(self.bundle.path.absolute()), self.bundle.digest, self.artifact.file, settings)

    def close(self) -> None:
        """Free the model. Calls that are under way end normally; later ones are refused."""
        self._is_closed = True
        self._engine = self._bound = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def _opened_again(path: str, digest: str, file: str, settings: dict[str, Any]) -> Session:
    """A session that was pickled, in the process that it was sent to.

    Raises:
        BundleError: The bundle is not there, or is another by now.
    """
    bundle = Bundle.open(path)
    if bundle.digest != digest:
        raise BundleError(f"{path!r} must be the bundle that the session was opened on, it was changed since; open it again")
    return Session(bundle, bundle.artifact(file), **settings)


def _leave_engines_behind() -> None:
    """In a process that was forked off: an engine's threads and locks are the parent's, to use or to free it may hang."""
    for session in list(_sessions):
        for left in (session._engine, session._bound):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(left))  # never freed, not even when the process ends
        if session._budget is not None:
            session._budget.reset()
        session._engine = session._bound = None
        session._loading, session._generator_lock = threading.Lock(), threading.Lock()
        if session._generator is not None:  # it has a lock of its own; and without a seed no two processes draw the same
            session._generator = np.random.default_rng(session._seed)


def _let_calls_end() -> None:
    """Before Python shuts down: calls of daemon threads end, and no new ones begin."""
    for session in list(_sessions):
        if session._engine is not None:
            session._bound, session._engine = None, EndingEngine(session._engine)
    wait_for_calls()


atexit.register(_let_calls_end)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_leave_engines_behind)
