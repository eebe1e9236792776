"""Learned worlds: record, learn, step, judge.

Importing this package registers the gymnasium ids and loads no torch.
"""

__version__ = "0.1.0"
