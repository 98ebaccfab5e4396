"""Go through many images: learn from those that are labelled, find the regions of all others.

`queries` are the images; `fitted` chooses the labelled ones and learns from them, and `holdout`
measures what to expect. `answers` segments images and gives each result to a keeper (`sinks`),
`workers` does so on several processes, `journal` has a line per finished image, and `jobs` is all
of that together, resumable. `export` writes what was found in any format of `piclip.formats`, and
which images a person should label next.
"""

from piclip.annotation.answers import How, answers
from piclip.annotation.jobs import Job, mask_job, region_job
from piclip.annotation.queries import Queries, Query, query_files

__all__ = ["How", "Job", "Queries", "Query", "answers", "mask_job", "query_files", "region_job"]
