"""``piclip app``."""

from __future__ import annotations

from typing import Annotated

import typer

from piclip.cli import options


def app(
    model: options.ModelOrDecoder = "builtin",
    visual: options.Visual = None,
    clip: options.Clip = None,
    local_models: bool = False,
    host: options.Host = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, metavar="N")] = None,
    auth: Annotated[str | None, typer.Option(metavar="USER:PASSWORD")] = None,
    allow_host: Annotated[list[str] | None, typer.Option(metavar="NAME[:PORT]")] = None,
    max_upload_mb: Annotated[int, typer.Option(min=1, metavar="N")] = 50,
    max_images: Annotated[int, typer.Option(min=1, metavar="N")] = 100,
) -> None:
    """Serve a web page on which to label a few images and get masks for the others.

    Everything stays on this computer: no telemetry, nothing is fetched from elsewhere (but a
    model that you name), and all files are deleted when a tab is closed and when this ends.

    Options:
        local_models: Let people name folders and files of this computer as models.
        port: Port. [default: the first free from 7860]
        auth: Ask for this login.
        allow_host: Answer under this name too, such as that of a reverse proxy. Repeatable.
        max_upload_mb: Largest file that is taken, in megabytes (paint counts as PNG).
        max_images: Most images to segment at a time in one tab.

    Examples:
        piclip app
        piclip app --model openai/clip-vit-base-patch16 --local-models
        piclip app --model runs/pfenet --clip openai/clip-vit-base-patch16
        piclip app --host 0.0.0.0 --port 8000 --auth anna:secret
        piclip app --auth anna:secret --allow-host piclip.example.org
    """
    from piclip.app.server import Settings, serve
    from piclip.app.session import Limits
    from piclip.cli.console import people

    settings = Settings(
        model=model,
        visual=visual,
        clip=clip,
        local_models=local_models,
        host=host,
        port=port,
        login=options.login_of(auth, "--auth"),
        allow_hosts=tuple(allow_host or ()),
        upload_megabytes=max_upload_mb,
        limits=Limits(images=max_images),
    )
    with serve(settings) as served:
        people().print(f"The page is at {served.url} - press Ctrl-C to end.")
        if not settings.local and settings.login is None:
            people().print("Anybody who reaches this address can use it; --auth asks for a login.")
        served.page.block_thread()
