"""Record whole episodes to one sealed file; the same call continues a stopped recording.

During a recording the folder `NAME.h5.parts/` has the part files, the workers' logs and a lock. Sealing writes NAME.h5
and removes the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from worldmodel.collect.policies import Policy
from worldmodel.collect.policy_specs import PolicySpec, choose_policy
from worldmodel.collect.rollout import play
from worldmodel.collect.supervisor import Supervisor
from worldmodel.common.errors import UserError
from worldmodel.common.files import check_free_space, sync_folder
from worldmodel.common.version import VERSION
from worldmodel.data.dataset import Dataset
from worldmodel.data.header import Header, PolicyRecord
from worldmodel.data.parts import PartWriter
from worldmodel.data.sealing import seal

IGNORED_FIELDS = ("code_version",)  # header fields that may differ when a recording is continued


@dataclass
class RecordingPlan:
    """Everything that determines the bytes of a recording."""

    out: Path
    header: Header
    policies: tuple[PolicySpec, ...]
    env: str | Callable[[], Any]
    env_kwargs: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The working folder, next to the file."""
        return self.out.with_name(self.out.name + ".parts")

    def indices(self) -> range:
        """The episode numbers of this shard."""
        i, n = self.header.shard
        return range(i, self.header.num_episodes, n)


def make_header(meta: Any, policies: Sequence[PolicySpec], seed: int, episodes: int, shard: tuple[int, int]) -> Header:
    """The header of a recording of the environment that `meta` (an `EnvMeta`) describes."""
    return Header(
        env=meta.id,
        env_kwargs=meta.kwargs,
        pixels=meta.pixels,
        action_space=meta.action_space,
        action_labels=tuple(meta.action_labels),
        frame_skip=meta.frame_skip,
        max_steps=meta.max_steps,
        variables=tuple(meta.variables),
        policies=tuple(
            PolicyRecord(p.name, p.hash, {"kind": p.kind, "epsilon": p.epsilon, **p.params}, p.share) for p in policies
        ),
        seed=seed,
        shard=shard,
        num_episodes=episodes,
        code_version=VERSION,
    )


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a recording's folder for this process.

    Raises:
        UserError: another process records there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {os.strerror(error.errno or 0)}. Choose another --out.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is recording to {folder}; wait for it or choose another --out.") from None
        yield


def estimate_bytes(header: Header, episodes: int) -> int | None:
    """Upper bound of the size of episodes in bytes; None if their length is not limited."""
    if header.max_steps is None:
        return None
    height, width, channels = header.pixels.frame_shape
    return episodes * (header.max_steps + 1) * (height * width * channels + 64)


def record_plan(
    plan: RecordingPlan,
    workers: int,
    *,
    env: Any = None,
    policy: Policy | None = None,
    progress: bool = True,
    force: bool = False,
    on_episode: Callable[[int, int], None] | None = None,
) -> Path:
    """Record the missing episodes, seal the file, and remove the working folder.

    Args:
        plan: the recording.
        workers: number of processes; ignored if `env` is given.
        env: a `PixelEnv`; then all episodes are played in this process.
        policy: with `env`: a policy object that plays every episode.
        progress: show a progress bar on stderr.
        force: remove an existing recording at `plan.out` first.
        on_episode: called with (index, steps) after an episode is written.

    Returns:
        The path of the sealed file.

    Raises:
        UserError: another recording exists there, or the disk is too small or cannot be written.
    """
    if force:
        plan.out.unlink(missing_ok=True)
        shutil.rmtree(plan.folder, ignore_errors=True)
    if plan.out.exists():
        if _same_recording(Dataset(plan.out).header, plan.header):
            if plan.folder.exists():  # killed after the file was moved to its place
                with lock_folder(plan.folder):
                    shutil.rmtree(plan.folder)
            return plan.out
        raise UserError(f"{plan.out} is a different recording; choose another --out, or --force to remove it.")
    with lock_folder(plan.folder):
        saved = plan.folder / "plan.json"
        if saved.exists():
            state = json.loads(saved.read_text())
            if not _same_recording(Header.from_json(state["header"]), plan.header):
                raise UserError(
                    f"{plan.folder} contains a different, stopped recording; choose another --out, or --force."
                )
        else:
            state = {"header": plan.header.to_json(), "token": uuid.uuid4().hex}
            temporary = saved.with_suffix(".tmp")
            temporary.write_text(json.dumps(state))
            os.replace(temporary, saved)
        _record_missing(
            plan,
            Header.from_json(state["header"]),
            state["token"],
            workers,
            env,
            policy,
            progress,
            on_episode,
        )
        # sealed inside the folder: a kill while sealing leaves no files outside
        sealed = seal(sorted(plan.folder.glob("part-*.bin")), plan.folder / "sealed.h5", indices=plan.indices())
        os.replace(sealed, plan.out)
        sync_folder(plan.out.parent)
    shutil.rmtree(plan.folder)
    return plan.out


def _same_recording(a: Header, b: Header) -> bool:
    left, right = a.to_json(), b.to_json()
    return all(left[k] == right[k] for k in left if k not in IGNORED_FIELDS)


def _record_missing(
    plan: RecordingPlan,
    header: Header,
    token: str,
    workers: int,
    env: Any,
    policy: Policy | None,
    progress: bool,
    on_episode: Callable[[int, int], None] | None,
) -> None:
    from worldmodel.envs import doom_processes

    for leftover in plan.folder.glob(".sealed*"):
        leftover.unlink()
    records = plan.folder / "engines"
    records.mkdir(exist_ok=True)
    doom_processes.sweep(token, records)
    done: set[int] = set()
    for path in sorted(plan.folder.glob("part-*.bin")):
        with PartWriter(path, header) as part:  # truncates an incomplete last episode
            done |= set(part.indices)
    wanted = plan.indices()
    count = len(wanted) - len(done)
    written_bytes = sum(p.stat().st_size for p in plan.folder.glob("part-*.bin"))
    new_bytes = estimate_bytes(header, count)
    if new_bytes is not None:
        what = f"recording {count} episodes of up to {header.max_steps} steps, with their sealed copy,"
        check_free_space(plan.out, written_bytes + 2 * new_bytes, what)
    missing = [e for e in wanted if e not in done]
    with tqdm(
        total=len(wanted),
        initial=len(wanted) - len(missing),
        unit="episode",
        desc="recording",
        disable=not progress,
    ) as bar:
        steps = 0

        def on_done(index: int, length: int) -> None:
            nonlocal steps
            steps += length
            rate = round(steps / max(bar.format_dict["elapsed"], 1e-9))
            bar.set_postfix(refresh=False, steps=steps, steps_per_s=rate)
            bar.update()
            if on_episode is not None:
                on_episode(index, length)

        if not missing:
            return
        if env is not None:
            _record_in_process(plan, header, missing, env, policy, on_done)
            return
        import cloudpickle

        job = plan.folder / "job.pkl"
        job.write_bytes(
            cloudpickle.dumps(
                {
                    "env": plan.env,
                    "env_kwargs": plan.env_kwargs,
                    "policies": plan.policies,
                    "header": header,
                    "seed": header.seed,
                    "token": token,
                    "records": str(records),
                    "parts": str(plan.folder),
                }
            )
        )
        Supervisor(job, plan.folder, workers, lambda: doom_processes.sweep(token, records)).run(missing, on_done)


def _record_in_process(
    plan: RecordingPlan,
    header: Header,
    missing: list[int],
    env: Any,
    policy: Policy | None,
    on_done: Callable[[int, int], None],
) -> None:
    """Record in this process, in the caller's environment."""
    space = header.action_space
    policies = [policy] if policy is not None else [spec.build(space) for spec in plan.policies]
    shares = [spec.share for spec in plan.policies]
    with PartWriter(plan.folder / "part-000.bin", header) as part:
        for index in missing:
            chosen = choose_policy(shares, header.seed, index)
            episode = play(env, policies[chosen], index=index, seed=header.seed, policy_name=plan.policies[chosen].name)
            part.append(episode)
            on_done(index, episode.length)
