"""The command ``lepton-edge``: parse, call one function, print."""

import os
import sys
import traceback
import warnings
from typing import TextIO

import click

from lepton_edge.cli.benchmark import benchmark
from lepton_edge.cli.card import card
from lepton_edge.cli.check import check
from lepton_edge.cli.compare import compare
from lepton_edge.cli.demo import demo
from lepton_edge.cli.doctor import doctor
from lepton_edge.cli.explain import explain
from lepton_edge.cli.export import export
from lepton_edge.cli.finetune import finetune
from lepton_edge.cli.inspect import inspect
from lepton_edge.cli.install import install
from lepton_edge.cli.on_device import INTERRUPTED
from lepton_edge.cli.report import report
from lepton_edge.cli.run import run
from lepton_edge.cli.selfcheck import selfcheck
from lepton_edge.cli.serve import serve
from lepton_edge.cli.sign import keygen, sign, verify
from lepton_edge.cli.tune import tune
from lepton_runtime.errors import LeptonError, ProfileWarning, SelfcheckWarning, TargetWarning


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lepton-edge", prog_name="lepton-edge")
@click.option("--debug", is_flag=True, help="Show tracebacks and what TensorFlow prints.")
def cli(debug: bool) -> None:
    """From a trained Keras network to verified, quantized ONNX and TFLite, measured on the device.

    Exit codes: 0 success, 1 an error, 2 wrong usage, 3 accuracy out of budget, 4 slower than allowed,
    5 not a stable measurement, 6 cannot be converted, 130 interrupted.
    """
    if debug:
        os.environ["LEPTON_EDGE_DEBUG"] = "1"


_COMMANDS = (
    *(check, export, finetune, inspect, explain, run, serve, benchmark, tune, compare, report, selfcheck, doctor, demo),
    *(card, keygen, sign, verify, install),
)
for command in _COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line; every deliberate error is one line on stderr and its exit code."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_ours(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
        ) -> None:
            if issubclass(category, TargetWarning | ProfileWarning | SelfcheckWarning):
                click.echo(f"warning: {message}", err=True)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_ours
        _run()


def _run() -> None:
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: nothing was left half-written", err=True)
        sys.exit(INTERRUPTED)
    except (LeptonError, OSError) as error:
        if os.environ.get("LEPTON_EDGE_DEBUG") == "1":
            traceback.print_exc()
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as `head` does
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # so that the exit does not fail on it again
            sys.exit(1)
        advice = (
            "" if isinstance(error, LeptonError) else "; files must be readable and writable: check the disk's free space and permissions"
        )
        click.echo(f"error: {error}{advice}", err=True)
        sys.exit(error.exit_code if isinstance(error, LeptonError) else 1)
    sys.exit(code if isinstance(code, int) else 0)
