"""The verb `eval policy`."""

from __future__ import annotations

import json
from typing import Any

from worldmodel.collect.collect_config import EvalPolicy
from worldmodel.collect.env_options import choose_env
from worldmodel.collect.policy_diagnostics import check_diagnostics, diagnose
from worldmodel.collect.policy_evaluation import evaluate, format_table
from worldmodel.collect.policy_specs import PolicySpec, check_policy_fits, parse_noisy_policy
from worldmodel.common.errors import UserError
from worldmodel.common.files import write_json_atomic


def eval_policy(config: EvalPolicy) -> list[dict[str, Any]]:
    """Run `worldmodel eval policy`: print the table or JSON, and return the rows."""
    from worldmodel import envs
    from worldmodel.common.run_info import run_info

    if not config.policies:
        raise UserError("eval policy: give at least one policy, for example random or FILE.zip.")
    if config.episodes < 2 or config.workers < 1 or config.first_seed < 0:
        raise UserError(
            f"got --episodes {config.episodes} --workers {config.workers} --first-seed {config.first_seed}; wanted at "
            "least 2, 1 and 0."
        )
    if config.second_world is not None and config.world is None:
        raise UserError("--second-world needs --world, the world that the policies dream in.")
    if config.data and config.second_world is None:
        raise UserError("--data is compared with dreams by --second-world; give both or neither.")
    name, kwargs = choose_env(config.env, config.world, config.env_options)
    env = envs.make(name, **kwargs)
    env.close()
    policies: dict[str, PolicySpec] = {}
    for text in config.policies:
        spec = parse_noisy_policy(text, env.meta.action_space, envs.policy_defaults(name))
        check_policy_fits(spec, env)
        policies[text] = spec
    check_diagnostics(config, policies, env)
    rows = evaluate(policies, name, kwargs, config.episodes, config.first_seed, config.workers)
    printed = format_table(rows)
    if config.reactivity or config.second_world is not None:
        printed += "\n" + diagnose(config, rows, policies, env)
    if config.out is not None:
        write_json_atomic(config.out, {**run_info("eval policy", config), "rows": rows})
    print(json.dumps(rows) if config.json else printed)
    return rows
