"""Learned worlds: record, learn, step, judge.

Importing this package registers the gymnasium ids and loads no torch.
"""

from worldmodel import envs as envs  # registers the real worlds with gymnasium, by strings

__version__ = "0.1.0"
