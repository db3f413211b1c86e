"""``--device``: the same command on another machine."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from lepton_edge.cli.options import keep_result
from lepton_edge.cli.progress import FORCED, ProgressLine, reaches_terminal

_RESULT = "result.json"
INTERRUPTED = 130
_RAW = "lepton_edge.raw"
_OURS = ("device", "json_path", "force")  # what is for this machine, not for the other
OnResult = Callable[[Path, dict[str, Any], str], None]


def bundle_of(path: Path) -> Path:
    """The bundle of BUNDLE or BUNDLE/FILE."""
    from lepton_runtime.bundle import MANIFEST_FILE

    is_file_of_bundle = not path.is_dir() and ((path.parent / MANIFEST_FILE).exists() or path.parent.is_file())
    return path.parent if is_file_of_bundle else path


class DeviceCommand(click.Command):
    """A command that runs on another machine with ``--device``, with the same options and the same results."""

    def __init__(self, *arguments: Any, there: Sequence[str] = (), on_result: OnResult | None = None, **settings: Any) -> None:
        """As any command.

        Args:
            arguments: Of :class:`click.Command`.
            there: Options that it gets in addition on the other machine.
            on_result: Told the bundle, its JSON document and the device's address, once it has run there.
            settings: Of :class:`click.Command`.
        """
        super().__init__(*arguments, **settings)
        self._there, self._on_result = there, on_result
        text = "Run on this machine, over the system's ssh: what it lacks is sent and installed there."
        self.params.append(click.Option(["--device"], metavar="ssh://USER@HOST", help=text))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the texts that were given beside what they stand for."""
        ctx.meta[_RAW], _, _ = self.make_parser(ctx).parse_args(list(args))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it here or there."""
        address = ctx.params.pop("device")
        if address is not None:
            ctx.exit(self._run_there(ctx, address))
        return super().invoke(ctx)

    def _run_there(self, ctx: click.Context, address: str) -> int:
        from lepton_edge.remote import run_there
        from lepton_edge.report.terminal import write_json

        json_path = ctx.params["json_path"]
        keep_result(json_path, force=ctx.params.get("force", True))
        given = [path for name in ("bundles", "bundle") for path in _listed(ctx.params.get(name))]
        places = _places(given)
        wants_result = json_path is not None or self._on_result is not None
        options = [*self._options(ctx.meta[_RAW]), *self._there, *(("--json", _RESULT) if wants_result else ())]
        engines = [*_listed(ctx.params.get("engine")), *_listed(ctx.params.get("engines"))]
        with ProgressLine() as line:
            outcome = run_there(
                address,
                [self.name or "", *options, "--", *(_place(path, places) for path in given)],
                {place: path for path, place in places.items()},
                extras="litert,openvino" if "openvino" in engines else "litert",
                environment=_terminal(),
                result=_RESULT if wants_result else "",
                on_state=lambda text: line.say(text) if text else line.clear(),
                on_output=lambda name, text: _show(name, text) if name == "err" or json_path != "-" else None,
            )
        if (document := outcome.result) is not None:
            if "command" in document:
                document["command"] = shlex.join(["lepton-edge", *sys.argv[1:]])
            if json_path:
                write_json(document, json_path)
            if self._on_result:
                self._on_result(given[0], document, address)
        if outcome.code < 0:  # ended by the signal that was to interrupt it, before it could say so
            raise KeyboardInterrupt
        return outcome.code

    def _options(self, raw: dict[str, Any]) -> Iterator[str]:
        """The options that were given, but for those that are for this machine."""
        for parameter in self.params:
            value = raw.get(parameter.name or "")
            if not isinstance(parameter, click.Option) or value is None or parameter.name in _OURS:
                continue
            if parameter.is_flag:
                yield parameter.opts[0]
            else:
                for text in _listed(value):
                    yield from (parameter.opts[0], text)


def _show(name: str, text: str) -> None:
    stream = sys.stdout if name == "out" else sys.stderr
    stream.write(text)
    stream.flush()


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _places(paths: Sequence[Path]) -> dict[Path, str]:
    """Where each bundle is there: its name, with a number before it where two have the same."""
    places: dict[Path, str] = {}
    for bundle in dict.fromkeys(map(bundle_of, paths)):
        name = bundle.resolve().name
        places[bundle] = name if name not in places.values() else f"{len(places) + 1}/{name}"
    return places


def _place(path: Path, places: dict[Path, str]) -> str:
    bundle = bundle_of(path)
    return places[bundle] if bundle == path else f"{places[bundle]}/{path.name}"


def _terminal() -> dict[str, str]:
    """What a command there has to know of the terminal here."""
    settings = {"PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
    if reaches_terminal():
        settings[FORCED] = "1"
    if sys.stdout.isatty():
        settings["COLUMNS"] = str(shutil.get_terminal_size().columns)
        settings |= {} if "NO_COLOR" in os.environ else {"FORCE_COLOR": "1"}
    if debug := os.environ.get("LEPTON_EDGE_DEBUG"):
        settings["LEPTON_EDGE_DEBUG"] = debug
    return settings
