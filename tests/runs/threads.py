"""Arms of a comparison that train for real, without processes of their own."""

import itertools
import json
import queue
import threading
from pathlib import Path

from colm.runs.arm_process import describe_failure, take_turns
from colm.runs.players import ArmError

LONGEST_SECONDS = 240


class InThread:
    """An arm in a thread of this process, whose clock ticks at each look."""

    def __init__(self, job: dict, log: Path) -> None:
        self.told: queue.Queue = queue.Queue()
        self.answers: queue.Queue = queue.Queue()
        ticks = itertools.count()
        arguments = (job, self.told.get, self.answers.put, lambda: float(next(ticks)))
        self.thread = threading.Thread(target=self._train, args=arguments, daemon=True)
        self.thread.start()

    def _train(self, *arguments) -> None:
        try:
            take_turns(*arguments)
        except BaseException as error:
            self.answers.put({"event": "failed", "message": describe_failure(error)})

    def ask(self, message: dict | None = None) -> dict:
        if message is not None:
            self.told.put(message)
        answer = self.answers.get(timeout=LONGEST_SECONDS)
        if answer["event"] == "failed":
            raise ArmError(answer["message"])
        return json.loads(json.dumps(answer))

    def close(self) -> None:
        # One that waits ends by what it cannot understand; like a process, it leaves nothing.
        self.told.put({"do": "stop"})
        self.thread.join(LONGEST_SECONDS)
