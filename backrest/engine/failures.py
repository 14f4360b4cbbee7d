"""Why a restic command failed: one cause, in a sentence that a person can act on.

restic says it in many lines: what ssh or rclone told it, each try, a stack trace, and at the end what it makes of all
that, which may be "unexpected EOF". The lines are told apart by who speaks, and the first one that names a cause
decides, in the order of ``_Voice``: the end that restic itself names, what ssh or rclone said before, what else stands
there, the tries. Only where no line names a cause the exit code does (10 and 11 since 0.17.0, 12 since 0.17.1, 130):
it tells a kind, and the words tell more. Nothing else in this program reads restic's words.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum, auto

from backrest.errors import ResticError


class Reason(Enum):
    """What is wrong."""

    NO_REPOSITORY = auto()  # surely none there
    UNREACHABLE = auto()  # its config could not be opened: perhaps none there, perhaps no way to it
    EXISTS = auto()  # init found a repository
    WRONG_PASSWORD = auto()
    NO_PASSWORD = auto()
    PASSWORD_SOURCE = auto()  # the password file is missing, the password command fails
    LOCKED = auto()
    NO_SPACE = auto()
    DENIED = auto()  # by a file system
    REFUSED = auto()  # by the server, of this login
    HOST_KEY = auto()
    NO_HOST = auto()
    NO_CONNECTION = auto()
    TLS = auto()
    SERVER = auto()  # it answers, but not as a backend does
    NO_PROGRAM = auto()  # ssh or rclone
    SSH = auto()  # it ended, and none of the above is known of it
    RCLONE = auto()
    PREFIX = auto()  # nice or ionice
    DAMAGED = auto()
    FORMAT = auto()  # a repository that this restic is too old or too new for
    NO_SNAPSHOT = auto()
    SOURCE = auto()  # what is to be saved is missing or cannot be read
    MEMORY = auto()
    CACHE = auto()
    ADDRESS = auto()  # restic cannot read the repository's address
    USAGE = auto()  # a flag that restic does not take
    INTERRUPTED = auto()
    KILLED = auto()
    OTHER = auto()


class ResticFailure(ResticError):
    """A restic that ended with an error; ``reason`` is its kind."""

    def __init__(self, message: str, exit_code: int | None, reason: Reason) -> None:
        super().__init__(message, exit_code)
        self.reason = reason


_INCOMPLETE = 3  # a backup's: some of the source could not be read

_BY_CODE = {
    10: Reason.NO_REPOSITORY,
    11: Reason.LOCKED,
    12: Reason.WRONG_PASSWORD,
    130: Reason.INTERRUPTED,
    _INCOMPLETE: Reason.SOURCE,
}

# What a line is about; the first that is found decides. So what is special stands before what is general ("permission
# denied" of an ssh server is no file's), and the cause before what restic was doing at that time ("unable to open
# config file: ... connection refused").
_CAUSES = tuple(
    (reason, re.compile(pattern, re.I))
    for reason, pattern in (
        (
            Reason.HOST_KEY,
            r"host key verification failed|remote host identification has changed|no host ?key",
        ),
        (
            Reason.NO_PASSWORD,
            r"an empty password is not|no password (?:was )?(?:given|specified)|password (?:is|was) empty",
        ),
        (Reason.PASSWORD_SOURCE, r"resolving password failed|password (?:file|command)"),
        (Reason.EXISTS, r"config file already exists|already initialized|repository .* already exists"),
        (Reason.WRONG_PASSWORD, r"wrong password or no key found"),
        (Reason.LOCKED, r"already locked (?:exclusively )?by"),
        (
            Reason.NO_SPACE,
            r"no space left|quota.{0,20}exceeded|exceeded.{0,20}quota|storage (?:is )?full|insufficient storage"
            r"|not enough (?:free )?(?:disk )?space|\bdisk(?: is)? full|\(507\)|QuotaExceeded",
        ),
        (
            Reason.NO_PROGRAM,
            r"executable file not found|fork/exec \S+: (?:no such file|exec format)|command not found"
            r"|^(?:\w+: )?(?:sh|bash|env): .*(?:: not found|no such file or directory)$",
        ),
        (
            Reason.MEMORY,
            r"out of memory|cannot allocate memory|runtime: cannot map pages|failed to (?:create|reserve) .*memory",
        ),
        (
            Reason.TLS,
            r"x509:|\btls: |certificate|HTTP response to HTTPS client|malformed HTTP response|SSL[ _]",
        ),
        (
            Reason.NO_HOST,
            r"no such host|could not resolve|name or service not known|name resolution|server misbehaving"
            r"|nodename nor servname|unknown host|no address associated",
        ),
        (
            Reason.REFUSED,
            r"permission denied(?: \(|, please try again)|^ssh: .*permission denied|authentication fail"
            r"|unable to authenticate|too many authentication|\(40[13]\)|unauthorized|forbidden|access ?denied"
            r"|Invalid ?Access ?Key|SignatureDoesNotMatch|access key id|bad_auth_token|invalid_grant|no credentials"
            r"|credentials (?:are|were|could|not)|(?:expired|invalid) (?:security )?token|AuthorizationFailure"
            r"|ExpiredToken|InvalidToken|authorization (?:failed|header)|AccountProblem|not authori[sz]ed",
        ),
        (
            Reason.NO_CONNECTION,
            r"connection refused|connection reset|network is (?:unreachable|down)|no route to host|host is down"
            r"|timed? ?out\b|deadline exceeded|connection closed|kex_exchange_identification|not connected"
            r"|connection (?:lost|aborted)|proxyconnect",
        ),
        (
            Reason.SERVER,
            r"unexpected HTTP response|invalid character '<'|internal ?(?:server ?)?error"
            r"|service unavailable|bad gateway|SlowDown|too many requests|subsystem request failed"
            r"|invalid packet|packet too long|PermanentRedirect|AuthorizationHeaderMalformed|wrong region",
        ),
        (Reason.RCLONE, r"didn't find section|failed to create file ?system|didn't find backend"),
        (
            Reason.FORMAT,
            r"(?:unsupported|unknown|invalid) (?:repository |config )?version|repository version \d+"
            r"|newer version of restic|requires (?:a newer|repository)",
        ),
        (
            Reason.NO_SNAPSHOT,
            r"no matching ID found|multiple IDs with prefix|no snapshot(?:s)? (?:was |were )?found",
        ),
        (
            Reason.DAMAGED,
            r"zero size, invalid|ciphertext verification|is damaged|be damaged|pack \S+: does not exist"
            r"|invalid data returned|hash (?:mismatch|does not match)|does not match (?:id|hash)|error for tree"
            r"|not found in (?:the )?(?:repository|index)|tree \S+ is not known|unable to load (?:tree|index|blob)"
            r"|unexpected end of JSON|integrity|corrupt|config .*(?:cannot|could not) be (?:loaded|decrypted)"
            r"|Load\(<(?:data|index|snapshot|key).*(?:no such file|not exist|not found)|invalid character '(?!<)"
            r"|ReadFull\(<|file (?:is )?truncated",
        ),
        (
            Reason.SOURCE,
            r"all (?:source|target) (?:directories|files)|source file could not be read|does not exist, skipping",
        ),
        (
            Reason.NO_REPOSITORY,
            r"repository does not exist"
            # Before 0.17 one text for "there is none" and "I cannot get there": what the backend said tells them apart.
            r"|unable to open config file: .*(?:no such file|does not exist|not found|nosuchkey|\b404\b)"
            r"|(?:no such|nosuch) ?(?:bucket|container)|bucket .*(?:does not|doesn't) exist|container not found",
        ),
        (Reason.PREFIX, r"^ionice: "),
        (Reason.DENIED, r"permission denied|operation not permitted|read-only file ?system|access is denied"),
        (
            Reason.ADDRESS,
            r"parsing repository location failed|invalid backend|invalid URL|please specify repository",
        ),
        (
            Reason.USAGE,
            r"unknown (?:shorthand )?flag|unknown command|invalid argument \"|needs an argument|invalid pattern"
            r"|option \S+ is not known|mutually exclusive|cannot specify both|no policy was specified|unknown option",
        ),
        (Reason.SSH, r"^ssh: |unable to start the sftp session"),
        (Reason.RCLONE, r"^rclone: |error talking HTTP to rclone"),
        (Reason.UNREACHABLE, r"unable to open config file|is there a repository at"),
    )
)

# An end that says only that something ended: another line knows why. A password cannot be judged by a restic that was
# interrupted before it had read a key.
_VAGUE = re.compile(
    r"context cancell?ed|\bEOF$|file already closed|broken pipe|exit status \d+$|repository contains errors"
    r"|at least one source file could not be read|signal: ",
    re.I,
)
# Kinds that a line may only sound like: another line can know better.
_UNSURE = {Reason.UNREACHABLE, Reason.SSH, Reason.RCLONE}

_INTERRUPTED = re.compile(r"signal (?:interrupt|terminated) received", re.I)
_NOISE = re.compile(
    r"^(?:reading repository password from stdin|is there a repository at the following location\?"
    r"|repo already locked, waiting .*|storage ID \S+|the `unlock` command .*|successfully removed .*"
    r"|goroutine \d+ .*|created by .*|(?:rest|s3|sftp|b2|azure|gs|swift|rclone|local):\S*|[\s\d:]*)$",
    re.I,
)
_NOTICE = re.compile(r"^rclone: (?:NOTICE|INFO|DEBUG)\b", re.I)
# A frame of Go's stack trace: a function, alone on its line, and its place in the source, indented.
_FRAME = re.compile(
    r"^(?:\t\S+\.(?:go|s):\d+.*|(?:main|runtime|testing|[\w-]+(?:\.[\w-]+)+/\S*)(?:\.\S*)?\s*|\tgithub\S*)$"
)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_TRY = re.compile(r"^(\w+\([^)]*\)) (?:returned error, retrying after \S+|failed): (.*)$")
_RCLONE = re.compile(r"^rclone: (?:\d{4}/\d\d/\d\d \d\d:\d\d:\d\d )?(.*)$")
_CACHE = re.compile(r"^unable to (?:open|create|locate) cache(?: directory)?: (.*)$", re.I)

# Enough for a sentence and its cause (4.5: about 1000 bytes).
MAX_DETAIL = 1000

# restic renews its lock every 5 minutes and takes one that is older than this for dead.
STALE_S = 30 * 60


class _Voice(IntEnum):
    """Who says a line; the lower one is believed first."""

    END = 0  # restic's own last word: "Fatal: ..." or an exit_error
    HELPER = 1  # ssh or rclone
    PLAIN = 2
    TRY = 3
    CACHE = 4  # only a warning, but for 0.19, which ends with it
    NICE = 5  # only a warning: it starts restic all the same


@dataclass(frozen=True, slots=True)
class _Line:
    voice: _Voice
    said: str
    judged: str
    """What is looked at for a cause: with restic's name for the file it tried."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a command failed, and the words that say so, on one line ("" if there are none)."""

    reason: Reason
    said: str


def is_frame(line: str) -> bool:
    """Whether a line belongs to a stack trace: it tells a programmer where, and nobody why."""
    return bool(_FRAME.match(line))


def _lines(raw: Sequence[str]) -> Iterator[_Line]:
    """What restic said without its stack traces and with its speakers told apart."""
    after_question = False
    warned: set[str] = set()
    for one in (part for text in raw for part in text.split("\n")):
        if is_frame(one):
            continue
        line = " ".join(_CONTROL.sub("", one).split())
        if after_question or _NOISE.match(line) or _INTERRUPTED.search(line):
            after_question = line.lower().startswith("is there a repository at")
            continue
        end = False
        if line.startswith("Fatal: "):
            line, end = line.replace("Fatal: ", ""), True
        line = line.replace("failed: Fatal: ", "failed: ")  # of a password, before 0.18
        voice = _Voice.END if end else _Voice.PLAIN
        judged = line
        if line.startswith("subprocess "):
            line = judged = line.removeprefix("subprocess ").replace("ssh: ssh: ", "ssh: ")
            voice = _Voice.HELPER
        elif found := _RCLONE.match(line):
            line = judged = f"rclone: {found[1]}"
            voice = _Voice.HELPER
            if _NOTICE.match(line):
                continue
        elif found := _TRY.match(line):
            line, judged, voice = found[2], f"{found[1]} {found[2]}", _Voice.TRY
        elif found := _CACHE.match(line):
            warned.add(found[1])
            voice = _Voice.CACHE
        elif line in warned:
            continue
        elif line.startswith("nice: "):
            voice = _Voice.NICE
        yield _Line(voice, line, judged)


_OF_WARNINGS = {_Voice.CACHE: Reason.CACHE, _Voice.NICE: Reason.PREFIX}


def _joined(lines: Iterator[_Line]) -> list[_Line]:
    """A line that ends with a colon, together with the one that it announces."""
    result: list[_Line] = []
    for line in lines:
        if result and result[-1].said.endswith(":") and line.voice is _Voice.PLAIN:
            last = result.pop()
            line = _Line(last.voice, f"{last.said} {line.said}", f"{last.judged} {line.judged}")
        result.append(line)
    return result


def find_cause(exit_code: int | None, raw: Sequence[str], uri: str = "") -> Cause:
    """The cause of a failure from its exit code (negative: a signal; None: still running) and all that restic said, a
    JSON message already as its text. ``uri`` is not searched for words: a folder may be called "forbidden"."""
    lines = sorted(_joined(_lines(raw)), key=lambda line: line.voice)
    interrupted = any(_INTERRUPTED.search(text) for text in raw)
    vague: Cause | None = None
    for line in lines:
        judged = line.judged.replace(uri, "") if len(uri) > 3 else line.judged
        reason = _OF_WARNINGS.get(line.voice) or next(
            (reason for reason, pattern in _CAUSES if pattern.search(judged)), None
        )
        if reason is None:
            continue
        if (
            reason in _UNSURE
            or line.voice in _OF_WARNINGS
            or (reason is Reason.WRONG_PASSWORD and interrupted)
            or _VAGUE.search(judged)
        ):
            vague = vague or Cause(reason, line.said)
            continue
        if exit_code == _INCOMPLETE and reason is Reason.DENIED:
            reason = Reason.SOURCE  # the repository took the rest
        return Cause(reason, _clipped(line.said))
    if exit_code is not None and exit_code < 0:
        stopped = -exit_code in (signal.SIGINT, signal.SIGTERM)
        return Cause(Reason.INTERRUPTED if stopped else Reason.KILLED, _last_words(lines))
    if interrupted:
        return Cause(Reason.INTERRUPTED, _last_words(lines))
    if vague is not None:
        helpers = vague.reason in _UNSURE and any(line.voice is _Voice.HELPER for line in lines)
        return Cause(vague.reason, _last_words(lines) if helpers else _clipped(vague.said))
    return Cause(_BY_CODE.get(exit_code or 0, Reason.OTHER), _last_words(lines))


def _last_words(lines: Sequence[_Line]) -> str:
    """The text to show when no line names a cause: what ssh or rclone said, or else restic's last words."""
    for voices in ((_Voice.HELPER,), (_Voice.END,)):
        found = [line.said for line in lines if line.voice in voices]
        if found:
            return _clipped("; ".join(dict.fromkeys(found)))
    return _clipped("; ".join(dict.fromkeys(line.said for line in lines[-5:])))


def _clipped(said: str) -> str:
    return said if len(said) <= MAX_DETAIL else said[: MAX_DETAIL - 3] + "..."


def listed(lines: Sequence[str]) -> str:
    """Some of the lines as one, and how many more there are."""
    shown = "; ".join(lines[:MOST_LISTED])
    return shown + (f"; and {len(lines) - MOST_LISTED} more" if len(lines) > MOST_LISTED else "")


# Of a list in a sentence: what a person reads of it.
MOST_LISTED = 5


# What each reason means for a person, and what to do. {repo}: its id; {uri}; {said}: the cause in restic's words.
_SENTENCES = {
    Reason.NO_REPOSITORY: "repo {repo}: there is no restic repository at {uri}: {said}. Is its disk mounted, and its "
    "address right?",
    Reason.UNREACHABLE: "repo {repo}: no restic repository can be opened at {uri}: {said}",
    Reason.EXISTS: "repo {repo}: there is a restic repository at {uri} already",
    Reason.WRONG_PASSWORD: "the password of repo {repo} is wrong, or the repository's keys are gone: {said}. Give the "
    "right one with `backrest repo set {repo} --password-file FILE`",
    Reason.NO_PASSWORD: "repo {repo} has no password: {said}. Set it with `backrest repo set {repo} --password-file "
    "FILE`, or give restic another way to it, such as RESTIC_PASSWORD_FILE in the repo's env",
    Reason.PASSWORD_SOURCE: "repo {repo}: restic cannot get the password: {said}. Mend the password file or command "
    "that the repo's env or flags name",
    Reason.NO_SPACE: "repo {repo}: there is no space left: {said}. Free some, for instance with `restic prune`, or "
    "have the quota raised",
    Reason.DENIED: "repo {repo}: this user may not read or write there: {said}. Give the files to the user who runs "
    "the backups",
    Reason.REFUSED: "repo {repo}: the server refuses the login: {said}. Check the repo's user, key or password there",
    Reason.HOST_KEY: "repo {repo}: the server's SSH host key is not trusted: {said}. Connect to it once with ssh, as "
    "the user who runs the backups, and compare the key",
    Reason.NO_HOST: "repo {repo}: the server's name is not known: {said}. Check the name in {uri}, and this machine's "
    "network",
    Reason.NO_CONNECTION: "repo {repo}: the server at {uri} cannot be reached: {said}. Is it running, and is this "
    "machine connected?",
    Reason.TLS: "repo {repo}: TLS with the server fails: {said}. Check the scheme and port of {uri}, the server's "
    "certificate, and `--cacert` in the repo's flags",
    Reason.SERVER: "repo {repo}: what answers at {uri} does not answer as a repository's server: {said}. Check the "
    "address, or the server's log",
    Reason.NO_PROGRAM: "repo {repo}: a program that restic needs is not installed: {said}. Install it, or check PATH",
    Reason.SSH: "repo {repo}: ssh to the server fails: {said}. Try the same with ssh, as the user who runs the backups",
    Reason.PREFIX: "repo {repo}: its command prefix cannot be used: {said}. Take it out, or run as a user who may",
    Reason.RCLONE: "repo {repo}: rclone fails: {said}. Check `rclone config` of the user who runs the "
    "backups",
    Reason.DAMAGED: "repo {repo}: the repository is damaged: {said}. Look with `restic check` what is, and mend it as "
    "restic's manual says under Troubleshooting",
    Reason.FORMAT: "repo {repo}: this restic cannot read this format of a repository: {said}. Use a newer restic",
    Reason.NO_SNAPSHOT: "repo {repo}: there is no such snapshot: {said}. `backrest index {repo}` reads the list again",
    Reason.SOURCE: "restic {command}: the files to save are missing or cannot be read: {said}",
    Reason.MEMORY: "restic {command} ran out of memory: {said}",
    Reason.CACHE: "restic cannot use its cache folder: {said}. Mend it, or set RESTIC_CACHE_DIR to another one",
    Reason.ADDRESS: "repo {repo}: restic cannot read the address {uri}: {said}",
    Reason.USAGE: "restic {command} does not take a flag of repo {repo} or of the plan: {said}. Correct it",
    Reason.INTERRUPTED: "restic {command} was interrupted: {said}",
}


def failure(
    repo_id: str, uri: str, command: str, exit_code: int | None, lines: Sequence[str]
) -> ResticFailure:
    """The error for a command that ended with ``exit_code`` after it said ``lines`` (both already free of
    secrets).
    """
    cause = find_cause(exit_code, lines, uri)
    words = cause.said.rstrip(".?")
    said = f": {words}" if words else ""
    if cause.reason is Reason.LOCKED:
        sentence = _locked(repo_id, lines, words)
    elif cause.reason is Reason.KILLED:
        why = "; is the machine short of memory?" if exit_code == -signal.SIGKILL else ""
        sentence = f"restic {command} was killed by signal {-(exit_code or 0)}{said}{why}"
    elif cause.reason is Reason.OTHER:
        sentence = f"restic {command} failed (exit code {exit_code}){said}"
    else:
        sentence = _SENTENCES[cause.reason].format(repo=repo_id, uri=uri, command=command, said=words)
        if not words:
            sentence = sentence.replace(": .", ".").removesuffix(": ")
    code = exit_code if exit_code is None or exit_code >= 0 else None
    return ResticFailure(sentence, code, cause.reason)


_HOLDER = re.compile(r"already locked (?:exclusively )?by (PID .*)")
_SINCE = re.compile(r"lock was created at (.*?) \((?:(\d+)h)?(?:(\d+)m)?(?:([\d.]+)(ms|µs|s))? ?ago\)")


def _locked(repo_id: str, lines: Sequence[str], words: str) -> str:
    """Who holds the lock, since when, whether that one lives, and the way out."""
    text = "\n".join(lines)
    holder = found[1].strip() if (found := _HOLDER.search(text)) else words
    since, age_s = "", 0.0
    if found := _SINCE.search(text):
        seconds = float(found[4]) if found[4] and found[5] == "s" else 0.0
        age_s = int(found[2] or 0) * 3600 + int(found[3] or 0) * 60 + seconds
        since = f", since {found[1]} ({_ago(age_s)})"
    if age_s > STALE_S:
        return (
            f"repo {repo_id} is locked by a restic that is gone: {holder}{since}; one that runs renews its lock "
            f"every 5 minutes. Remove the lock with `backrest unlock {repo_id}`"
        )
    return (
        f"repo {repo_id} is locked by another restic: {holder}{since}. Wait for it; if it was killed, remove its lock "
        f"with `backrest unlock {repo_id}`, on the machine where it ran, or anywhere after 30 minutes"
    )


def _ago(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"
