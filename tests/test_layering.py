"""The house keeps its shape: arrows point down only, each library has one home, and no test sleeps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [p for p in sorted((ROOT / "backrest").rglob("*.py")) if not p.name.endswith("_pb2.py")]
TESTS = sorted((ROOT / "tests").glob("*.py"))
SCRIPTS = sorted(path for folder in ("scripts", "conformance") for path in (ROOT / folder).rglob("*.py"))

# What each room may use: DESIGN's arrows, followed to their end.
MAY_USE = {
    "errors": "",
    "refusals": "",
    "wire": "errors",
    "crypto": "wire errors",
    "permissions": "wire errors",
    "harmless": "permissions wire errors",
    "protocol": "crypto permissions refusals wire errors",
    "store": "crypto permissions refusals wire errors",
    "net": "errors",  # it knows nothing of backups
    "engine": "store harmless permissions wire errors",
    "sync": "net store protocol crypto harmless permissions refusals wire errors",
    "admin": "engine sync net store protocol crypto harmless permissions refusals wire errors",
    "app": "admin engine sync net store protocol crypto harmless permissions wire errors",
    "cli": "app admin store refusals wire errors",
    "__main__": "cli",
    "__init__": "",
}

# Each library has one home. protobuf's own types are part of what the wire's messages are, and may be named.
HOMES = {
    "cryptography": "crypto",
    "pqcrypto": "crypto",
    "h2": "net",
    "hypercorn": "net",
    "httpx": "net",
    "click": "cli",
    "rich": "cli",
    "orjson": "wire store net admin cli",
    "sqlite3": "store",
    "trio": "net sync engine admin app cli",  # protocol and store are free of it: no loop, no clock
}


def imports(path: Path) -> Iterator[str]:
    """Every module that ``path`` imports, wherever in the file: a late import is an arrow, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides its arrow"
            names = (f"backrest.{alias.name}" for alias in node.names)
            yield from names if node.module == "backrest" else (node.module,)


def room(path: Path) -> str:
    return path.relative_to(ROOT / "backrest").with_suffix("").parts[0]


def test_arrows_point_down_only() -> None:
    wrong = []
    for path in SOURCES:
        here = room(path)
        for name in imports(path):
            there = name.split(".")[1] if name.startswith("backrest.") else here
            if there not in (here, "__version__", *MAY_USE[here].split()):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_each_library_has_one_home() -> None:
    wrong = []
    for path in SOURCES:
        for name in imports(path):
            homes = HOMES.get(name.split(".")[0])
            if homes is not None and room(path) not in homes.split():
                wrong.append(f"{path.relative_to(ROOT)} imports {name}, whose home is {homes}")
    assert not wrong


# What makes state durable: nobody but the store does that. (net/ moves its own sockets.)
DURABLE = {"fsync", "fdatasync", "sync", "rename", "renames", "replace"}
# The system calls that change a file system, or read what is in a file, by their names in os.
_CALLS = """
    open fdopen read readv pread preadv write writev pwrite pwritev sendfile splice copy_file_range truncate ftruncate
    posix_fallocate link symlink unlink remove rmdir removedirs mkdir makedirs mknod mkfifo chmod fchmod lchmod chown
    fchown lchown utime setxattr removexattr
"""
DISK_CALLS = DURABLE | set(_CALLS.split())
# Modules that do such things by themselves.
DISK_MODULES = {"shutil", "tempfile", "mmap", "fileinput", "io", "codecs"}
# The same as methods of a Path. (Its ``replace`` cannot be told from that of a text.)
_METHODS = """
    open read_text read_bytes write_text write_bytes touch mkdir rmdir unlink rename chmod lchmod symlink_to hardlink_to
"""
PATH_CALLS = set(_METHODS.split())
SEAM = ("syscalls.disk", "disk")


def disk_calls(source: str, forbidden: set[str]) -> Iterator[str]:
    """Where the source reaches for the disk by itself: called, or handed on to be called."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os" and node.attr in forbidden:
            yield f"{node.lineno}: os.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (f"{node.lineno}: os.{alias.name}" for alias in node.names if alias.name in forbidden)
        elif isinstance(node, ast.Import):
            yield from (
                f"{node.lineno}: {alias.name} as"
                for alias in node.names
                if alias.name == "os" and alias.asname
            )


def bypasses(source: str) -> Iterator[str]:
    """Where a file of the store passes the seam by: no test could make that fail, and no crash replay sees it."""
    yield from disk_calls(source, DISK_CALLS)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            yield from (f"{node.lineno}: {name}" for name in names if name.split(".")[0] in DISK_MODULES)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "open":
            yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Attribute) and node.attr in PATH_CALLS:
            whose = ast.unparse(node.value)
            of_a_class = isinstance(node.value, ast.Name) and whose[0].isupper()  # ``OpLog.open``
            if whose not in (*SEAM, "os") and not (of_a_class and whose != "Path"):
                yield f"{node.lineno}: {ast.unparse(node)}"


def test_the_store_reaches_the_disk_in_one_place_only() -> None:
    wrong = []
    for path in SOURCES:
        if path.name == "syscalls.py" or room(path) == "net":
            continue
        text = path.read_text()
        found = bypasses(text) if room(path) == "store" else disk_calls(text, DURABLE)
        wrong += [f"{path.relative_to(ROOT)}:{one}" for one in found]
    assert not wrong


@pytest.mark.parametrize(
    "line",
    [
        "os.open(path, os.O_RDONLY)",
        "os.pwrite(fd, data, 0)",
        "os.ftruncate(fd, 0)",
        "os.unlink(path)",
        "os.makedirs(path)",
        "os.fchmod(fd, 0o600)",
        "os.pread(fd, 10, 0)",
        "work = partial(os.link, path)",
        "from os import fsync",
        "import os as system",
        "import shutil",
        "from tempfile import mkstemp",
        "open(path, 'w')",
        "open(path, mode='r+b')",
        "open(path)",
        "open(path, 'rb')",
        "path.write_bytes(data)",
        "path.unlink()",
        "path.open('a')",
        "Path(path).touch()",
        "self.path.parent.mkdir()",
    ],
)
def test_a_way_past_the_seam_is_found(line: str) -> None:
    assert list(bypasses(line))


@pytest.mark.parametrize(
    "line",
    [
        "syscalls.disk.unlink(path)",
        "disk.open(path, 0)",
        "OpLog.open(path)",
        "os.stat(path)",
    ],
)
def test_what_goes_through_it_or_only_asks_is_not(line: str) -> None:
    assert not list(bypasses(line))


JUMPING_CLOCKS = ("autojump_clock", "jump_clock")  # fixtures: of pytest-trio, of h2raw.py


def sleeps(node: ast.AST, simulated: bool) -> Iterator[ast.Call]:
    """Calls that wait for real time. Under a jumping clock trio's time is simulated, and waiting costs none."""
    for child in ast.iter_child_nodes(node):
        inside = simulated
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = simulated or any(arg.arg in JUMPING_CLOCKS for arg in child.args.args)
        if isinstance(child, ast.Call):
            name = ast.unparse(child.func)
            zero = [ast.unparse(arg) for arg in child.args] == ["0"]  # a checkpoint
            if name in ("time.sleep", "sleep") or (name == "trio.sleep" and not zero and not simulated):
                yield child
        yield from sleeps(child, inside)


def test_no_test_sleeps() -> None:
    found = [
        f"{path.name}:{call.lineno}: {ast.unparse(call)}"
        for path in TESTS
        for text in (path.read_text(),)
        for call in sleeps(ast.parse(text), simulated=False)
        if not text.splitlines()[call.lineno - 1].endswith(
            "# simulated"
        )  # a helper of tests with such a clock
    ]
    assert not found


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_raised_inside_except_star(path: Path) -> None:
    """Python 3.11.2, which is Debian 12's, wraps it in a group: the sentence for the user becomes a traceback."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.TryStar):
            raised = [
                inner
                for handler in node.handlers
                for inner in ast.walk(handler)
                if isinstance(inner, ast.Raise)
            ]
            assert not raised, f"{path}:{raised[0].lineno}"
