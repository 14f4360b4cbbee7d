# For the other scripts, which source it in the project's folder: tools of the system, and the virtual environment.

# need PACKAGE COMMAND...: install the Debian package unless the commands (run as a check) succeed.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 && return
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        sudo=(sudo)
        [ -t 0 ] || sudo=(sudo -n) # nobody is there to type a password
    fi
    if ! command -v apt-get >/dev/null || { [ "${#sudo[@]}" != 0 ] && ! "${sudo[@]}" true 2>/dev/null; }; then
        echo "$package is missing, and it cannot be installed from here: as root, run  apt-get install $package" >&2
        return 1
    fi
    echo "Installing $package ..." >&2
    # RUNLEVEL=1 keeps Debian from starting a service that comes with the package: Caddy's would take port 80.
    local apt=("${sudo[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq -y)
    if ! "${apt[@]}" install --no-install-recommends "$package" >/dev/null 2>&1; then
        "${apt[@]}" update >&2 # the package lists are old, or not there at all
        "${apt[@]}" install --no-install-recommends "$package" >&2
    fi
    if ! "$@" >/dev/null 2>&1; then
        echo "$package was installed, but this still fails: $*" >&2
        return 1
    fi
}

# environment [dev]: make .venv with this program in it, with "dev" what the tests need, too. Does nothing when it
# is all there: .venv/stamp holds what it was made from. PYTHON names the Python that it is made of.
environment() {
    local extras=${1:-} python=${PYTHON:-python3} version want made= pip=(.venv/bin/python -m pip)
    need python3 command -v "$python"
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "Backrest needs Python 3.11 or later; $python is $("$python" -V). PYTHON=... names another." >&2
        return 1
    fi
    version=$("$python" -V)
    want="$(sha256sum <pyproject.toml | cut -c 1-64) $version $PWD"
    [ ! -f .venv/stamp ] || made=$(<.venv/stamp)
    [ "$made" != "$want $extras" ] && [ "$made" != "$want dev" ] || return 0
    [ -n "${PYTHON:-}" ] && [ "$python" != /usr/bin/python3 ] || need python3-venv "$python" -c 'import ensurepip, venv'
    echo "Making the virtual environment .venv ..." >&2
    # One of another Python stays that. One that was copied or moved here would run the code at the old place: its
    # programs name that in their first lines.
    if ! .venv/bin/python -c 'import pip' 2>/dev/null || [[ -n $made && $made != *" $version $PWD "* ]]; then
        if "$python" -c 'import ensurepip' 2>/dev/null; then
            "$python" -m venv --clear .venv
        else
            "$python" -m venv --clear --without-pip .venv
        fi
    fi
    .venv/bin/python -c 'import pip' 2>/dev/null || pip=("$python" -m pip --python .venv/bin/python)
    "${pip[@]}" install -qq --disable-pip-version-check -e ".${extras:+[$extras]}"
    echo "$want $extras" >.venv/stamp
}
