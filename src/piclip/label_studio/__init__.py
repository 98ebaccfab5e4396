"""Answer Label Studio while people label: an ML backend that learns from the same project.

`server` speaks the `protocol` over HTTP; `projects` keeps one project for each that asks, which
reads what is labelled (`tasks`), gets the images (`task_images`), learns, and turns what it finds
into `predictions` that fit the project's labelling configuration.

The protocol's own SDK, label-studio-ml, is not used. Its last release on PyPI (1.0.9, January 2023)
pins Flask 1.1.2, Werkzeug 2.0.2 and Jinja2 3.0.3, speaks the protocol of its time, and needs rq and
redis without saying so; what is maintained is not released. The protocol is five small requests, so
they are served with Starlette and uvicorn; all else that is Label Studio's own (its API client, the
brush strokes, the labelling configuration) comes from the maintained label-studio-sdk.
"""
