"""What torchrun starts in the tests of joint training: one process of a training.

Arguments: a file with the job as JSON, the run's folder, and what happens: "nothing", "stop N" (the first process is
asked to stop at step N), or "kill N" (the second one kills itself at step N the first time it is started).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook

from short_trainings import Log, at_step, terminate
from unrolled.jobs import Job
from unrolled.training.train import Interrupted, train


def main(job: str, folder: str, act: str, step: int) -> None:
    steps = iter(range(1, sys.maxsize))

    def kill_at_step(*_: object) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    if act == "kill" and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        register_optimizer_step_post_hook(kill_at_step)
    display = Log(at_step(step, terminate) if act == "stop" else lambda step: None)
    try:
        train(
            Job.from_json(json.loads(Path(job).read_text())),
            folder,
            resume=True,
            device="cpu",
            # Whenever the processes talk about it, every ten steps.
            checkpoint_every=1e-9,
            display=display,
        )
    except Interrupted as error:
        print(error)
    finally:
        print(display.text)
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(sys.argv[3].split()[:1]), int([*sys.argv[3].split(), "0"][1]))
    # Gloo's threads now and then abort a process that ends by itself.
    os._exit(0)
