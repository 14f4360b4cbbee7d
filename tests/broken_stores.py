"""Stores that are broken on purpose, as Python text to be run in a process before it begins: each must be found out.

What a forgotten sync does, no kill shows: the system still has what it was given. That is for the power cuts in the
model of a disk (test_store_crash.py).
"""

from __future__ import annotations


def late_append(name: str, most: int = 1) -> str:
    """Says that it is appended, and holds ``most`` of them back; whoever reads meanwhile does not notice."""
    return f"""
from backrest.store.files import AppendFile
append, read = AppendFile.append, AppendFile.read
def held(file):
    return b"".join(getattr(file, "late", ()))
def lazy(file, chunks):
    if not file.path.endswith({name!r}):
        return append(file, chunks)
    if len(getattr(file, "late", ())) >= {most}:
        append(file, file.late)
        file.late = []
    start = file.length + len(held(file))
    file.late = [*getattr(file, "late", ()), b"".join(chunks)]
    return start
def reading(file, offset, size):
    known = max(0, min(size, file.length - offset))
    return read(file, offset, known) + held(file)[max(0, offset - file.length):][:size - known]
AppendFile.append, AppendFile.read = lazy, reading
"""


def late_file(module: str) -> str:
    """Says that the file is replaced, and does so the next time."""
    return f"""
from backrest.store import {module}
write, late = {module}.atomic_write, []
def lazy(path, data):
    for held in late:
        write(*held)
    late[:] = [(path, data)]
{module}.atomic_write = lazy
"""


def rewritten(module: str) -> str:
    """Writes the new content over the old one."""
    return f"""
import os
from backrest.store import {module}, syscalls
def rewrite(path, data):
    fd = syscalls.disk.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    syscalls.write_all(fd, data, 0)
    syscalls.disk.close(fd)
{module}.atomic_write = rewrite
"""


def lost_marks(what: str) -> str:
    """``what``: "id", "modno". The number is that of what lives, or else it begins anew."""
    zero = {"id": "mark(0, modno)", "modno": "mark(number, 0)"}[what]
    return f"""
from backrest.store import opcompact, opcore, opformat, opsaved
mark = opformat.mark
opcompact.mark = opcore.mark = lambda number, modno: {zero}
opsaved.Image.write = lambda *_: None
"""


def fatal(session: int) -> str:
    """In a hub: a mistake that nobody survives, in the session of that number."""
    return f"""
import os, sys
from itertools import count
from backrest.sync.hub import Hub
serve, numbers = Hub.serve, count(1)
async def fatal(hub, stream):
    if next(numbers) == {session}:
        print("Traceback (most recent call last):", file=sys.stderr)
        print("ZeroDivisionError: division by zero", file=sys.stderr, flush=True)
        os._exit(3)
    await serve(hub, stream)
Hub.serve = fatal
"""
