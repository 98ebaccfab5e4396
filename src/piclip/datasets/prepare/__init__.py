"""Bringing the benchmarks to disk: download, unpack, merge, check."""
