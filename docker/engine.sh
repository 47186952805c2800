#!/usr/bin/env bash
# Make sure that a container engine answers: find one, else install one and start it. Print its address, in the form of
# DOCKER_HOST. setup.sh calls this script; `bash docker/engine.sh --help` says more.
#
# Variables read, all optional; docker/machine.sh has further ones:
#   DOCKER_HOST           the address of an engine, which is printed as it is
#   DOCKER_CONTEXT        a context of docker's: nothing is printed, the tool finds its address. The same of a current
#                         one in config.json
#   CONTAINER_HOST        podman's name for the address of an engine; the tool says which forms it can use.
#                         CONTAINER_CONNECTION likewise
#   PIKAFORGE_ENGINE      docker or podman: the only engine to look for, and to install
#   PIKAFORGE_SETUP_WAIT  seconds that a started engine gets until it answers (60)
set -euo pipefail

# shellcheck source=machine.sh
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/machine.sh"
patience=${PIKAFORGE_SETUP_WAIT:-60}
python=$repo/.venv/bin/python socket='' denied=''

usage() {
    cat <<'END'
bash docker/engine.sh    make sure that a container engine answers, and print its address for DOCKER_HOST

Looks for docker and podman, of this machine and of this user. If none answers, installs one with apt-get, dnf or yum,
as root or through sudo, and starts it. The engine is docker on Debian and Ubuntu; on Enterprise Linux docker where its
packages are in reach, else podman. PIKAFORGE_ENGINE=podman (or docker) takes that one. If DOCKER_HOST is set, its value
is printed, and nothing is done. If a docker context is in use, nothing is printed: the tool finds it. The engine is asked with the Python of .venv, or else with python3.
Exit status: 0 an engine answers; 3 this machine lacks something.
END
}

# ---- finding an engine. A docker client on PATH proves nothing: only an answer at a socket counts.

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

find_engine() { # sets socket, or else denied: a socket that this user may not open
    local path status user=${XDG_RUNTIME_DIR:-} paths=()
    denied=''
    ! may_be docker || paths+=("$root/var/run/docker.sock" ${user:+"$user/docker.sock"})
    ! may_be podman || paths+=("$root/run/podman/podman.sock" ${user:+"$user/podman/podman.sock"})
    for path in "${paths[@]}"; do
        [[ -S $path ]] || continue
        status=0
        "$python" -c "$ping" "$path" || status=$?
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

runs() { # pid file, command: is the process with this number still that command?
    local pid
    pid=$(as_root cat -- "$1" 2>/dev/null) || return 1
    [[ -n $pid && $(cat "/proc/$pid/comm" 2>/dev/null) == "$2" ]]
}

# A killed dockerd leaves pid files. If another process has their number now, dockerd refuses to start, or waits for a
# containerd that does not exist.
clear_stale() { # pid file, command
    if as_root test -e "$1" && ! runs "$1" "$2"; then
        say "removes $1, left by an engine that is gone"
        as_root rm -f -- "$1"
    fi
}

wait_for() { # pid or nothing, socket, then how to run the ping
    local pid=$1 path=$2 end=$((SECONDS + patience))
    shift 2
    while ((SECONDS < end)); do
        "$@" "$python" -c "$ping" "$path" && return
        [[ -z $pid ]] || alive "$pid" || return 1
        sleep 0.2
    done
    return 1
}

start_daemon() { # how to run it, log file, command: prints the pid
    local how=$1 file=$2
    shift 2
    # HUP is ignored before the fork, because the terminal of sudo goes away with this shell.
    # shellcheck disable=SC2016 # the inner shell expands it, which root may run
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
        file='' # the package has started it
    else
        clear_stale "$run/docker.pid" dockerd
        clear_stale "$run/docker/containerd/containerd.pid" containerd
        as_root touch "$file" 2>/dev/null || { mkdir -p "$repo/out" && file=$repo/out/pikaforge-dockerd.log; }
        say "starts dockerd; its log is $file"
        pid=$(start_daemon as_root "$file" "$(command -v dockerd)")
    fi
    wait_for "$pid" "$run/docker.sock" as_root && return
    [[ -z $pid ]] || alive "$pid" || fail_engine "$file" "dockerd died at its start (log: $file)"
    fail_engine "$file" "dockerd does not answer at $run/docker.sock after $patience s"
}

start_podman() { # for root that of root, for a user one without root's rights: only root may open root's socket
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
        logged systemctl ${user[@]+"${user[@]}"} enable --now podman.socket ||
            fail_engine "$log" "podman.socket did not start"
    else
        ! hybrid || runtime=(--runtime runc)
        mkdir -p "$base/podman" "$repo/out"
        file=$repo/out/pikaforge-podman.log
        pid=$(start_daemon env "$file" podman ${runtime[@]+"${runtime[@]}"} system service --time=0 "unix://$path")
    fi
    wait_for "$pid" "$path" env && return
    [[ -z $pid ]] || alive "$pid" || fail_engine "$file" "podman died at its start (log: $file)"
    fail_engine "$file" "podman does not answer at $path after $patience s"
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
        # docker.io only recommends it, but where the kernel has AppArmor enabled no container starts without it.
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
    find_engine && return
    new_log
    [[ -z $denied ]] || fail_denied
    need_engine
    if may_be docker && command -v dockerd >/dev/null; then start_docker; else start_podman; fi
    find_engine || { [[ -n $denied ]] && fail_denied; } || fail_engine '' "the engine stopped again"
}

# ---- all of it

# A context of docker's command line that is in use, as build/pikaforge/host/docker_context.py finds it.
current_context() {
    local config=${DOCKER_CONFIG:-${HOME:-}/.docker}/config.json name=${DOCKER_CONTEXT:-}
    local pattern='"currentContext"[[:space:]]*:[[:space:]]*"([^"]*)"'
    if [[ -z $name && -r $config && $(<"$config") =~ $pattern ]]; then name=${BASH_REMATCH[1]}; fi
    [[ $name == default ]] || printf '%s' "$name"
}

main() {
    local context
    case ${1:-} in
        '') ;;
        -h | --help) usage && return ;;
        *) fail "docker/engine.sh takes no arguments, and not $1" "bash docker/engine.sh --help" ;;
    esac
    check_choice
    if [[ -n ${DOCKER_HOST:-} ]]; then
        printf '%s\n' "$DOCKER_HOST"
        return
    fi
    context=$(current_context)
    if [[ -n $context && -z ${PIKAFORGE_ENGINE:-} ]]; then
        say "uses the engine of docker's context $context; DOCKER_CONTEXT=default uses one of this machine"
        return
    fi
    if [[ -n ${CONTAINER_HOST:-}${CONTAINER_CONNECTION:-} && ${PIKAFORGE_ENGINE:-podman} == podman ]]; then
        say "uses the engine of podman's CONTAINER_HOST or CONTAINER_CONNECTION; unset them to use one of this machine"
        case ${CONTAINER_HOST:-} in unix://* | tcp://*) printf '%s\n' "$CONTAINER_HOST" ;; esac
        return
    fi
    [[ -x $python ]] || python=$(command -v "${PYTHON:-python3}") ||
        fail "a Python is needed to ask the engine, and there is none" "bash setup.sh brings one"
    trap remove_log EXIT
    take_lock
    find_manager
    ensure_engine
    [[ $socket == "$root/var/run/docker.sock" ]] ||
        say "uses the engine at unix://$socket; to run nox yourself: export DOCKER_HOST=unix://$socket"
    printf 'unix://%s\n' "$socket"
}

main "$@"
