"""Metrics of few-shot segmentation."""
