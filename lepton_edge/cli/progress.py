"""What long work says on the terminal while it is under way."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lepton_converters import Step


class StepPrinter:
    """Says on stderr what an export or a fine-tuning is doing: a line a result, and on a terminal how far it is.

    It also sees to it that Ctrl-C ends it: a KeyboardInterrupt that is raised inside a callback of
    TensorFlow's is lost there, so the next step raises it again.
    """

    def __enter__(self) -> Callable[["Step"], None]:
        self._is_interrupted = False
        self._handlers = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        self._started = monotonic()
        self._is_terminal = sys.stderr.isatty()
        return self._show

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._is_terminal:
            click.echo("\r\033[K", nl=False, err=True)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._is_interrupted = True
        raise KeyboardInterrupt

    def _show(self, step: "Step") -> None:
        if self._is_interrupted:
            raise KeyboardInterrupt
        line = (
            f"  {step.name:<8} {step.subject:<28} {step.detail or step.doing or f'{100 * step.fraction:3.0f} %':<40} "
            f"{monotonic() - self._started:6.1f} s"
        )
        if step.detail:
            click.echo(("\r\033[K" if self._is_terminal else "") + line, err=True)
        elif self._is_terminal:
            click.echo(f"\r\033[K{line}", nl=False, err=True)


@contextmanager
def ending_as_ctrl_c() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C meanwhile, so that nothing is left behind; an engine in a call hears neither."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


FORCED = "LEPTON_EDGE_PROGRESS"
"""The environment variable that, set to 1, says that stderr reaches a terminal though it is none."""


def reaches_terminal() -> bool:
    """Whether what is written to stderr is seen on a terminal."""
    return sys.stderr.isatty() or os.environ.get(FORCED) == "1"


class ProgressLine:
    """One line on a terminal that is written over, and gone at the end; nothing elsewhere.

    Meanwhile SIGTERM, as a service manager sends it, ends a measurement as Ctrl-C does.
    """

    def __enter__(self) -> "ProgressLine":
        self._handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._is_terminal = reaches_terminal()
        self.say("starting")
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGTERM, self._handler)
        self.clear()

    def __call__(self, done: float, text: str) -> None:
        """Show the share that is done, 0 to 1, and what is under way."""
        filled = round(24 * done)
        self.say(f"{'━' * filled}{'─' * (24 - filled)} {100 * done:3.0f} %  {text}")

    def say(self, text: str) -> None:
        """Show a text in place of the one before."""
        self.clear()
        if self._is_terminal:
            click.echo(f"  {text}", nl=False, err=True)

    def clear(self) -> None:
        """Make room for what others write."""
        if self._is_terminal:
            click.echo("\r\033[K", nl=False, err=True, color=True)
