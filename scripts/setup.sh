#!/usr/bin/env bash
# Installs with apt what a build needs and this machine lacks. Where everything is there it does nothing and needs no
# network. TOKAMAK_SKIP_SETUP=1 trusts the machine as it is (dependencies that apt does not know of).
set -euo pipefail

packages=(g++ cmake ninja-build libfmt-dev nlohmann-json3-dev libcli11-dev libgtest-dev)

say() { printf 'setup: %s\n' "$*" >&2; }

if [ "${TOKAMAK_SKIP_SETUP:-0}" = 1 ]; then exit 0; fi
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "no apt on this machine; the build needs what Debian calls: ${packages[*]}"
    exit 0
fi

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f='${db:Status-Abbrev}\n' "$package" 2>/dev/null || true)
    case "$status" in ii*) ;; *) missing+=("$package") ;; esac
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        say "missing packages: ${missing[*]}"
        say "neither root nor sudo here; ask for: apt-get install -y ${missing[*]}"
        exit 1
    fi
    as_root=(sudo)
fi

apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" </dev/null; }
install() { apt install -y --no-install-recommends "${missing[@]}"; }

say "installing ${missing[*]}"
# The package lists of a fresh machine are empty or old: they are fetched only when the installation shows it.
if ! install; then
    say "fetching the package lists"
    if ! apt update || ! install; then
        say "could not install: ${missing[*]}"
        exit 1
    fi
fi
