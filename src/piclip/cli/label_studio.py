"""``piclip label-studio``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piclip.cli import options


def label_studio(
    *,
    url: Annotated[str | None, typer.Option(metavar="URL", envvar="LABEL_STUDIO_URL")] = None,
    api_key: Annotated[
        str | None, typer.Option(metavar="TOKEN", envvar="LABEL_STUDIO_API_KEY")
    ] = None,
    labels: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    model: options.ModelOrDecoder = options.DEFAULT_MODEL,
    visual: options.Visual = None,
    clip: options.Clip = None,
    threshold: options.Threshold = None,
    host: options.Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N")] = 9090,
    basic_auth: Annotated[str | None, typer.Option(metavar="USER:PASSWORD")] = None,
    local_files: Annotated[Path | None, typer.Option(metavar="DIR")] = None,
    allow_host: Annotated[list[str] | None, typer.Option(metavar="HOST")] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
) -> None:
    """Propose regions while people label in Label Studio: an ML backend that learns from them.

    It learns from the labelled tasks of the project that asks, learns anew when a label is made,
    changed or deleted, and answers with brush regions (polygons where the project has no brush).
    Add it to the project under Settings, Model, with the address that it prints.

    Ctrl-C ends it; it leaves no file behind.

    Options:
        url: Address of Label Studio to learn from.
        api_key: Your personal access token there, or legacy token; in the variable nobody else on
            this computer sees it.
        labels: Learn from this JSON export instead, whatever project asks.
        port: Port.
        basic_auth: Ask Label Studio for this login.
        local_files: Folder of Label Studio's local storage, if it is on this computer: read its
            files here instead of fetching them.
        allow_host: Fetch images from this server too; repeat it for more. Otherwise they come from
            --url and --local-files alone.

    Examples:
        LABEL_STUDIO_API_KEY=... piclip label-studio --url http://localhost:8080
        piclip label-studio --labels export.json --local-files /data/photos
        piclip label-studio --model runs/pfenet --url http://localhost:8080
        piclip label-studio --url https://labels.example.org --host 0.0.0.0
            --basic-auth anna:secret --allow-host images.example.org
    """
    import logging
    import signal
    from contextlib import ExitStack

    from piclip.cli.console import loading_model, people
    from piclip.io.addresses import is_loopback
    from piclip.label_studio.server import Settings, serve

    settings = Settings(
        model={
            "name_or_folder": model,
            "visual": visual,
            "clip": clip,
            "device": device,
            "dtype": dtype,
        },
        url=url,
        api_key=api_key,
        labels=labels,
        host=host,
        port=port,
        login=options.login_of(basic_auth, "--basic-auth"),
        local_files=local_files,
        allowed_hosts=tuple(allow_host or ()),
        threshold=threshold,
        max_pixels=max_pixels,
    )
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("piclip").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as container engines end programs
    try:
        with ExitStack() as stack:
            with loading_model():
                served = stack.enter_context(serve(settings))
            people().print(f"The ML backend is at {served.url} - press Ctrl-C to end.")
            if settings.login is None and not is_loopback(host):
                people().print(
                    "Anybody who reaches this address can use it; --basic-auth asks for a login."
                )
            served.wait()
    except KeyboardInterrupt:
        people().print("Ended.")
