"""A recording process: `python -m worldmodel.collect.worker JOB SLOT COMMANDS RESULTS`.

Reads episode numbers from the pipe COMMANDS, appends each episode to the part file of its SLOT, and writes messages to
the pipe RESULTS. It exits when COMMANDS is closed, on SIGTERM, and when its supervisor is gone.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any


def build_env(job: dict[str, Any]) -> Any:
    """The environment of a job, from a name or a callable."""
    from worldmodel import envs

    if callable(job["env"]):
        from worldmodel.envs.make_env import as_pixels

        return as_pixels(job["env"](), **job["env_kwargs"])
    return envs.make(job["env"], **job["env_kwargs"])


def main(job_path: str, slot: str, commands: str, results: str) -> None:
    """Record until the supervisor closes the pipe."""
    for fd in (int(commands), int(results)):
        os.set_inheritable(fd, False)  # child processes must not inherit the supervisor's pipes
    supervisor = os.getppid()
    import cloudpickle

    from worldmodel.collect.policy_specs import choose_policy
    from worldmodel.collect.rollout import play
    from worldmodel.data.parts import PartWriter
    from worldmodel.envs import doom_processes

    def check_supervisor() -> None:
        if os.getppid() != supervisor:
            raise SystemExit(0)

    job = cloudpickle.loads(Path(job_path).read_bytes())
    doom_processes.close_on_sigterm()
    doom_processes.set_run(job["token"], Path(job["records"]))
    env = build_env(job)
    policies = [spec.build(env.meta.action_space) for spec in job["policies"]]
    shares = [spec.share for spec in job["policies"]]

    def send(message: dict[str, Any]) -> None:
        os.write(int(results), (json.dumps(message) + "\n").encode())

    from worldmodel.common.errors import UserError

    try:
        with (
            PartWriter(Path(job["parts"]) / f"part-{int(slot):03d}.bin", job["header"]) as part,
            os.fdopen(int(commands)) as lines,
        ):
            send({"ready": True})
            for line in lines:
                index = int(line)
                if index in part.indices:  # written by a process that was killed before it sent the message
                    send({"done": index, "steps": 0})
                    continue
                policy = choose_policy(shares, job["seed"], index)
                episode = play(
                    env,
                    policies[policy],
                    index=index,
                    seed=job["seed"],
                    policy_name=job["policies"][policy].name,
                    before_step=check_supervisor,
                )
                part.append(episode)
                send({"done": index, "steps": episode.length})
    except UserError as error:
        send({"error": str(error)})
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES):
            raise
        send({"error": f"{job['parts']}: {os.strerror(error.errno)}; finished episodes are kept."})
    finally:
        env.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
