# Sourced by the other scripts: what a Debian or Ubuntu machine needs to build and mount, installed when it is
# missing and never without saying so. Where something must be done by hand, it says what, and the script ends.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin
if [ -x "$HOME/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
export DEBIAN_FRONTEND=noninteractive

# Set when what went wrong has been said.
died=
die() {
    echo "${0##*/}: $*" >&2
    died=yes
    exit 1
}

may_be_root() {
    [ "$(id -u)" -eq 0 ] || command -v sudo > /dev/null
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

packages_updated=
# Installs Debian packages, saying so.
install_packages() {
    command -v apt-get > /dev/null || die "please install what Debian calls $*; only apt-get is known here"
    may_be_root || die "installing needs root, and there is no sudo. Have root run:
    apt-get update && apt-get install -y --no-install-recommends $*
then start this script again."
    echo "installing with apt-get: $*"
    if [ -z "$packages_updated" ]; then
        as_root apt-get update -qq || die "apt-get update failed"
        packages_updated=yes
    fi
    as_root apt-get install -y -qq --no-install-recommends "$@" > /dev/null < /dev/null || die "apt-get install $* failed"
}

# The version that apt would install of a package, without epoch and revision; nothing where there is none.
apt_offers() {
    command -v apt-cache > /dev/null || return 0
    apt-cache policy "$1" 2> /dev/null | sed -n 's/^  Candidate: \(.*:\)\?\([0-9][0-9.]*\).*/\2/p'
}

at_least() {
    [ -n "$1" ] && [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Build tools, FUSE and Python's venv.
need_system() {
    local missing=()
    command -v cc > /dev/null && command -v make > /dev/null || missing+=(build-essential)
    command -v fusermount3 > /dev/null || missing+=(fuse3)
    command -v python3 > /dev/null && python3 -c 'import ensurepip, venv' 2> /dev/null || missing+=(python3-venv)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    if [ "${#missing[@]}" -gt 0 ]; then install_packages "${missing[@]}"; fi
}

# A Rust toolchain that is new enough for Cargo.toml.
need_rust() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    have=$(cargo --version 2> /dev/null | cut -d' ' -f2) || true
    at_least "$have" "$wanted" && return
    if command -v rustup > /dev/null; then
        die "modelfs needs Rust $wanted, cargo is ${have:-not set up}; run: rustup update stable && rustup default stable"
    fi
    if [ -z "$packages_updated" ] && command -v apt-get > /dev/null && may_be_root; then
        as_root apt-get update -qq || true
        packages_updated=yes
    fi
    if at_least "$(apt_offers cargo)" "$wanted"; then
        install_packages cargo
    elif [ -n "$(apt_offers rustup)" ]; then
        install_packages rustup
        echo "fetching the stable Rust toolchain with rustup into ~/.rustup"
        rustup default stable > /dev/null 2>&1 || die "rustup could not fetch a toolchain; run: rustup default stable"
    else
        command -v curl > /dev/null || install_packages curl
        die "modelfs needs Rust $wanted or newer; cargo is ${have:-missing}, and apt offers no cargo that is new enough, nor rustup. Run:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
then start this script again."
    fi
}

# /dev/fuse, usable by whoever runs this.
need_fuse() {
    if [ ! -e /dev/fuse ] && [ "$(id -u)" -eq 0 ]; then modprobe fuse 2> /dev/null || true; fi
    [ -e /dev/fuse ] || die "there is no /dev/fuse. On a machine: modprobe fuse. In a container, start it with:
    --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined"
    { : < /dev/fuse; } 2> /dev/null && [ -w /dev/fuse ] && return
    die "$(id -un) cannot open /dev/fuse; as root: chmod 666 /dev/fuse (as udev does on most systems)"
}
