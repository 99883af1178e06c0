"""How far ``colm evaluate`` has come, told on stderr."""

import sys
import time

#: How often progress is told where nobody watches, in seconds.
SECONDS_BETWEEN_LINES = 60.0


class AnsweringProgress:
    """One line that says what is asked: written over on a terminal, else kept now and then."""

    def __init__(self) -> None:
        self._step = ("", "")
        self._began = self._last = time.monotonic()
        self._first = 0

    def __call__(self, set_name: str, step: str, done: int, total: int) -> None:
        """Tell how many questions of a set are answered in a step."""
        from colm.runs.progress import duration_in_words

        now = time.monotonic()
        is_new = (set_name, step) != self._step
        if is_new:
            self._step, self._began, self._first = (set_name, step), now, done
        line = f"{set_name}  {step}  {done}/{total}"
        if done > self._first:
            seconds = (now - self._began) / (done - self._first)
            line += (
                f"  {seconds:.1f} s a question, {duration_in_words(seconds * (total - done))} left"
            )
        is_last = done == total
        if sys.stderr.isatty():
            end = "\n" if is_last else ""
            print(f"\r\x1b[K{line}", end=end, file=sys.stderr, flush=True)
        elif is_new or is_last or now - self._last > SECONDS_BETWEEN_LINES:
            self._last = now
            print(line, file=sys.stderr, flush=True)
