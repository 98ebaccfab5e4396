"""The web page ``piclip app``: label a few images, get masks for the rest, without Python.

`session` holds what a browser tab has and computes; it knows nothing of the page.
`page`, `handlers` and `api` need the extra [app].
"""
