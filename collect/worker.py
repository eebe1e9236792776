"""A recording process: `python -m worldmodel.collect.worker JOB SLOT COMMANDS RESULTS`.

Reads episode numbers from the pipe COMMANDS, appends each episode to the part file of its SLOT, and writes messages to
the pipe RESULTS. It exits when COMMANDS is closed, on SIGTERM, and when its supervisor is gone.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(job_path: str, slot: str, commands: str, results: str) -> None:
    """Record until the supervisor closes the pipe."""
    for fd in (int(commands), int(results)):
        os.set_inheritable(fd, False)  # child processes must not inherit the supervisor's pipes
    supervisor = os.getppid()

    from worldmodel.collect.disk_errors import disk_errors_as_sentence
    from worldmodel.collect.recording_folder import RecordingFolder
    from worldmodel.collect.worker_job import WorkerJob
    from worldmodel.common.errors import UserError
    from worldmodel.common.signals import exit_on_sigterm
    from worldmodel.envs.process_manager import load_process_manager

    job = WorkerJob.from_bytes(Path(job_path).read_bytes())
    folder = RecordingFolder(job.folder)
    exit_on_sigterm()
    load_process_manager(job.process_manager).set_run(job.token, folder.process_records)
    env = None
    try:
        with disk_errors_as_sentence(job.folder):
            env = job.make_env()
            _record(job, env, folder.part(int(slot)), int(commands), int(results), supervisor)
    except UserError as error:
        _send(int(results), {"error": str(error)})
    finally:
        if env is not None:
            env.close()


def _record(job: Any, env: Any, part_path: Path, commands: int, results: int, supervisor: int) -> None:
    """Play the episodes whose numbers arrive on `commands`."""
    from worldmodel.collect.policy_specs import choose_policy
    from worldmodel.collect.rollout import play
    from worldmodel.data.parts import PartWriter

    policies = [spec.build(env.meta.action_space, env) for spec in job.policies]
    shares, seed = [spec.share for spec in job.policies], job.header.seed

    def check_supervisor() -> None:
        if os.getppid() != supervisor:
            raise SystemExit(0)

    with PartWriter(part_path, job.header) as part, os.fdopen(commands) as lines:
        _send(results, {"ready": True})
        for line in lines:
            index = int(line)
            if index in part.indices:  # written by a process that was killed before it sent the message
                _send(results, {"done": index, "steps": 0})
                continue
            chosen = choose_policy(shares, seed, index)
            name = job.policies[chosen].name
            episode = play(
                env, policies[chosen], index=index, seed=seed, policy_name=name, before_step=check_supervisor
            )
            part.append(episode)
            _send(results, {"done": index, "steps": episode.length})


def _send(results: int, message: dict[str, Any]) -> None:
    os.write(results, (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
