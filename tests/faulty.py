"""A run of `tiny.py` with a fault in it, in a process of its own: `python faulty.py FAULT ARGUMENT FOLDER [settings]`.

The faults:
  kill N     SIGKILL at the N-th time that Python touches a file of the run, or syncs one to the disk
  half NAME  SIGKILL when half of the file NAME is written
  sleep N    nothing, but each of the first N seals takes no time and those after it a minute
  early      the first step takes a minute
  stop N     SIGTERM between two steps, after N of them
  none       nothing; every step is a pause, as with all faults
"""

import itertools
import os
import signal
import sys
import time
import types
from pathlib import Path

from vaejax import cli, trainer
from vaejax.training import checkpoint, loop
from vaejax.writers import JsonLines

TINY = str(Path(__file__).with_name("tiny.py"))
# What the audit hooks of Python call what changes a folder; `open` may be for reading, which is as good a moment.
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree", "faulty.fsync"}
REMOVALS = {"os.remove", "os.rmdir"}


def die():
    os.kill(os.getpid(), signal.SIGKILL)
    # It may take a moment to arrive.
    time.sleep(60)


def kill(number, folder):
    count = itertools.count(1)

    def hook(event, arguments):
        # What is removed in a folder that is open has a name of its own only.
        within = event in REMOVALS and arguments[1] != -1
        here = event in EVENTS and any(str(each).startswith(folder) for each in arguments)
        if (within or here) and next(count) == int(number):
            print("killed at", event, arguments, file=sys.stderr, flush=True)
            die()

    fsync = os.fsync

    def audited(descriptor):
        sys.audit("faulty.fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    os.fsync = audited
    sys.addaudithook(hook)


def half(name, folder):
    write_bytes, write = Path.write_bytes, JsonLines.write

    def part(self, data):
        if name in self.name:
            write_bytes(self, data[: len(data) // 2])
            die()
        return write_bytes(self, data)

    def line(self, step, values):
        if step == 10:
            before = os.path.getsize(f"{folder}/{name}")
            write(self, step, values)
            os.truncate(f"{folder}/{name}", (before + os.path.getsize(f"{folder}/{name}")) // 2)
            die()
        write(self, step, values)

    Path.write_bytes = part
    if name == trainer.METRICS:
        JsonLines.write = line


def sleep(number, folder):
    seal, count = checkpoint._seal, itertools.count(1)

    def slow(*arguments):
        if next(count) > int(number):
            print("sealing", file=sys.stderr, flush=True)
            time.sleep(60)
        seal(*arguments)

    checkpoint._seal = slow


def early(_, folder):
    def slow(*arguments, **options):
        print("training", file=sys.stderr, flush=True)
        time.sleep(60)

    trainer.fit = slow


def stop(step, folder):
    on_pause = trainer.Trainer._on_pause

    def stopping(self, progress):
        if trainer.done(progress) == int(step):
            os.kill(os.getpid(), signal.SIGTERM)
            while not self.interrupts.received:
                time.sleep(0.001)
        on_pause(self, progress)

    trainer.Trainer._on_pause = stopping


FAULTS = {"stop": stop, "kill": kill, "half": half, "sleep": sleep, "early": early, "none": lambda *_: None}


def main():
    fault, argument, folder, *settings = sys.argv[1:]
    loop.PAUSE_SECONDS = 0.0
    # No pictures and no page, and no matplotlib for them.
    sys.modules["vaejax.pictures"] = types.SimpleNamespace(draw=lambda *_: iter(()))
    sys.modules["vaejax.run_report"] = types.SimpleNamespace(write_report=lambda *_: None)
    FAULTS[fault](argument, folder)
    train = trainer.Trainer.train

    def told(self):
        print("begins at", trainer.done(self.progress), file=sys.stderr, flush=True)
        return train(self)

    trainer.Trainer.train = told
    return cli.main(["train", TINY, *settings, "--output", folder])


if __name__ == "__main__":
    sys.exit(main())
