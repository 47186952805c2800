#!/usr/bin/env bash
# A fresh machine's one command; `bash setup.sh --help` says what it does.
#
# Variables read, all optional; the last two are there for the tests:
#   PYTHON                the Python interpreter to use, where the system's own is too old
#   PIKAFORGE_ENGINE      docker or podman: the only engine to look for, and to install
#   PIKAFORGE_SETUP_WAIT  seconds that a started engine gets until it answers (60)
#   PIKAFORGE_SETUP_ROOT  a folder that stands for / in every system path looked at below
set -euo pipefail

repo=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
venv=$repo/.venv
root=${PIKAFORGE_SETUP_ROOT:-}
choice=${PIKAFORGE_ENGINE:-}
nox='nox>=2024.10'
invoke='invoke>=2.2'
# Debian leaves /usr/sbin, home of dockerd and iptables, out of a user's PATH.
PATH=$PATH:$root/usr/sbin:$root/sbin
manager='' python='' bare='' stamp='' log='' socket='' denied='' updated=''
wanted=()

usage() {
    cat <<'END'
bash setup.sh SELECTOR... [options]  prepare this machine, then nox -s build -- SELECTOR... [options]
bash setup.sh tests [args]           prepare this machine, then nox -s tests -- [args]
bash setup.sh                        prepare this machine only

Installs what is missing and nothing else, with apt-get, dnf or yum, as root or through sudo:
  git, tar, gzip, zstd, gpg, GLib; Python >= 3.10 with venv; nox and invoke, in .venv beside this script;
  a container engine, unless DOCKER_HOST is set, one answers already, or `--engine host` is given;
  mmdebstrap on Debian and Ubuntu, which makes base images where no registry is in reach
  (Enterprise Linux has it in EPEL only, so there it is left to you);
  for tests: shellcheck, patchelf, ccache, gcc, g++, make, cmake, dpkg-dev, zlib's headers, busybox,
  node, and on Debian and Ubuntu podman.
The engine is docker on Debian and Ubuntu; on Enterprise Linux docker where its packages are in reach, else podman.
PIKAFORGE_ENGINE=podman (or docker) takes that one, as root for all of the machine, else for this user alone.
Nothing that is there is upgraded or removed; a second run changes nothing.

PYTHON=/path/to/python3 names another Python. pip's own settings (PIP_*, pip.conf) apply.
Exit status: that of the build or the tests; 3 when this machine lacks something.
END
}

say() { printf 'setup: %s\n' "$*" >&2; }

fail() { # what is wrong, then hints
    say "error: $1"
    shift
    (($# == 0)) || printf '  hint: %s\n' "$@" >&2
    exit 3
}

fail_with() { # log file, what is wrong, hints: the log's last lines come first, without passwords
    tail -n 15 -- "$1" 2>/dev/null | sed 's#//[^/@ ]*@#//#g; s/^/    /' >&2 || true
    shift
    fail "$@"
}

is_root() { [[ $(id -u) == 0 ]]; }

need_root() { # what for
    is_root || command -v sudo >/dev/null || fail "root is needed to $1, and there is no sudo here" "run setup.sh as root once"
}

# Descriptor 9 holds the lock: a daemon that inherited it would hold it for ever.
as_root() {
    if is_root; then
        "$@" 9>&-
    else
        sudo --preserve-env=LC_ALL,DEBIAN_FRONTEND,http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY "$@" 9>&-
    fi
}

new_log() { log=${log:-$(mktemp)} && : >"$log"; }

logged() { # run a command with its output in the log; messages in English, as they are searched
    LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@" >>"$log" 2>&1
}

take_lock() {
    command -v flock >/dev/null || return 0
    exec 9<"$repo/setup.sh"
    flock -n 9 || { say "waits for another setup.sh"; flock 9; }
}

# ---- packages

may_install() { [[ -n $manager ]] && { is_root || command -v sudo >/dev/null; }; }

find_manager() {
    local name
    for name in apt-get dnf yum; do
        if command -v "$name" >/dev/null; then
            manager=${name%-get}
            return
        fi
    done
}

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

unreachable() { # the servers that the log complains about, without user names and passwords
    grep -E '^(Err|E|W):|[Ff]ailed|Could not|Cannot|Curl error' "$log" |
        grep -oE 'https?://[^/ ]+' | sed 's#//.*@#//#' | sort -u | paste -sd ' ' - || true
}

read_lists() { # a source that fails need not matter: the installation decides
    [[ -n $updated ]] || logged as_root apt-get -q update || true
    updated=1
}

offers() { # is there a package of that name?
    case $manager in
        apt) apt-cache -q show "$1" ;;
        *) "$manager" -q list "$1" ;;
    esac >/dev/null 2>&1
}

install_wanted() {
    local command where
    ((${#wanted[@]})) || return 0
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
        *) fail "missing, with no apt-get, dnf or yum to install it: ${wanted[*]}" "install it by hand and run this again" ;;
    esac
    if ! logged as_root "${command[@]}" "${wanted[@]}"; then
        where=$(unreachable)
        fail_with "$log" "could not install ${wanted[*]}${where:+; not reached: $where}" \
            "no network: set http_proxy, or let $manager's sources name a mirror in reach" \
            "or by hand, as root: $manager install ${wanted[*]}"
    fi
    wanted=()
}

epel() { # the package's name, if EPEL is enabled
    ! grep -qs '^enabled *= *1' "$root"/etc/yum.repos.d/epel*.repo || printf '%s' "$1"
}

need_extras() { # what a build can do without, for the other verbs
    local name
    for name in gpg gpgv gpg-agent; do
        need "$name" "$name" gnupg2 "signs packages and checks signatures"
    done
    need zstd zstd "$([[ $manager == yum ]] || echo zstd)" "unpacks packages of others that are to be judged"
    # createrepo_c, which makes yum metadata in `nox -s publish`, leaves this library to the system (PEP 599).
    if [[ $manager == apt ]]; then
        need /usr/lib/x86_64-linux-gnu/libgobject-2.0.so.0 libglib2.0-0 '' "is a library of createrepo_c"
    else
        need /usr/lib64/libgobject-2.0.so.0 '' glib2 "is a library of createrepo_c"
    fi
}

need_tools() { # what is run, what is given
    need git git git "fetches sources and applies patches"
    need tar tar tar "packs trees and images"
    need gzip gzip gzip "packs artifacts"
    need /etc/ssl/certs/ca-certificates.crt ca-certificates '' "lets git and pip trust https servers"
    [[ $engine == host ]] || need mmdebstrap mmdebstrap '' "makes base images without a registry"
    ! may_install || need_extras
    [[ $1 == tests ]] || return 0
    need shellcheck shellcheck "$(epel ShellCheck)" "checks the shell scripts"
    need patchelf patchelf "$(epel patchelf)" "edits ELF files that the audit must judge"
    need ccache ccache "$(epel ccache)" "keeps repeated compiles short"
    need gcc gcc gcc "compiles the sample server"
    need g++ g++ gcc-c++ "compiles the sample server"
    need make make make "compiles the sample server"
    need cmake cmake cmake "asks the compiler wrapper what compilers know"
    need dpkg-source dpkg-dev '' "unpacks source packages that the tests build"
    need /usr/include/zlib.h zlib1g-dev zlib-devel "is linked by programs that the tests bundle"
    need busybox busybox '' "has the smallest shell and tools that packages' scripts may meet"
    need node nodejs "$([[ $manager == yum ]] || echo nodejs)" "runs the script of the repositories' index page"
    if [[ $manager == apt ]]; then
        need_podman
        need_rootless
    fi
}

# ---- podman's parts: apt leaves out what it only recommends, dnf brings all

need_podman() {
    need podman podman podman "runs containers, as docker does"
    need catatonit catatonit '' "is the first process in podman's containers"
    need iptables iptables '' "lets engines make networks"
    ! hybrid || need runc runc runc "starts containers where both versions of control groups are in use, which crun refuses"
    # Older releases have plugins (/usr/lib/cni) for what netavark does, and their podman depends on them.
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

hybrid() { [[ -n $(cat "$root/sys/fs/cgroup/unified/cgroup.controllers" 2>/dev/null) ]]; }

# ---- Python

# Debian has venv in python3 but its ensurepip apart: status 3 tells them apart.
python_check='
import sys
if sys.version_info < (3, 10):
    sys.exit(4)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(3)
'

find_python() { # sets python, or else bare: the name of one that lacks nothing but ensurepip
    local candidate status minor names=(python3)
    for minor in 14 13 12 11 10; do names+=("python3.$minor"); done
    [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
    bare=''
    while IFS= read -r candidate; do
        [[ $candidate != "$venv"/* ]] || continue
        status=0
        "$candidate" -c "$python_check" >/dev/null 2>&1 || status=$?
        case $status in
            0) python=$candidate && return ;;
            3) bare=${bare:-${candidate##*/}} ;;
        esac
    done < <(type -ap "${names[@]}")
    return 1
}

os_release() { # one field of os-release; empty if it is not there
    # shellcheck disable=SC1090,SC1091
    (set +u; . "$root/etc/os-release" && printf '%s' "${!1}") 2>/dev/null || true
}

fail_python() {
    local name
    name=$(os_release PRETTY_NAME)
    fail "Python 3.10 or newer is needed, and ${name:-this system} has none in its packages" \
        "get one that leaves the system alone (pyenv, uv or conda do), then: PYTHON=/path/to/python3 bash setup.sh"
}

need_python() {
    local id version
    ! find_python || return 0
    [[ -z ${PYTHON:-} ]] || fail "PYTHON=$PYTHON is not a Python >= 3.10 with venv and ensurepip" \
        "name another one, or unset PYTHON"
    if [[ -n $bare && $manager == apt ]]; then
        want "$bare-venv" "lets $bare make an environment for nox"
        return
    fi
    id=$(os_release ID) version=$(os_release VERSION_ID)
    case $manager:$id:${version%%.*} in
        apt:debian:[1-9] | apt:debian:1[01] | apt:ubuntu:1? | apt:ubuntu:20) fail_python ;;
        apt:*) want python3-venv "runs nox and pikaforge" ;;
        yum:*) fail_python ;;
        dnf:fedora:* | dnf:*:1?) want python3 "runs nox and pikaforge" ;;
        dnf:*) want python3.11 "runs nox and pikaforge" ;;
        *) want python3 "runs nox and pikaforge" ;;
    esac
}

# The stamp is written last, so an interrupted setup leaves none; it holds the
# folder, because the scripts in an environment that was moved start nothing.
venv_ready() {
    { read -r stamp <"$venv/.stamp"; } 2>/dev/null || true
    [[ $stamp == "$repo $nox $invoke" && -x $venv/bin/nox && -x $venv/bin/invoke ]] && "$venv/bin/python" -c '' 2>/dev/null
}

venv_usable() { # one of the user's own making, or a half-made one that can be completed
    [[ -z $stamp || $stamp == "$repo "* ]] || return 1
    local inside='import os, sys; sys.exit(sys.version_info < (3, 10) or not os.path.samefile(sys.prefix, sys.argv[1]))'
    "$venv/bin/python" -c "$inside" "$venv" 2>/dev/null || return 1
    logged "$venv/bin/python" -m pip --version || logged "$venv/bin/python" -m ensurepip
}

add_nox() { # settings that would install elsewhere do not apply inside an environment
    logged env -u PIP_TARGET -u PIP_PREFIX PIP_USER=0 \
        "$venv/bin/python" -m pip install --disable-pip-version-check "$nox" "$invoke" && logged "$venv/bin/nox" --version
}

make_venv() {
    say "makes .venv with nox and invoke"
    new_log
    if ! venv_usable || ! add_nox; then
        find_python || fail_python
        [[ ! -e $venv && ! -L $venv ]] || say ".venv is broken: makes it again"
        rm -rf -- "$venv"
        logged "$python" -m venv "$venv" || fail_with "$log" "$python could not make $venv"
        add_nox || fail_with "$log" "pip could not install $nox and $invoke" \
            "no network: set https_proxy, or PIP_INDEX_URL to an index in reach" \
            "or offline: PIP_NO_INDEX=1 PIP_FIND_LINKS=/folder/with/wheels bash setup.sh"
    fi
    printf '%s\n' "$repo $nox $invoke" >"$venv/.stamp"
}

# ---- the engine. A docker client on PATH proves nothing: only the socket counts.

ping='
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(5)
try:
    s.connect(sys.argv[1])
    s.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
    sys.exit(b" 200 " not in s.recv(64))
except PermissionError:
    sys.exit(2)
except OSError:
    sys.exit(1)
'

may_be() { [[ -z $choice || $choice == "$1" ]]; } # docker or podman

find_engine() { # sets socket, or else denied: one that this user may not open
    local path status user=${XDG_RUNTIME_DIR:-} paths=()
    denied=''
    ! may_be docker || paths+=("$root/var/run/docker.sock" ${user:+"$user/docker.sock"})
    ! may_be podman || paths+=("$root/run/podman/podman.sock" ${user:+"$user/podman/podman.sock"})
    for path in "${paths[@]}"; do
        [[ -S $path ]] || continue
        status=0
        "$venv/bin/python" -c "$ping" "$path" || status=$?
        case $status in
            0) socket=$path && return ;;
            2) denied=${denied:-$path} ;;
        esac
    done
    return 1
}

fail_denied() {
    local name
    name=$(id -un)
    fail "$name may not open the engine's socket $denied" \
        "sudo usermod -aG docker $name, then log in again (members of group docker have root's power)"
}

fail_engine() { # log file or nothing, what is wrong
    local hints=("point DOCKER_HOST at an engine elsewhere, or build without containers: --engine host"
        "tests that need no engine: .venv/bin/nox -s tests")
    if [[ -n $1 ]]; then fail_with "$1" "$2" "${hints[@]}"; else fail "$2" "${hints[@]}"; fi
}

systemd() { [[ -d $root/run/systemd/system ]]; }

alive() { grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status"; }

runs() { # pid file, command: is the process of that number still that command?
    local pid
    pid=$(as_root cat -- "$1" 2>/dev/null) || return 1
    [[ -n $pid && $(cat "/proc/$pid/comm" 2>/dev/null) == "$2" ]]
}

# A killed dockerd leaves pid files. If their number is another process's now,
# dockerd refuses to start, or waits for a containerd that is none.
clear_stale() { # pid file, command
    if as_root test -e "$1" && ! runs "$1" "$2"; then
        say "removes $1, left by an engine that is gone"
        as_root rm -f -- "$1"
    fi
}

wait_for() { # pid or nothing, socket, then how to run the ping
    local pid=$1 path=$2 end=$((SECONDS + ${PIKAFORGE_SETUP_WAIT:-60}))
    shift 2
    while ((SECONDS < end)); do
        "$@" "$venv/bin/python" -c "$ping" "$path" && return
        [[ -z $pid ]] || alive "$pid" || return 1
        sleep 0.2
    done
    return 1
}

start_daemon() { # how to run it, log file, command: prints the pid
    local how=$1 file=$2
    shift 2
    # HUP is ignored before the fork: sudo's own terminal goes away with this shell.
    # shellcheck disable=SC2016 # expanded by the inner shell, which root may run
    "$how" sh -c 'trap "" HUP; log=$1; shift; setsid "$@" >"$log" 2>&1 </dev/null 9>&- & echo $!' sh "$file" "$@"
}

start_docker() {
    local run=$root/var/run file=$root/var/log/pikaforge-dockerd.log pid=''
    need_root "start docker"
    if systemd; then
        say "starts docker, now and at every boot"
        logged as_root systemctl enable --now docker || {
            logged as_root systemctl --no-pager --lines=15 status docker || true
            fail_engine "$log" "docker did not start"
        }
        file=''
    elif runs "$run/docker.pid" dockerd || runs "$run/docker-ssd.pid" dockerd; then
        file='' # the package has started it: only wait
    else
        clear_stale "$run/docker.pid" dockerd
        clear_stale "$run/docker/containerd/containerd.pid" containerd
        as_root touch "$file" 2>/dev/null || { mkdir -p "$repo/out" && file=$repo/out/pikaforge-dockerd.log; }
        say "starts dockerd; its log is $file"
        pid=$(start_daemon as_root "$file" "$(command -v dockerd)")
    fi
    wait_for "$pid" "$run/docker.sock" as_root && return
    [[ -z $pid ]] || alive "$pid" || fail_engine "$file" "dockerd died at its start (log: $file)"
    fail_engine "$file" "dockerd does not answer at $run/docker.sock after ${PIKAFORGE_SETUP_WAIT:-60} s"
}

start_podman() { # root's own, or this user's without root: root's socket opens to root alone
    local base=$root/run name path pid='' file='' user=() runtime=()
    is_root || { base=${XDG_RUNTIME_DIR:-} user=(--user); }
    [[ -n $base ]] || fail_engine '' "podman needs a login session (XDG_RUNTIME_DIR is not set)"
    name=$(id -un)
    is_root || grep -qsE "^($name|$(id -u)):" "$root/etc/subuid" || grep -qs '^subid:' "$root/etc/nsswitch.conf" ||
        fail "$name has no user ids in /etc/subuid to give to containers" \
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $name"
    path=$base/podman/podman.sock
    say "starts podman's service, which speaks docker's protocol, at $path"
    if systemd; then
        logged systemctl ${user[@]+"${user[@]}"} enable --now podman.socket || fail_engine "$log" "podman.socket did not start"
    else
        ! hybrid || runtime=(--runtime runc)
        mkdir -p "$base/podman" "$repo/out"
        file=$repo/out/pikaforge-podman.log
        pid=$(start_daemon env "$file" podman ${runtime[@]+"${runtime[@]}"} system service --time=0 "unix://$path")
    fi
    wait_for "$pid" "$path" env && return
    [[ -z $pid ]] || alive "$pid" || fail_engine "$file" "podman died at its start (log: $file)"
    fail_engine "$file" "podman does not answer at $path after ${PIKAFORGE_SETUP_WAIT:-60} s"
}

has_engine() {
    { may_be docker && command -v dockerd; } || { may_be podman && command -v podman; }
} >/dev/null

need_engine() { # installs one if there is none
    local package
    if [[ $manager == apt && $choice == podman ]]; then
        need_podman
        is_root || need_rootless
    elif [[ $manager == apt ]]; then
        need dockerd docker.io '' "runs the containers that builds happen in"
        need iptables iptables '' "lets dockerd make networks"
        # docker.io only recommends it, but no container starts where the kernel enforces it.
        [[ $(cat "$root/sys/module/apparmor/parameters/enabled" 2>/dev/null) != Y ]] ||
            need apparmor_parser apparmor '' "loads the profile that containers run under"
    elif [[ $manager == [dy]* ]] && ! has_engine; then
        for package in docker-ce moby-engine podman; do
            if [[ $package == podman ]]; then may_be podman; else may_be docker; fi || continue
            offers "$package" || continue
            want "$package" "runs the containers that builds happen in"
            break
        done
    fi
    install_wanted
    has_engine || fail_engine '' "there is no container engine${choice:+ $choice}, and no package of one in reach"
}

ensure_engine() {
    [[ -z ${DOCKER_HOST:-} ]] || return 0
    if ! find_engine; then
        new_log
        [[ -z $denied ]] || fail_denied
        need_engine
        if may_be docker && command -v dockerd >/dev/null; then start_docker; else start_podman; fi
        find_engine || { [[ -n $denied ]] && fail_denied; } || fail_engine '' "the engine stopped again"
    fi
    [[ $socket == "$root/var/run/docker.sock" ]] && return
    export DOCKER_HOST=unix://$socket
    say "uses the engine at $DOCKER_HOST; to run nox yourself: export DOCKER_HOST=$DOCKER_HOST"
}

# ---- all of it

main() {
    local session=build argument previous='' ready='' engine=container
    case ${1:-} in
        -h | --help) usage && return ;;
        tests) session=tests && shift ;;
        '') session='' ;;
    esac
    for argument; do
        case "$previous $argument" in '--engine host' | *' --engine=host') engine=host ;; esac
        previous=$argument
    done
    case $choice in
        '' | docker | podman) ;;
        *) fail "PIKAFORGE_ENGINE=$choice is no engine" "it may be docker or podman" ;;
    esac
    trap '[[ -z $log ]] || rm -f -- "$log"' EXIT
    take_lock
    find_manager
    need_tools "$session"
    if venv_ready; then ready=1; else need_python; fi
    install_wanted
    [[ -n $ready ]] || make_venv
    [[ $engine == host ]] || ensure_engine
    if [[ -z $session ]]; then
        printf '%s\n' "This machine is ready. Next, for example:" "  bash setup.sh R620" \
            "  bash setup.sh tests" "  $venv/bin/nox -s matrix -- --format table"
        return
    fi
    [[ -z $log ]] || rm -f -- "$log" # exec runs no trap
    exec 9<&-
    export PIKAFORGE_CWD=$PWD # what relative paths among the arguments mean
    cd "$repo"
    exec "$venv/bin/nox" -s "$session" -- "$@"
}

main "$@"
