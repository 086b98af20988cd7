"""An agent with a memory: it acts one step at a time, and learns from a whole rollout in one call.

In a T-maze a cue at the entrance tells which way to turn at the junction, 10 to 30 steps later (Bakker 2002).
Episodes end inside a rollout and the next one begins at once. `reset=begins` zeroes the LSTM's states at the first step
of each, so that learning (advantage actor-critic) needs no Python loop over steps and sees what acting saw.

    python examples/recurrent_agent.py
"""

from time import perf_counter

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

import unrolled

B, T, H = 64, 64, 32  # mazes side by side, steps of a rollout, hidden size
UPDATES, GAMMA, ENTROPY = 250, 0.98, 0.01
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
        """(B, 4), one-hot: cue left, cue right, corridor, junction."""
        seen = torch.where(self.position == 0, self.cue - 1, 2 + (self.position == self.length))
        return F.one_hot(seen, 4).float()

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B,): 0 walks, 1 turns left, 2 turns right -> rewards (B,), where an episode ended (B,)."""
        junction, turned = self.position == self.length, action > 0
        ended = junction & turned
        reward = torch.where(ended, 2.0 * (action == self.cue) - 1, -0.1 * (junction | turned))
        self.position += ~junction & ~turned
        self.enter(ended)
        return reward, ended


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = unrolled.LSTM(4, H, forget_bias=1.0)
        self.policy, self.value = nn.Linear(H, 3), nn.Linear(H, 1)

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> tuple[Tensor, Tensor, State]:
        """x: (T, B, 4), reset: (T, B) -> logits (T, B, 3), values (T, B), state."""
        output, state = self.lstm(x, state, reset=reset)
        return self.policy(output), self.value(output).squeeze(-1), state


def train(*, memory: bool) -> float:
    """Mean return of the episodes that ended in the last fifth of training; without memory, every step is a reset."""
    torch.manual_seed(0)
    agent, mazes = Agent(), Mazes()
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
    x, begins = torch.zeros(T + 1, B, 4), torch.ones(T + 1, B, dtype=torch.bool)
    acted, actions, rewards = torch.zeros(T, B, 3), torch.zeros(T, B, dtype=torch.long), torch.zeros(T, B)
    state, gained, returns = (torch.zeros(1, B, H), torch.zeros(1, B, H)), torch.zeros(B), []

    for update in range(UPDATES):
        first, begins[0], started = state, begins[T].clone(), perf_counter()
        for t in range(T):
            x[t] = mazes.observe()
            zeroed = (begins[t] if memory else torch.ones(B, dtype=torch.bool)).unsqueeze(-1)  # (B, 1)
            with torch.no_grad():
                state = tuple(s.masked_fill(zeroed, 0.0) for s in state)
                logits, _, state = agent(x[t : t + 1], state)
            acted[t], actions[t] = logits[0], Categorical(logits=logits[0]).sample()
            rewards[t], begins[t + 1] = mazes.step(actions[t])
            gained += rewards[t]
            if update >= UPDATES * 4 // 5:
                returns += gained[begins[t + 1]].tolist()
            gained[begins[t + 1]] = 0.0
        x[T] = mazes.observe()  # one step more, whose value stands for the rewards after the rollout

        now = perf_counter()
        logits, values, _ = agent(x, first, reset=begins if memory else torch.ones_like(begins))
        torch.testing.assert_close(logits[:T], acted)  # the one call has seen what the loop saw
        policy, follow, gains = Categorical(logits=logits[:T]), values[T].detach(), torch.zeros(T, B)
        for t in reversed(range(T)):
            follow = gains[t] = rewards[t] + GAMMA * follow * ~begins[t + 1]
        advantage = gains - values[:T]
        loss = advantage.square().mean() / 2 - (policy.log_prob(actions) * advantage.detach()).mean()
        optimizer.zero_grad()
        (loss - ENTROPY * policy.entropy().mean()).backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
        if update % 25==24: print(update, rewards.sum().item()/begins[1:].sum().item(), now-started, perf_counter()-now)
    return sum(returns) / len(returns)


if __name__ == "__main__":
    print(f"with memory    {train(memory=True):6.2f}")
    print(f"without memory {train(memory=False):6.2f}")
    print("best without memory 0.00, best 1.00")
