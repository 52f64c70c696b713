"""What the tests run on workers; a module of its own, as workers import it by name."""

import os
import time


def inc(x):
    return x + 1


def slow_double(x):
    time.sleep(0.05)
    return 2 * x


def make_block(tag, size=100_000):
    return os.urandom(size)


def read(block):
    return len(block)


def noted(x, path, seconds=0.0):
    """Leaves a line for each execution."""
    time.sleep(seconds)
    with open(path, "a") as file:
        file.write(f"{x}\n")
    return os.urandom(1000)


def wait_for(path):
    """Runs until somebody makes that file."""
    while not os.path.exists(path):
        time.sleep(0.02)
    return path
