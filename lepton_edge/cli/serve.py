"""``lepton-edge serve``."""

import socket
from contextlib import ExitStack
from pathlib import Path

import click

from lepton_edge.cli.options import check_trusted, comma_list, engine_option, precision_option, trusted_keys_option
from lepton_runtime.errors import InputError, MissingExtraError


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 is for everybody who reaches this machine."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes any that is free.")
@click.option(
    "--hostname",
    "hostnames",
    multiple=True,
    callback=comma_list(str),
    metavar="NAME",
    help="Names under which it may be asked. [default: this machine's own with 127.0.0.1, any with others]",
)
@trusted_keys_option
@precision_option
@engine_option
@click.option("--threads", type=click.IntRange(1), help="Of one inference. [default: as tuned, else 1]")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="How many requests are computed at a time.")
@click.option("--queue", type=click.IntRange(0), default=32, show_default=True, help="How many more may wait; others get 429.")
@click.option(
    "--max-body",
    "max_body_mb",
    type=click.FloatRange(0, min_open=True),
    default=16.0,
    show_default=True,
    metavar="MB",
    help="Of one request.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="For a request to arrive, and for its turn to come.",
)
def serve(
    bundles: tuple[Path, ...],
    host: str,
    port: int,
    hostnames: tuple[str, ...],
    trusted_keys: Path | None,
    precision: str | None,
    engine: str | None,
    threads: int | None,
    workers: int,
    queue: int,
    max_body_mb: float,
    timeout_s: float,
) -> None:
    """Serve BUNDLES over HTTP, by the Open Inference Protocol v2, until SIGTERM or Ctrl-C.

    A model is called as its bundle without the suffix: cats.bundle is POST /v2/models/cats/infer. It takes what `run` takes: the
    model's own input, already preprocessed; raw values for texts and tables; and with "parameters": {"preprocess": true} one raw
    picture. /metrics is for Prometheus.

    There is no encryption and no password: beyond this machine, put a proxy that has them before it.
    """
    try:
        import uvicorn

        from lepton_edge.serving import LOOPBACK, Limits, Service
    except ImportError:
        raise MissingExtraError('serving needs an HTTP server: pip install "lepton-edge[serve]"') from None
    from lepton_edge.cli.stream import ended_by_signals
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.session import Session

    names = [path.name.removesuffix(".zip").removesuffix(".bundle") for path in bundles]
    if len(set(names)) < len(names):
        raise InputError(f"each bundle must have a name of its own, found {', '.join(names)}; rename one of two, it is called by that")
    limits = Limits(body_bytes=int(max_body_mb * 1e6), queue=queue, timeout_s=timeout_s, workers=workers)
    with ExitStack() as stack:
        sessions = {}
        for name, path in zip(names, bundles, strict=True):
            bundle = Bundle.open(path)
            check_trusted(bundle, trusted_keys)
            bundle.check()
            sessions[name] = stack.enter_context(Session.open(bundle, precision=precision, engine=engine, threads=threads))
        try:
            listening = stack.enter_context(socket.create_server((host, port), backlog=128))
        except OSError as error:
            raise InputError(
                f"--host and --port must be free to listen on, {host}:{port} is not: {error}; --port 0 takes another"
            ) from error
        # Else an answer on a connection that is kept waits 40 ms for the client's acknowledgement: asyncio leaves this to whoever made it.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hosts = list(hostnames) or (None if host in LOOPBACK else ["*"])
        config = uvicorn.Config(
            Service(sessions, limits).app(hosts=hosts),
            log_level="warning",
            access_log=False,
            limit_concurrency=4 * (queue + workers) + 64,  # connections, so that idle ones are not without end
            timeout_graceful_shutdown=int(timeout_s) + 1,
        )
        place = f"http://{host}:{listening.getsockname()[1]}"
        click.echo(f"serving {', '.join(names)} on {place}; for example: curl {place}/v2/models/{names[0]}", err=True)
        with ended_by_signals(lambda: None):  # uvicorn's own handlers end it, and raise the signal again for those before them
            uvicorn.Server(config).run(sockets=[listening])
        click.echo("stopped: what had been taken was answered", err=True)
