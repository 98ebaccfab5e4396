"""The web page ``piclip app``: label a few images, get masks for the rest, without Python.

`session` and `sessions` hold what a browser tab has and compute; they know nothing of the page.
`page`, `handlers` and `api` need the extra [app].
"""
