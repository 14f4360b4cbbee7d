"""What of a repository that another instance shares can neither run a program here nor read a file here.

For a hub without READ_WRITE_CONFIG. All of it is lists of what is known to be harmless (ADDRESSES, VARIABLES, FLAGS);
what is in none of them is left out and named, so that what a later restic learns stays out until somebody has looked at
it. An address is taken apart as restic 0.14 to 0.19 take it apart; one that is not understood makes the repository
unusable, since without its address there is nothing to take. Pure: asked when a push arrives (sync/apply.py), and again
each time restic is to run (engine/workbench.py), since a configuration may be older than these lists.

Absent on purpose:
- ``${NAME}``: it would carry this machine's own secrets to an address that the hub chose.
- file names (AWS_WEB_IDENTITY_TOKEN_FILE, GOOGLE_APPLICATION_CREDENTIALS, --cacert): what they name is sent away, or
  is a configuration that starts programs (credential_process, external_account).
- roles and profiles (RESTIC_AWS_ASSUME_ROLE_*, AWS_PROFILE): they choose among this machine's own credentials.
- rclone: a backend is a configuration, and starts programs (``rclone::webdav,bearer_token_command=...``).
- ``-o``, --repo, --password-command, --repository-file and all else that goes around these lists.
- bare words: restic backs them up as paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from backrest.permissions import READ_WRITE_CONFIG, Grants
from backrest.wire import config

Repo = config.Repo
Config = config.Config

URI_CHARS: Final = 2048  # what URLs may have nearly everywhere; longer ones are somebody's experiment
VALUE_CHARS: Final = 4096  # a session token of AWS has up to 2,048, an Azure signature some 300
PASSWORD_CHARS: Final = 4096  # as any value; with one of 128 KiB the kernel would start no program at all

# --- addresses


class Address(NamedTuple):
    """An address as restic takes it apart. ``transport`` is "http", "https", or the form in which it was written."""

    scheme: str
    transport: str
    user: str
    password: str
    host: str  # with its port
    path: str

    def place(self) -> tuple[str, str, str, str]:
        """All but the password and the host: what a hub may not change without somebody here agreeing."""
        return self.scheme, self.transport, self.user, self.path


# A name or an IPv4 address; it begins with no "-", which ssh would take for an option, and holds nothing that a shell
# would look at: a ProxyCommand of this machine's ssh configuration may hold %h.
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})"
_IPV6 = r"\[[0-9A-Fa-f:.]{2,45}\]"
_PORT = r"(?::[0-9]{1,5})?"
_NETLOC = rf"(?:{_HOST}|{_IPV6}){_PORT}"
_BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"
# What user names have on servers; %-escapes, which restic decodes, would hide a "-".
_SSH_USER = r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,127}"
_WEB_USER = r"[A-Za-z0-9._~!$&'()*+,;=%-]{1,255}"
_WEB_WORD = r"[A-Za-z0-9._~!$&'()*+,;=:%-]{0,1024}"
_URL_PATH = r"/[^?#\\]*"

# scheme -> the forms in which restic takes it, with the groups of Address. restic looks at the case of a scheme.
ADDRESSES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    # A directory of this machine, by its whole path: a relative one is another for each working directory. restic makes
    # nothing there unless it finds a repository that the password opens, and nobody here makes one (``init``) unasked.
    "local": (("path", r"(?:local:)?(?P<path>/.+)"),),
    "sftp": (
        ("url", rf"sftp://(?:(?P<user>{_SSH_USER})@)?(?P<host>{_NETLOC})(?P<path>/[^?#\\%]+)"),
        ("scp", rf"sftp:(?:(?P<user>{_SSH_USER})@)?(?P<host>{_HOST}):(?P<path>[^~].*)"),
    ),
    "s3": (
        ("https", rf"s3:https://(?P<host>{_NETLOC})/(?P<path>{_BUCKET}(?:{_URL_PATH})?)"),
        ("http", rf"s3:http://(?P<host>{_NETLOC})/(?P<path>{_BUCKET}(?:{_URL_PATH})?)"),
        # Behind "s3:http" restic reads a URL, whatever follows.
        ("https", rf"s3:(?://)?(?!http)(?P<host>{_NETLOC})/(?P<path>{_BUCKET}(?:/.*)?)"),
    ),
    # http+unix:// would name a socket of this machine.
    "rest": tuple(
        (
            web,
            rf"rest:{web}://(?:(?P<user>{_WEB_USER})(?::(?P<password>{_WEB_WORD}))?@)?"
            rf"(?P<host>{_NETLOC})(?P<path>(?:{_URL_PATH})?)",
        )
        for web in ("https", "http")
    ),
    "b2": (("", rf"b2:(?P<path>{_BUCKET}(?::.*)?)"),),
    "azure": (("", rf"azure:(?P<path>{_BUCKET}:.*)"),),
    "gs": (("", rf"gs:(?P<path>{_BUCKET}:.*)"),),
    "swift": (("", rf"swift:(?P<path>{_BUCKET}:/.*)"),),
}

_FORMS: Final = {
    scheme: tuple((transport, re.compile(pattern)) for transport, pattern in forms)
    for scheme, forms in ADDRESSES.items()
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_UP: Final = re.compile(r"(?:^|[/:])\.\.(?:/|$)")


def parse_address(uri: str) -> Address:
    """Take an address apart. ValueError says, as the end of a sentence about it, why it is not taken; it repeats
    nothing of the address, which may hold a password."""
    if len(uri) > URI_CHARS:
        raise ValueError(f"is longer than {URI_CHARS} characters")
    if _CONTROL.search(uri):
        raise ValueError("holds control characters")
    if "${" in uri:
        raise ValueError("would show this machine's environment: it holds ${")
    if _UP.search(uri):
        raise ValueError('holds ".."')
    scheme = "local" if uri.startswith("/") else uri.partition(":")[0]
    if scheme == "rclone":
        raise ValueError("would run a program here: rclone starts what its settings name")
    if scheme not in _FORMS:
        raise ValueError("is neither a whole path nor one of a kind that is known to be harmless")
    for transport, form in _FORMS[scheme]:
        if found := form.fullmatch(uri):
            groups = found.groupdict(default="")
            return Address(
                scheme,
                transport,
                groups.get("user", ""),
                groups.get("password", ""),
                groups.get("host", ""),
                groups["path"].rstrip("/"),
            )
    raise ValueError(f"is not in a form of {scheme} that is known to be harmless")


# --- environment


class Variable(NamedTuple):
    """Which values it may have. ``credential``: it changes as the password does, and moves the repository nowhere."""

    value: re.Pattern[str]
    credential: bool = False


_TEXT: Final = re.compile(rf"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{{1,{VALUE_CHARS}}}")
_WORD: Final = re.compile(rf"[!-~]{{1,{VALUE_CHARS}}}")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,255}")
_SECRET: Final = Variable(_TEXT, credential=True)
_KEY: Final = Variable(_WORD, credential=True)
_PLAIN: Final = Variable(_NAME)
_URL: Final = Variable(re.compile(rf"https?://{_NETLOC}(?:/[!-~]{{0,1024}})?"))
# A region becomes part of a host's name: "x.example.com/" as a region would choose where a request goes.
_REGION: Final = Variable(re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}"))
_PACK_SIZE: Final = re.compile(r"[1-9][0-9]?|1[01][0-9]|12[0-8]")  # MiB: restic's own bound
_COMPRESSION: Final = re.compile(r"auto|off|max|fastest|better")

# Whatever the backend: restic's own, values only.
COMMON: Final[Mapping[str, Variable]] = {
    "RESTIC_PASSWORD": _SECRET,
    "RESTIC_COMPRESSION": Variable(_COMPRESSION),
    "RESTIC_PACK_SIZE": Variable(_PACK_SIZE),
    "RESTIC_READ_CONCURRENCY": Variable(re.compile(r"[1-9]|[1-5][0-9]|6[0-4]")),  # files open at once here
}

# scheme -> what its backend needs besides. Absent: sftp (ssh's variables name sockets and programs) and local.
VARIABLES: Final[Mapping[str, Mapping[str, Variable]]] = {
    "s3": {
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": _KEY,
        "AWS_SESSION_TOKEN": _KEY,
        "AWS_DEFAULT_REGION": _REGION,  # absent: AWS_REGION, which restic reads for roles alone
    },
    "b2": {"B2_ACCOUNT_ID": _KEY, "B2_ACCOUNT_KEY": _KEY},
    "azure": {
        # The name becomes part of the host's.
        "AZURE_ACCOUNT_NAME": Variable(re.compile(r"[a-z0-9]{3,24}")),
        "AZURE_ACCOUNT_KEY": _KEY,
        "AZURE_ACCOUNT_SAS": _KEY,
        # Microsoft's own clouds. Any other would be where this machine's identity is sent.
        "AZURE_ENDPOINT_SUFFIX": Variable(
            re.compile(r"core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net|cloudapi\.de)")
        ),
    },
    "gs": {
        "GOOGLE_PROJECT_ID": Variable(re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,99}")),
        "GOOGLE_ACCESS_TOKEN": _KEY,
    },
    # The hub chooses where it logs in, with what the hub gives: this machine's own OS_* and ST_* are taken away from
    # such a restic (OWN_SECRETS).
    "swift": {
        "ST_AUTH": _URL,
        "ST_USER": _PLAIN,
        "ST_KEY": _SECRET,
        "OS_AUTH_URL": _URL,
        "OS_STORAGE_URL": _URL,
        "OS_REGION_NAME": _REGION,
        "OS_USERNAME": _PLAIN,
        "OS_USER_ID": _PLAIN,
        "OS_PASSWORD": _SECRET,
        "OS_AUTH_TOKEN": _KEY,
        "OS_TENANT_ID": _PLAIN,
        "OS_TENANT_NAME": _PLAIN,
        "OS_USER_DOMAIN_ID": _PLAIN,
        "OS_USER_DOMAIN_NAME": _PLAIN,
        "OS_PROJECT_NAME": _PLAIN,
        "OS_PROJECT_DOMAIN_ID": _PLAIN,
        "OS_PROJECT_DOMAIN_NAME": _PLAIN,
        "OS_TRUST_ID": _PLAIN,
        "OS_APPLICATION_CREDENTIAL_ID": _KEY,
        "OS_APPLICATION_CREDENTIAL_NAME": _PLAIN,
        "OS_APPLICATION_CREDENTIAL_SECRET": _SECRET,
        "SWIFT_DEFAULT_CONTAINER_POLICY": _PLAIN,
    },
    "rest": {"RESTIC_REST_USERNAME": _PLAIN, "RESTIC_REST_PASSWORD": _SECRET},
}

# This machine's own variables that restic would send, as they are, to an address that the hub chose. Of the other
# backends either the address is fixed, or what is sent is a signature.
OWN_SECRETS: Final = re.compile(r"RESTIC_REST_(?:USERNAME|PASSWORD)|OS_.*|ST_.*")

# --- flags

# --name=value, or --name alone where there is no pattern. Each is one that every command of restic knows.
FLAGS: Final[Mapping[str, re.Pattern[str] | None]] = {
    "limit-upload": re.compile(r"[0-9]{1,9}"),  # KiB/s
    "limit-download": re.compile(r"[0-9]{1,9}"),
    "pack-size": _PACK_SIZE,
    "compression": _COMPRESSION,
    # A day at most: whoever waits keeps others of the queue waiting.
    "retry-lock": re.compile(r"[1-9][0-9]{0,3}s|[1-9][0-9]{0,2}m|(?:[1-9]|1[0-9]|2[0-4])h"),
    "no-cache": None,
}

# --- the whole


@dataclass(frozen=True, slots=True)
class Judged:
    """``repo`` is what may be used, a copy; ``left_out`` names what of it may not, without values; ``refusal`` says
    why nothing may, as a sentence without its subject's id and its end."""

    repo: Repo
    left_out: tuple[str, ...] = ()
    refusal: str = ""


def trusts(here: Config, origin: str, repo_id: str) -> bool:
    """Does this instance let the hub ``origin`` write this repository? Then nothing of it is left out."""
    for host in here.multihost.known_hosts:
        if origin and host.instance_id == origin:
            try:
                return Grants(host.permissions).repo(repo_id, READ_WRITE_CONFIG)
            except ValueError:  # a scope that is none grants nothing
                return False
    return False


def judge(repo: Repo) -> Judged:
    """What of ``repo`` is harmless, whoever made it. Idempotent: of what it gives nothing is left out."""
    new = Repo()
    new.CopyFrom(repo)
    try:
        address = parse_address(repo.uri)
    except ValueError as why:
        return Judged(new, refusal=f"its address {why}")
    # Whatever else a password holds: it is a value of the environment, and nothing looks into it.
    if "\0" in repo.password or len(repo.password) > PASSWORD_CHARS:
        return Judged(new, refusal=f"its password holds a NUL, or is longer than {PASSWORD_CHARS} characters")
    left_out: list[str] = []
    if new.hooks:
        del new.hooks[:]
        left_out.append("its hooks")
    if new.HasField("command_prefix"):
        new.ClearField("command_prefix")
        left_out.append("its command prefix")
    if new.auto_initialize:
        new.auto_initialize = False  # a repository is made by the one whom it belongs to
        left_out.append("auto-initialize")
    kept, out = _environment(repo.env, address.scheme)
    if kept != list(repo.env):
        new.env[:] = kept
    left_out += out
    kept, out = _flags(repo.flags)
    if kept != list(repo.flags):
        new.flags[:] = kept
    left_out += out
    return Judged(new, tuple(left_out))


def _environment(entries: Iterable[str], scheme: str) -> tuple[list[str], list[str]]:
    """What is kept, and the names of the rest. Of entries of one name the last counts, as in the environment."""
    allowed = {**COMMON, **VARIABLES.get(scheme, {})}
    kept: dict[str, str] = {}
    out: dict[str, None] = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        variable = allowed.get(name)
        if variable is None:
            out[f"environment {_shown(name, equals='=' in entry)}"] = None
        elif "${" in value or not variable.value.fullmatch(value):
            out[f"environment {name} with this value"] = None
        else:
            kept.pop(name, None)
            kept[name] = entry
    return list(kept.values()), list(out)


def _flags(entries: Iterable[str]) -> tuple[list[str], list[str]]:
    """What is kept, and the names of the rest. Of flags of one name the last counts, as for restic."""
    kept: dict[str, str] = {}
    out: dict[str, None] = {}
    for entry in entries:
        flag, equals, value = entry.partition("=")
        name = flag.removeprefix("--")
        known = flag.startswith("--") and name in FLAGS
        pattern = FLAGS[name] if known else None
        if known and (pattern.fullmatch(value) if pattern else not equals):
            kept.pop(name, None)
            kept[name] = entry
        elif known:
            out[f"flag {flag} in this form"] = None
        else:
            found = re.match(r"--[a-z][a-z0-9-]{0,40}(?=[= ]|$)", entry)
            out[f"flag {found[0]}" if found else "a flag that is not --name=value"] = None
    return list(kept.values()), list(out)


def _shown(name: str, *, equals: bool) -> str:
    """A variable's name for people. What is no name may be a secret that lost its own."""
    if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_%]{0,60}", name):
        return name
    return "entry that is not NAME=value"


# --- changes

# The fields of a Repo of which a change may have to wait, and what people call them.
FIELDS: Final[Mapping[str, str]] = {"uri": "address", "env": "environment", "flags": "flags"}


def held_back(here: Repo, new: Repo) -> tuple[str, ...]:
    """Which of ``new``'s address ("uri"), environment ("env") and flags ("flags") may not take the place of those of
    ``here``, which plans use, before somebody here agrees. Both are harmless (``judge``).

    Passwords, credentials and the host change at once: people renew keys and move servers, and backups must go on. When
    the address waits, its environment waits with it, because one is of no use without the other.
    """
    waits = []
    try:
        moved = parse_address(here.uri).place() != parse_address(new.uri).place()
    except ValueError:
        moved = here.uri != new.uri
    if moved:
        waits.append("uri")
    if (moved and sorted(here.env) != sorted(new.env)) or _settings(here.env) != _settings(new.env):
        waits.append("env")
    if sorted(here.flags) != sorted(new.flags):
        waits.append("flags")
    return tuple(waits)


def _settings(entries: Iterable[str]) -> dict[str, str]:
    """The environment without its credentials."""
    credentials = {
        name
        for table in (COMMON, *VARIABLES.values())
        for name, variable in table.items()
        if variable.credential
    }
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, _, value in pairs if name not in credentials}
