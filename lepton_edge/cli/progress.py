"""What long work says on the terminal while it is under way."""

import signal
import sys
from collections.abc import Callable
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
        self._handler = signal.signal(signal.SIGINT, self._interrupt)
        self._started = monotonic()
        self._is_terminal = sys.stderr.isatty()
        return self._show

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._handler)
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
