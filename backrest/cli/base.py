"""The frame of every command: lazy groups, the options that all share, and the one place where errors end.

A command's module is imported when the command is run or asked for help, not before, so that ``backrest
--help`` and completion stay quick; inside a command, what costs time (protobuf, trio, rich) is imported by
whoever needs it. Errors: what a person can mend is one sentence on stderr and exit 1, wrong usage exit 2;
anything else is a mistake of this program and is reported as such, its traceback only with --debug.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.exceptions import NoSuchCommand

from backrest.cli import output
from backrest.errors import BackrestError

if TYPE_CHECKING:
    from backrest.store.paths import Paths

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

FAILED = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for a program that the user stopped


@dataclass(slots=True)
class Shared:
    """What the shared options say; found at the root context."""

    config_file: Path | None = None
    data_dir: Path | None = None
    restic_cmd: str | None = None
    log_format: str = "text"
    debug: bool = False
    named: set[str] = field(default_factory=set)

    def paths(self) -> Paths:
        from backrest.store.paths import Paths

        return Paths.resolve(self.config_file, self.data_dir)

    def call(self, method: str, **args: Any) -> Any:
        """The result of a use case, from the daemon or, when none runs, from the files."""
        from backrest.admin import client

        return self._heard(
            client.call(self.paths(), method, args, restic_command=self.restic_cmd, say=_waiting)
        )

    @contextmanager
    def several(self) -> Iterator[Callable[..., Any]]:
        """As ``call``, for many calls one after the other; without a daemon the files are opened once."""
        from backrest.admin import client

        with client.several(self.paths(), restic_command=self.restic_cmd, say=_waiting) as one:
            yield lambda method, **args: self._heard(one(method, args))

    def stream(self, method: str, on_event: Callable[[dict[str, Any]], None], **args: Any) -> Any:
        """The same for a use case that reports on its way."""
        from backrest.admin import client

        return self._heard(
            client.stream(self.paths(), method, args, on_event, restic_command=self.restic_cmd, say=_waiting)
        )

    def _heard(self, result: Any) -> Any:
        """A damaged file that did not keep the command from its work is named all the same, once; and what did not
        follow the change that is made."""
        for sentence in result.get("damaged", ()):
            if sentence not in self.named:
                self.named.add(sentence)
                output.note(f"backrest: {sentence}. `backrest serve` does not start with it.")
        for sentence in result.get("unfinished", ()):
            output.note(f"backrest: {sentence}")
        return result


def _waiting(sentence: str) -> None:
    output.note(f"backrest: {sentence}.")


def shared() -> Shared:
    """The shared options of the command that runs."""
    return click.get_current_context().find_root().ensure_object(Shared)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, False) and param.name is not None:
        setattr(ctx.find_root().ensure_object(Shared), param.name, value)


def shared_options(*, at_root: bool) -> list[click.Option]:
    """The options that may stand before or after any command; behind it they win, and are left out of its
    help.
    """
    path = click.Path(path_type=Path)

    def option(name: str, env: str | None, help_text: str, **kwargs: Any) -> click.Option:
        return click.Option(
            [name],
            help=help_text,
            envvar=env if at_root else None,
            show_envvar=env is not None,
            hidden=not at_root,
            expose_value=False,
            callback=_keep,
            **kwargs,
        )

    return [
        option("--config-file", "BACKREST_CONFIG", "The configuration file.", type=path),
        option(
            "--data-dir",
            "BACKREST_DATA",
            "The directory for history, state and the daemon's socket.",
            type=path,
        ),
        option("--restic-cmd", "BACKREST_RESTIC_COMMAND", "The restic to run, instead of the one in PATH."),
        option(
            "--log-format", None, "How the log on stderr is written.", type=click.Choice(["text", "json"])
        ),
        option("--debug", None, "Log more, and show the traceback of an internal error.", is_flag=True),
    ]


class Command(click.Command):
    """A command that also takes the shared options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(shared_options(at_root=False))


_VERBS = ("create", "add", "list", "show", "set", "permissions", "grant", "remove")


class Group(click.Group):
    """The commands about one noun."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The same verbs in the same order, whatever the noun; the others as in the file, behind them."""
        return sorted(self.commands, key=lambda name: _VERBS.index(name) if name in _VERBS else len(_VERBS))


class Root(click.Group):
    """The program: a table of commands that are imported when needed, and the end of every error."""

    def __init__(self, *args: Any, table: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, _ = self.table[cmd_name]
        found = getattr(importlib.import_module(f"backrest.cli.{module}"), cmd_name)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except (
            NoSuchCommand
        ) as error:  # click looks for the one that was meant among commands that are imported
            raise NoSuchCommand(error.command_name, possibilities=self.table, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in self.table.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        settings = Shared()
        extra.setdefault("obj", settings)
        words = sys.argv[1:] if args is None else args

        def run() -> object:
            for number, word in enumerate(words, 1):
                if not _is_text(word):  # not shown: it may be a secret
                    raise click.UsageError(f"argument {number} is not UTF-8 text, and only that can be kept.")
            return super(Root, self).main(args, prog_name, complete_var, False, **extra)

        sys.exit(finish(run, settings))


def finish(run: Callable[[], object], settings: Shared) -> int:
    """Runs the program and says how it ended: the exit code. No exception comes out but SystemExit."""
    # Whoever started us may have closed them (`>&-`): then what we say goes nowhere.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - until the program ends
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # Names in the history may hold what the terminal's encoding cannot say: escape instead of failing.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run()
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        output.note("backrest: stopped.")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BackrestError as error:
        output.note(f"backrest: {sentence(error)}")
        return FAILED
    except BrokenPipeError:
        output.silence_stdout()
        return FAILED
    except OSError as error:
        output.note(f"backrest: {describe(error)}")
        if settings.debug:
            raise
        return FAILED
    except Exception as error:
        output.note(
            f"backrest: internal error ({type(error).__name__}: {error}). This is a bug: please report it "
            "with what "
            "you typed; --debug shows where it happened."
        )
        if settings.debug:
            raise
        return FAILED
    return code if isinstance(code, int) and not isinstance(code, bool) else 0


def _is_text(argument: str) -> bool:
    """Not bytes that Python could only carry along (surrogate escapes): no message and no file could hold them."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def sentence(error: BackrestError) -> str:
    """The error's text; the problems of a configuration follow, one a line, unless the text has them."""
    text = str(error)
    problems = [p for p in getattr(error, "problems", ()) if p not in text]
    return "\n  ".join([text, *problems])


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if the user says so, or has said so with --yes. The one rule of every command that asks: where there
    is no terminal to ask at it is wrong usage, never a yes; the question and the answer keep off stdout.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(
            "there is no terminal to ask at, so nothing was done: --yes does it without asking."
        )
    click.confirm(question, abort=True, err=True)


def describe(error: OSError) -> str:
    """What the system refused, in the words people know from other programs."""
    reason = error.strerror or type(error).__name__
    return f"{os.fsdecode(error.filename)}: {reason}." if error.filename else f"{reason}."


def parsed(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """An option's callback that runs ``parse`` on its value or each of its values; its ValueError is a usage
    error.
    """

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        if value is None:
            return None
        try:
            return tuple(parse(one) for one in value) if isinstance(value, tuple) else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx=ctx, param=param) from None

    return callback


def whole_path(path: str) -> str:
    """A path that was typed, as it is from anywhere. What abspath would make something else of stays as it is, for the
    rules of the configuration to look at: a blank in front, the "~" of an unknown user, a variable, nothing at all."""
    path = os.path.expanduser(path)
    return path if not path or path[0] in "~ \t\n" or path.startswith("${") else os.path.abspath(path)


def several(flag: str, name: str, metavar: str, help_text: str, **more: Any) -> Callable[[F], F]:
    """An option that may be given more than once: the command gets a tuple called ``name``."""
    return click.option(flag, name, multiple=True, metavar=metavar, help=help_text, **more)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
