"""Annotate a folder: learn from the images that are labelled, propose regions for the others.

The pieces of ``piclip annotate``, in the order in which it uses them: `fitted` chooses the
labelled images and learns from them, `holdout` measures what to expect, `proposals` finds the
other images and their regions, `journal` keeps each finished image, and `export` writes them in
any format of `piclip.formats`, and which images a person should label next.
"""
