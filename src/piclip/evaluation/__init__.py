"""Episodes in, figures out: metrics, records, tables, calibration and benchmarks."""
