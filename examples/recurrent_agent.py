"""An agent with a memory: it acts one step at a time, and learns from a whole rollout in one call.

In a T-maze a cue at the entrance tells which way to turn at the junction, 10 to 30 steps later (Bakker 2002). Episodes
end inside a rollout and the next one begins at once: `reset=begins` zeroes the LSTM's states before the first step of
each, so that learning (advantage actor-critic) needs no Python loop over the steps and sees what acting saw.

    python examples/recurrent_agent.py
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

import unrolled

B, T, H = 64, 64, 32  # mazes side by side, steps of a rollout, hidden size
UPDATES, GAMMA, ENTROPY = 500, 0.98, 0.01
State = tuple[Tensor, Tensor]  # hidden and cell, each (1, B, H)


class Mazes:
    """B corridors. Turning at the junction gets 1 on the cue's side, else -1; running into a wall gets -0.1."""

    def __init__(self) -> None:
        self.position, self.length, self.cue = torch.zeros(3, B, dtype=torch.long)
        self.enter(torch.ones(B, dtype=torch.bool))

    def enter(self, new: Tensor) -> None:
        self.position[new] = 0
        self.length[new] = torch.randint(10, 31, (B,))[new]
        self.cue[new] = torch.randint(1, 3, (B,))[new]

    def observe(self) -> Tensor:
        """(B, 4), one-hot: at the entrance, cue left or cue right; in the corridor; at the junction."""
        seen = torch.where(self.position == 0, self.cue - 1, 2 + (self.position == self.length))
        return F.one_hot(seen, 4).float()

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B,), 0 to walk, 1 to turn left, 2 to turn right -> rewards (B,), where an episode ended (B,)."""
        junction, turned = self.position == self.length, action > 0
        ended = junction & turned
        reward = torch.where(ended, 2.0 * (action == self.cue) - 1, -0.1 * (junction | turned))
        self.position += ~junction & ~turned
        self.enter(ended)
        return reward, ended


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = unrolled.LSTM(4, H, init="chrono", t_max=30)
        self.policy, self.value = nn.Linear(H, 3), nn.Linear(H, 1)

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> tuple[Tensor, Tensor, State]:
        """x: (T, B, 4), reset: (T, B) -> logits (T, B, 3), values (T, B), final state."""
        output, state = self.lstm(x, state, reset=reset)
        return self.policy(output), self.value(output).squeeze(-1), state


class Rollout(NamedTuple):
    x: Tensor  # (T + 1, B, 4), and begins alike: the step after the last is there too, for its value
    begins: Tensor  # (T + 1, B), whether a step is the first of its episode
    actions: Tensor  # (T, B)
    rewards: Tensor  # (T, B)
    logits: Tensor  # (T, B, 3)


@torch.no_grad()
def act(agent: Agent, mazes: Mazes, begins: Tensor, state: State, memory: bool) -> tuple[Rollout, State]:
    seen, begun, taken = [mazes.observe()], [begins], []
    for _ in range(T):
        zeroed = begun[-1].unsqueeze(-1) if memory else torch.ones(B, 1, dtype=torch.bool)
        state = tuple(s.masked_fill(zeroed, 0.0) for s in state)
        logits, _, state = agent(seen[-1].unsqueeze(0), state)
        action = Categorical(logits=logits[0]).sample()
        reward, ended = mazes.step(action)
        taken.append((action, reward, logits[0]))
        seen.append(mazes.observe())
        begun.append(ended)
    return Rollout(torch.stack(seen), torch.stack(begun), *map(torch.stack, zip(*taken, strict=True))), state


def loss_of(agent: Agent, rollout: Rollout, state: State, memory: bool) -> Tensor:
    reset = rollout.begins if memory else torch.ones_like(rollout.begins)
    logits, values, _ = agent(rollout.x, state, reset)
    torch.testing.assert_close(logits[:T], rollout.logits)  # the one call has seen what the loop of steps saw

    gains, gain = torch.zeros(T, B), values[T].detach()
    for t in reversed(range(T)):
        gain = gains[t] = rollout.rewards[t] + GAMMA * gain * ~rollout.begins[t + 1]
    policy, advantage = Categorical(logits=logits[:T]), gains - values[:T]
    actor = -(policy.log_prob(rollout.actions) * advantage.detach()).mean()
    return actor + advantage.square().mean() / 2 - ENTROPY * policy.entropy().mean()


def train(*, memory: bool) -> float:
    """Mean return of the last fifth of training; without memory, the states are zeroed before every step."""
    torch.manual_seed(0)
    agent, mazes = Agent(), Mazes()
    optimizer = torch.optim.Adam(agent.parameters(), lr=5e-3)
    begins, state = torch.ones(B, dtype=torch.bool), (torch.zeros(1, B, H), torch.zeros(1, B, H))
    rewards = episodes = 0.0
    for update in range(UPDATES):
        rollout, after = act(agent, mazes, begins, state, memory)
        loss = loss_of(agent, rollout, state, memory)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
        begins, state = rollout.begins[T], after
        if update >= UPDATES * 4 // 5:
            rewards, episodes = rewards + rollout.rewards.sum().item(), episodes + rollout.begins[1:].sum().item()
    return rewards / episodes


if __name__ == "__main__":
    torch.set_num_threads(1)  # steps this small are done before a second thread is awake
    print("mean return of an episode, last fifth of training")
    print(f"  LSTM                           {train(memory=True):6.2f}")
    print(f"  the same, reset at every step  {train(memory=False):6.2f}")
    print("  best possible without memory     0.00 (walk, then guess)")
    print("  best possible                    1.00")
