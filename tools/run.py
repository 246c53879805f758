# SPDX-License-Identifier: Apache-2.0
"""Running commands: a line per step, the whole output of what fails, and no stack traces."""

import subprocess
import sys
import time

_START = time.monotonic()


def step(what):
    """Say what comes next, with the minutes gone so far."""
    seconds = int(time.monotonic() - _START)
    print(f"\033[1m[{seconds // 60:02}:{seconds % 60:02}] {what}\033[0m" if sys.stdout.isatty()
          else f"[{seconds // 60:02}:{seconds % 60:02}] {what}", flush=True)


def fail(why):
    sys.exit(f"./dev: {why}")


def command(*words, quiet=False, check=True, **options):
    """Run a command in the foreground; with quiet, show its output only if it fails."""
    words = [str(word) for word in words]
    if quiet:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        done = subprocess.run(words, check=False, **options)
    except FileNotFoundError:
        fail(f"{words[0]} is not there")
    if check and done.returncode != 0:
        if quiet:
            print(done.stdout)
        fail(f"{_shortened(words)} failed with status {done.returncode}")
    return done


def _shortened(words):
    """The command as one line: a hundred file names say nothing."""
    return " ".join(words if len(words) <= 12 else [*words[:12], f"... ({len(words) - 12} more words)"])
