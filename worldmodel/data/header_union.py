"""The common header of several files, which are read as one dataset."""

from __future__ import annotations

import dataclasses

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.data.header import ENV_FIELDS, Header, PolicyRecord


def combine(headers: list[Header], names: list[str]) -> tuple[Header, list[np.ndarray]]:
    """The common header of several files of the same environment.

    The result has the policies of all files. Policies with the same name and hash are the same policy; if one name
    has several hashes, each gets the name "name@hash" (8 characters of the hash). Shares are means over files; seed
    and code version are those of the first file, action keys those of the first file that has some.

    Args:
        headers: the header of each file, at least one.
        names: the names of the files in error messages.

    Returns:
        The header, and for each file an array that maps its policy numbers to those of the new header.

    Raises:
        UserError: two files are of different environments; the message names the field.
    """
    if len(headers) == 1:
        return headers[0], [np.arange(len(headers[0].policies))]
    for header, name in zip(headers[1:], names[1:], strict=True):
        difference = headers[0].difference(header, ENV_FIELDS)
        if difference:
            raise UserError(
                f"'{names[0]}' and '{name}' cannot be read as one dataset: {difference}. "
                "Read them separately, or record both with the same settings."
            )
    records = [policy for header in headers for policy in header.policies]
    hashes: dict[str, set[str]] = {}
    for record in records:
        hashes.setdefault(record.name, set()).add(record.hash)
    combined: dict[tuple[str, str], PolicyRecord] = {}
    for record in records:
        key = (record.name, record.hash)
        label = record.name if len(hashes[record.name]) == 1 else f"{record.name}@{record.hash[:8] or 'none'}"
        share = sum(r.share for r in records if (r.name, r.hash) == key) / len(headers)
        combined.setdefault(key, PolicyRecord(label, record.hash, record.params, min(share, 1.0)))
    numbers = {key: number for number, key in enumerate(combined)}
    maps = [np.asarray([numbers[p.name, p.hash] for p in header.policies]) for header in headers]
    same_run = len({header.num_episodes for header in headers}) == 1 and headers[0].shard[1] > 1
    total = headers[0].num_episodes if same_run else sum(len(header.indices) for header in headers)
    common = dataclasses.replace(
        headers[0],
        policies=tuple(combined.values()),
        shard=(0, 1),
        num_episodes=total,
        action_keys=next((header.action_keys for header in headers if header.action_keys), ()),
    )
    return common, maps
