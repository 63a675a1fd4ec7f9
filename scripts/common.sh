# Shared by the scripts: say what happens, ask what is there. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
servers=$root/.servers

say() { printf '==> %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }

# Cargo from rustup is often not on the PATH of a plain shell.
[ -d "$HOME/.cargo/bin" ] && PATH=$HOME/.cargo/bin:$PATH

# "redis 7.0" or "valkey 9.1"; fails where the file is no server.
server_version() {
    "$1" --version 2>/dev/null | sed -nE 's/^(Redis|Valkey) server v=([0-9]+\.[0-9]+)\..*/\1 \2/p' | tr '[:upper:]' '[:lower:]' | grep .
}

# The first redis-server or valkey-server on the PATH.
server_on_path() { command -v redis-server || command -v valkey-server; }

apt_updated=
apt_install() {
    has apt-get || fail "$* is missing and there is no apt-get here: install it and run this again"
    is_root || fail "$* is missing: install it (sudo apt-get install $*) and run this again"
    if [ -z "$apt_updated" ]; then
        say "apt-get update"
        apt-get update -qq
        apt_updated=yes
    fi
    say "apt-get install $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Debian starts a server when it installs one. A policy that says no keeps the machine as it was.
apt_install_without_starting() {
    local policy=/usr/sbin/policy-rc.d
    if is_root && [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        apt_install "$@"
        rm -f "$policy"
        trap - EXIT
    else
        apt_install "$@"
    fi
}
