"""Exact optimal returns of the toy environment, by dynamic programming over its hidden states.

Returns are undiscounted, over `max_steps` steps, and averaged over all 1,024 start states.
"""

from __future__ import annotations

import numpy as np

from worldmodel.envs.toy import LIVES, NUM_ACTIONS, PERIOD, QUARTERS, SIDE, State, transition

PLACES, STORMS = SIDE * SIDE, len(QUARTERS)


def all_states() -> list[State]:
    """Every non-terminal state: 16 places x 64 storms x 4 clocks x 3 lives = 12,288."""
    return [
        State(place, storm, clock, lives)
        for place in range(PLACES)
        for storm in range(STORMS)
        for clock in range(PERIOD)
        for lives in range(1, LIVES + 1)
    ]


def starts() -> list[State]:
    """The 1,024 start states, all equally likely."""
    return [State(place, storm, 0, LIVES) for place in range(PLACES) for storm in range(STORMS)]


def _tables() -> tuple[dict[State, int], np.ndarray, np.ndarray]:
    """(index of each state, successor indices (N, 5) where N is terminal, rewards (N, 5))."""
    states = all_states()
    index = {state: i for i, state in enumerate(states)}
    successors = np.empty((len(states), NUM_ACTIONS), np.int64)
    rewards = np.empty((len(states), NUM_ACTIONS))
    for i, state in enumerate(states):
        for action in range(NUM_ACTIONS):
            successor, reward, terminated = transition(state, action)
            successors[i, action] = len(states) if terminated else index[successor]
            rewards[i, action] = reward
    return index, successors, rewards


def _value(max_steps: int, best: bool) -> float:
    """Backward induction over `max_steps` steps, for the best action or for the mean over all actions."""
    index, successors, rewards = _tables()
    values = np.zeros(len(index) + 1)  # the last entry is the terminal state
    for _ in range(max_steps):
        action_values = rewards + values[successors]  # (N, 5)
        values[:-1] = action_values.max(1) if best else action_values.mean(1)
    return float(np.mean([values[index[state]] for state in starts()]))


def optimal_return(max_steps: int = 40) -> float:
    """Mean return of the optimal policy, which observes the hidden state."""
    return _value(max_steps, best=True)


def random_return(max_steps: int = 40) -> float:
    """Mean return of uniform random actions."""
    return _value(max_steps, best=False)


def best_open_loop_return(max_steps: int = 40) -> float:
    """Mean return of the best fixed sequence of actions, exactly.

    A sequence of actions leads each start through some sequence of quarters, so its mean return is at most
    that of the best sequence of quarters. Conversely, every sequence of quarters can be followed open-loop
    from every place: two steps against one wall and two against another reach any quarter (`walk_to`). The
    maximum is therefore taken over all sequences of quarters, for all 64 storms at once.
    """
    quarters = np.asarray(QUARTERS)
    returns = np.zeros((1, STORMS), np.int8)  # (sequences so far, first storm)
    lives = np.full((1, STORMS), LIVES, np.int8)
    num_storms = max_steps // PERIOD
    tail = min(5, num_storms)  # the last levels are expanded one sequence at a time, which bounds memory

    def grow(returns: np.ndarray, lives: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        shelter = np.roll(quarters, -k) == np.arange(4)[:, None]  # (4, storms): is this quarter the shelter
        alive = lives[:, None] > 0
        returns = returns[:, None] + (shelter & alive)
        lives = lives[:, None] - (~shelter & alive)
        return returns.reshape(-1, STORMS).astype(np.int8), lives.reshape(-1, STORMS).astype(np.int8)

    for k in range(num_storms - tail):
        returns, lives = grow(returns, lives, k)
    best = 0.0
    for i in range(len(returns)):
        tail_returns, tail_lives = returns[i : i + 1], lives[i : i + 1]
        for k in range(num_storms - tail, num_storms):
            tail_returns, tail_lives = grow(tail_returns, tail_lives, k)
        best = max(best, float(tail_returns.mean(1).max()))
    return best


def walk_to(target: int) -> tuple[int, ...]:
    """Four actions that lead from every place into the quarter `target`."""
    row, column = divmod(target, 2)
    return (2 if row else 1,) * 2 + (4 if column else 3,) * 2
