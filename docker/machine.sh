#!/usr/bin/env bash
# Functions that setup.sh and docker/engine.sh share: messages, root's rights, the lock, and packages of this machine.
# These scripts read this file with `.`; it only defines functions and variables.
#
# Variables read, all optional:
#   PIKAFORGE_ENGINE         docker or podman: the only engine to look for, and to install
#   PIKAFORGE_SETUP_ROOT     a folder that stands for / in every system path below (tests)
#   PIKAFORGE_SETUP_UPDATED  not empty: the lists of packages were read already (setup.sh sets it for docker/engine.sh)
#   PIKAFORGE_OFFLINE        neither empty nor 0: nothing is installed, because there is no network
set -euo pipefail

# shellcheck disable=SC2034 # the scripts use it
repo=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
root=${PIKAFORGE_SETUP_ROOT:-}
# shellcheck disable=SC2034 # docker/engine.sh uses it, too
choice=${PIKAFORGE_ENGINE:-}
updated=${PIKAFORGE_SETUP_UPDATED:-}
manager='' log=''
wanted=()
# On Debian, the PATH of users has no /usr/sbin, where dockerd and iptables are.
PATH=$PATH:$root/usr/sbin:$root/sbin

# ---- messages

say() { printf 'setup: %s\n' "$*" >&2; }

fail() { # what is wrong, then hints
    say "error: $1"
    shift
    (($# == 0)) || printf '  hint: %s\n' "$@" >&2
    exit 3
}

fail_with() { # log file, what is wrong, hints: prints the last lines of the log first, without passwords
    tail -n 15 -- "$1" 2>/dev/null | sed 's#//[^/@ ]*@#//#g; s/^/    /' >&2 || true
    shift
    fail "$@"
}

new_log() { # start an empty log, which the caller removes at its end
    log=${log:-$(mktemp)} && : >"$log"
}

remove_log() { [[ -z $log ]] || rm -f -- "$log"; }

logged() { # run a command with its output in the log, and with messages in English, because they are searched
    LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@" >>"$log" 2>&1
}

check_choice() {
    case $choice in
        '' | docker | podman) ;;
        *) fail "PIKAFORGE_ENGINE=$choice is no engine" "it may be docker or podman" ;;
    esac
}

# ---- root's rights and the lock

is_root() { [[ $(id -u) == 0 ]]; }

need_root() { # what for
    is_root || command -v sudo >/dev/null ||
        fail "root is needed to $1, and there is no sudo here" "run setup.sh as root once"
}

# Descriptor 9 holds the lock. A daemon that inherited it would hold it as long as it runs.
as_root() {
    if is_root; then
        "$@" 9>&-
    else
        local kept=LC_ALL,DEBIAN_FRONTEND,http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY
        sudo --preserve-env="$kept" "$@" 9>&-
    fi
}

take_lock() { # one run at a time; a script that setup.sh starts has inherited its lock
    command -v flock >/dev/null || return 0
    [[ ! /dev/fd/9 -ef $repo/setup.sh ]] || return 0
    exec 9<"$repo/setup.sh"
    flock -n 9 || { say "waits for another setup.sh"; flock 9; }
}

# ---- packages

find_manager() { # sets manager: apt, dnf or yum, or nothing
    local name
    for name in apt-get dnf yum; do
        if command -v "$name" >/dev/null; then
            manager=${name%-get}
            return
        fi
    done
}

may_install() { [[ -n $manager ]] && { is_root || command -v sudo >/dev/null; }; }

want() { # package, what for
    say "needs $1: it $2"
    wanted+=("$1")
}

need() { # command or /file, apt's package, dnf's package (empty: not there), what for
    local package=$1
    if [[ $1 == /* ]]; then
        [[ ! -e $root$1 ]] || return 0
    elif command -v "$1" >/dev/null; then
        return 0
    fi
    case $manager in
        apt) package=$2 ;;
        dnf | yum) package=$3 ;;
        *) package=${3:+$1} ;;
    esac
    [[ -z $package ]] || want "$package" "$4"
}

read_lists() { # a source that fails may not matter: the installation shows it
    [[ -n $updated ]] || logged as_root apt-get -q update || true
    updated=1
}

offers() { # is there a package of that name?
    case $manager in
        apt) apt-cache -q show "$1" ;;
        *) "$manager" -q list "$1" ;;
    esac >/dev/null 2>&1
}

unreachable() { # prints the servers that the log has errors about, without user names and passwords
    grep -E '^(Err|E|W):|[Ff]ailed|Could not|Cannot|Curl error' "$log" |
        grep -oE 'https?://[^/ ]+' | sed 's#//.*@#//#' | sort -u | paste -sd ' ' - || true
}

offline() { [[ ${PIKAFORGE_OFFLINE:-0} != 0 ]]; }

install_wanted() {
    local command where
    ((${#wanted[@]})) || return 0
    ! offline || fail "offline, and this machine lacks: ${wanted[*]}" \
        "a bundle carries no packages of the system, no Python and no container engine: install them from the system's own media" \
        "all that is missing is named above; then run this again"
    [[ -z $manager ]] || need_root "install ${wanted[*]}"
    say "installs ${wanted[*]}"
    new_log
    case $manager in
        apt)
            read_lists
            command=(apt-get -q -y -o DPkg::Lock::Timeout=300
                --no-install-recommends --no-upgrade --no-remove install)
            ;;
        dnf | yum) command=("$manager" -y install) ;;
        *)
            fail "missing, with no apt-get, dnf or yum to install it: ${wanted[*]}" \
                "install it by hand and run this again"
            ;;
    esac
    if ! logged as_root "${command[@]}" "${wanted[@]}"; then
        where=$(unreachable)
        fail_with "$log" "could not install ${wanted[*]}${where:+; not reached: $where}" \
            "no network: set http_proxy, or let $manager's sources name a mirror in reach" \
            "or by hand, as root: $manager install ${wanted[*]}"
    fi
    wanted=()
}

# ---- packages of podman: dnf installs all that it needs, apt leaves out what podman only recommends

need_podman() {
    need podman podman podman "runs containers, as docker does"
    need catatonit catatonit '' "is the first process in podman's containers"
    need iptables iptables '' "lets engines make networks"
    ! hybrid ||
        need runc runc runc "starts containers where both versions of control groups are in use, which crun refuses"
    # Older releases have plugins (/usr/lib/cni) in place of netavark, and their podman depends on them.
    if [[ $manager == apt && ! -e $root/usr/lib/podman/netavark && ! -e $root/usr/lib/cni/bridge ]]; then
        new_log
        read_lists
        ! offers netavark || want netavark "makes podman's networks"
        ! offers aardvark-dns || want aardvark-dns "answers for names in podman's networks"
    fi
}

need_rootless() {
    need newuidmap uidmap '' "maps users where podman runs without root"
    need slirp4netns slirp4netns '' "makes networks where podman runs without root"
}

hybrid() { # are both versions of control groups in use?
    [[ -n $(cat "$root/sys/fs/cgroup/unified/cgroup.controllers" 2>/dev/null) ]]
}
