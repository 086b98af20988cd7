"""A forecaster trained on windows and served as a stream: one step at a time, its state carried along.

The series is hourly and made here: a daily cycle that is another one at weekends, a trend, a drift and noise. At every
hour the GRU forecasts the next 24. Its gates start by the chrono scheme (Tallec & Ollivier 2018): its units remember
from one step to a week. What is streamed is what one call over all hours gives.

    python examples/streaming_forecaster.py
"""

from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

import unrolled

DAY, WEEK = 24, 168
HOURS, TEST, WINDOW = 80 * WEEK, 16 * WEEK, 2 * WEEK
UPDATES, B, H = 1000, 32, 64
KEPT, NOISE = 0.97, 1.0  # of the drift, from hour to hour; standard deviation of the noise and of the drift's steps


def series() -> Tensor:
    """(HOURS,) values from 60 to 140 or so."""
    rng, hour = np.random.default_rng(0), np.arange(HOURS)
    angle = 2 * np.pi * hour / DAY
    weekday = 20 * np.sin(angle - 2.0) + 8 * np.sin(2 * angle - 1.0)
    weekend = 8 * np.sin(angle - 2.6) - 15
    drift = np.zeros(HOURS)
    for t in range(1, HOURS):
        drift[t] = KEPT * drift[t - 1] + rng.normal(scale=NOISE)
    cycle = np.where(hour % WEEK < 5 * DAY, weekday, weekend)
    return torch.from_numpy(100 + 10 * hour / HOURS + cycle + drift + rng.normal(scale=NOISE, size=HOURS)).float()


class Forecaster(nn.Module):
    def __init__(self, past: Tensor) -> None:
        super().__init__()
        self.mean, self.scale = past.mean(), past.std()
        self.gru = unrolled.GRU(1, H, init="chrono", t_max=WEEK)
        self.head = nn.Linear(H, DAY)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x: (T, B, 1) -> the 24 values after each step, (T, B, 24), and the state to go on from, (1, B, H)."""
        output, state = self.gru((x - self.mean) / self.scale, state)
        return x + self.scale * self.head(output), state  # changes from now, which a trend leaves as they are


def next_day(x: Tensor) -> Tensor:
    """(T, ...) -> the 24 values after each step but the last 24, (T - 24, ..., 24)."""
    return x[1:].unfold(0, DAY, 1)


def train(model: Forecaster, x: Tensor) -> None:
    """On windows of two weeks of x: (T,); the first week is there to be remembered and is not scored."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)
    for _ in range(UPDATES):
        starts = torch.randint(len(x) - WINDOW - DAY, (B,))
        windows = x[starts + torch.arange(WINDOW + DAY).unsqueeze(1)]  # (T, B)
        forecast, _ = model(windows[:-DAY].unsqueeze(-1), torch.zeros(1, B, H))
        loss = ((forecast - next_day(windows)) / model.scale)[WEEK:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def microseconds(layer: nn.Module, x: Tensor) -> float:
    """What one step of a stream x: (T, 1, 1) takes."""
    state, begun = torch.zeros(1, 1, H), perf_counter()
    for step in x.split(1):
        _, state = layer(step, state)
    return (perf_counter() - begun) / len(x) * 1e6


def main() -> None:
    torch.set_num_threads(1)  # steps this small are done before a second thread is awake
    torch.manual_seed(0)
    x = series()
    past, test = x[:-TEST].view(-1, 1, 1), x[-TEST:].view(-1, 1, 1)
    model = Forecaster(past)
    train(model, past.flatten())

    with torch.no_grad():
        _, now = model(past, torch.zeros(1, 1, H))
        state, streamed = now, []
        for value in test.split(1):
            forecast, state = model(value, state)
            streamed.append(forecast)
        forecast, whole = torch.cat(streamed), model(test, now)[0]
        torch.testing.assert_close(forecast, whole, rtol=1e-4, atol=1e-3)
        print(f"{len(test)} streamed forecasts equal those of one call, to {(forecast - whole).abs().max():.0e}\n")

    truth = next_day(test.flatten())  # (TEST - 24, 24)
    ahead = torch.arange(1, DAY + 1)
    ends = torch.arange(HOURS - TEST, HOURS - DAY).unsqueeze(1)  # the hour at which a forecast is made
    yet_to_come = NOISE**2 * (1 + (1 - KEPT ** (2 * ahead)) / (1 - KEPT**2))  # (24,) variance that nothing foretells
    errors = {
        "GRU": forecast[:-DAY, 0] - truth,
        "persistence": x[ends] - truth,
        "seasonal naive, day": x[ends + ahead - DAY] - truth,
        "seasonal naive, week": x[ends + ahead - WEEK] - truth,
        "lower bound": yet_to_come.sqrt().expand_as(truth),
    }
    print(f"{'RMSE':20}  1 h ahead  6 h ahead 24 h ahead     all 24")
    for name, error in errors.items():
        squared = error.square().mean(0)  # (24,)
        shown = [squared[0], squared[5], squared[23], squared.mean()]
        print(f"{name:20}" + "".join(f"{value.sqrt():11.2f}" for value in shown))

    builtin = nn.GRU(1, H)
    builtin.load_state_dict(model.gru.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.gru(test)[0], builtin(test)[0], rtol=1e-4, atol=1e-4)
        times = [(microseconds(model.gru, test), microseconds(builtin, test)) for _ in range(9)]
    ours, theirs = map(median, zip(*times, strict=True))
    print(f"\nmicroseconds for a step of the stream: unrolled.GRU {ours:.1f}, torch.nn.GRU {theirs:.1f}")


if __name__ == "__main__":
    main()
