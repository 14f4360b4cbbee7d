"""The house keeps its shape: arrows point down only, each library has one home, and no test sleeps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = [p for p in sorted((ROOT / "backrest").rglob("*.py")) if not p.name.endswith("_pb2.py")]
TESTS = sorted((ROOT / "tests").glob("*.py"))

# What each room may use: DESIGN's arrows, followed to their end.
MAY_USE = {
    "errors": "",
    "wire": "errors",
    "crypto": "wire errors",
    "permissions": "wire errors",
    "protocol": "crypto permissions wire errors",
    "store": "crypto permissions wire errors",
    "net": "errors",  # it knows nothing of backups
    "engine": "store permissions wire errors",
    "sync": "net store protocol crypto permissions wire errors",
    "admin": "engine sync net store protocol crypto permissions wire errors",
    "app": "admin engine sync net store protocol crypto permissions wire errors",
    "cli": "app admin store wire errors",
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


def test_fsync_and_rename_of_state_have_one_home() -> None:
    """The store calls the disk in one place, where tests make it fail. (net/ moves its own sockets.)"""
    wrong = []
    for path in SOURCES:
        if path.name == "syscalls.py" or room(path) == "net":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in DISK_CALLS:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} calls {ast.unparse(node)}")
    assert not wrong


DISK_CALLS = ("os.fsync", "os.fdatasync", "os.rename", "os.replace")


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
