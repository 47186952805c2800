#!/usr/bin/env bash
# Prepare a fresh machine, then build or test. `bash setup.sh --help` says what it installs.
#
# Variables read, all optional; docker/engine.sh and docker/machine.sh have further ones:
#   PYTHON            the Python interpreter to use, where the system's own is too old
#   PIKAFORGE_ENGINE  docker or podman: the only engine to look for, and to install
#   PIKAFORGE_OFFLINE  neither empty nor 0: nothing is installed; --bundle sets it
set -euo pipefail

# shellcheck source=docker/machine.sh
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/docker/machine.sh"
venv=$repo/.venv
nox='nox>=2024.10'
invoke='invoke>=2.2'
python='' bare='' stamp=''

usage() {
    cat <<'END'
bash setup.sh SELECTOR... [options]  prepare this machine, then nox -s build -- SELECTOR... [options]
bash setup.sh --bundle FILE SELECTOR... [options]
                                     the same without network, from a file that nox -s bundle has made
bash setup.sh tests [args]           prepare this machine, then nox -s tests -- [args]
bash setup.sh                        prepare this machine only

Installs what is missing and nothing else, with apt-get, dnf or yum, as root or through sudo:
  git, tar, gzip, zstd, gpg, GLib; Python >= 3.10 with venv; nox and invoke, in .venv beside this script;
  a container engine, unless DOCKER_HOST or a docker context is set, one answers already, or `--engine host` is given;
  mmdebstrap on Debian and Ubuntu, which makes base images where no registry is in reach
  (Enterprise Linux has it in EPEL only, so there it is left to you);
  for tests: shellcheck, patchelf, ccache, gcc, g++, make, cmake, dpkg-dev, zlib's headers, busybox,
  node, lintian, rpmlint, zsh, man and mandoc, on Debian and Ubuntu podman, and on Debian chromium.
The engine is docker on Debian and Ubuntu; on Enterprise Linux docker where its packages are in reach, else podman.
PIKAFORGE_ENGINE=podman (or docker) takes that one, as root for all of the machine, else for this user alone.
Nothing that is there is upgraded or removed; a second run changes nothing.

PYTHON=/path/to/python3 names another Python. pip's own settings (PIP_*, pip.conf) apply.
Exit status: that of the build or the tests; 3 when this machine lacks something.
END
}

# ---- packages

epel() { # the package's name, if EPEL is enabled
    ! grep -qs '^enabled *= *1' "$root"/etc/yum.repos.d/epel*.repo || printf '%s' "$1"
}

need_extras() { # for the other verbs: a build works without these
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

need_tools() { # session: build, tests, or empty
    need git git git "fetches sources and applies patches"
    need tar tar tar "packs trees and images"
    need gzip gzip gzip "packs artifacts"
    need /etc/ssl/certs/ca-certificates.crt ca-certificates '' "lets git and pip trust https servers"
    ! offline || return 0 # base images need a network, and the rest can be done without
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
    need lintian lintian '' "judges the DEBs that are made"
    need rpmlint rpmlint '' "judges the RPMs that are made"
    need rpm rpm '' "reads the RPMs that rpmlint judges"
    [[ $(os_release ID) != debian ]] || need chromium chromium '' "opens the pages that the tests look at"
    need jq jq "$(epel jq)" "reads events and reports, as commands of the pages do"
    need zsh zsh zsh "is a shell in which completion is tested"
    need man man-db man-db "renders the man page"
    need mandoc mandoc '' "checks the man page"
    need node nodejs "$([[ $manager == yum ]] || echo nodejs)" "runs the script of the repositories' index page"
    if [[ $manager == apt ]]; then
        need_podman
        need_rootless
    fi
}

# ---- Python

# Status 4: too old. Status 3: Debian's python3 without the package that has ensurepip.
python_check='
import sys
if sys.version_info < (3, 10):
    sys.exit(4)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(3)
'

find_python() { # sets python, or else bare: the name of one that lacks only ensurepip
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

# The stamp is written last, so that an interrupted setup leaves none. It holds the path of the checkout, because
# scripts in an environment that was moved do not work.
venv_ready() { # sets stamp
    { read -r stamp <"$venv/.stamp"; } 2>/dev/null || true
    [[ $stamp == "$repo $nox $invoke" && -x $venv/bin/nox && -x $venv/bin/invoke ]] &&
        "$venv/bin/python" -c '' 2>/dev/null
}

venv_usable() { # can nox be added to it? true for one that the user made, or that is not complete
    [[ -z $stamp || $stamp == "$repo "* ]] || return 1
    local inside='import os, sys; sys.exit(sys.version_info < (3, 10) or not os.path.samefile(sys.prefix, sys.argv[1]))'
    "$venv/bin/python" -c "$inside" "$venv" 2>/dev/null || return 1
    logged "$venv/bin/python" -m pip --version || logged "$venv/bin/python" -m ensurepip
}

add_nox() { # without settings of pip that would install it elsewhere
    logged env -u PIP_TARGET -u PIP_PREFIX PIP_USER=0 \
        "$venv/bin/python" -m pip install --disable-pip-version-check "$nox" "$invoke" &&
        logged "$venv/bin/nox" --version
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

# ---- the engine

ensure_engine() { # sets DOCKER_HOST, unless the engine is where docker's own clients look for it
    local address
    address=$(PIKAFORGE_SETUP_UPDATED=$updated bash "$repo/docker/engine.sh")
    [[ $address == "unix://$root/var/run/docker.sock" && -z ${PIKAFORGE_ENGINE:-} ]] || export DOCKER_HOST=$address
}

# ---- a bundle

reader() { # verb, arguments
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$repo/build "$python" -m pikaforge.bundle.reader "$@"
}

need_bundle_python() { # sets python to one that the bundle has wheels for
    local file=$1 about version versions candidate
    find_python || { need_python && return; }
    # Without zstd the bundle cannot be read yet.
    ((${#wanted[@]} == 0)) || return 0
    about=$(reader about "$file") || exit
    engine=${about%% *} versions=${about#* }
    for version in $versions; do
        for candidate in ${PYTHON:+"$PYTHON"} "python$version" python3; do
            candidate=$(type -P "$candidate") || continue
            "$candidate" -c "$python_check" >/dev/null 2>&1 || continue
            "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" || continue
            python=$candidate
            return
        done
    done
    want "python${versions// / or python}" "is what the bundle has wheels for (PYTHON=/path/to/python3 names one)"
}

need_bundle_engine() { # one has to be there; docker/engine.sh starts it
    local path user=${XDG_RUNTIME_DIR:-}
    [[ $engine != host ]] || return 0
    [[ -z ${DOCKER_HOST:-}${DOCKER_CONTEXT:-}${CONTAINER_HOST:-} ]] || return 0
    for path in "$root/var/run/docker.sock" "$root/run/podman/podman.sock" ${user:+"$user/docker.sock" "$user/podman/podman.sock"}; do
        [[ ! -S $path ]] || return 0
    done
    command -v dockerd >/dev/null || command -v podman >/dev/null ||
        want "$([[ $manager == apt ]] && echo docker.io || echo podman)" "runs containers, and no bundle can carry an engine"
}

from_bundle() { # file, arguments of a build
    local file=$1 output lines=() keys=() key
    shift
    [[ $file == /* ]] || file=$PWD/$file
    [[ -f $file ]] || fail "there is no bundle $file" "bash setup.sh --bundle FILE SELECTOR..."
    export PIKAFORGE_OFFLINE=1
    need_tools build
    [[ $file != *.zst ]] || need zstd zstd zstd "unpacks the bundle"
    need_bundle_python "$file"
    need_bundle_engine
    install_wanted # says what is missing
    say "checks and unpacks $file"
    output=$(reader unpack "$file" "$repo/out/bundles") || exit
    mapfile -t lines <<<"$output"
    for key in "${lines[0]}"/keys/*.asc; do [[ ! -f $key ]] || keys+=("$key"); done
    [[ -n ${PIKAFORGE_VERIFY_KEYS:-} ]] || ((${#keys[@]} == 0)) ||
        PIKAFORGE_VERIFY_KEYS=$(IFS=: && printf '%s' "${keys[*]}") && export PIKAFORGE_VERIFY_KEYS
    export PIKAFORGE_OFFLINE=${lines[0]} PIP_NO_INDEX=1 PIP_FIND_LINKS=${lines[2]} PYTHON=$python
    remove_log # exec runs no trap
    exec bash "${lines[0]}/tool/setup.sh" "${lines[@]:3}" --out "$repo/out" --dist "$repo/dist" "$@"
}

# ---- all of it

main() {
    local session=build argument previous='' ready='' engine=container bundle=''
    case ${1:-} in
        -h | --help) usage && return ;;
        --bundle)
            (($# > 1)) || fail "--bundle needs a file" "bash setup.sh --bundle FILE SELECTOR..."
            bundle=$2 && shift 2
            ;;
        tests) session=tests && shift ;;
        '') session='' ;;
    esac
    for argument; do
        case "$previous $argument" in '--engine host' | *' --engine=host') engine=host ;; esac
        previous=$argument
    done
    check_choice
    trap remove_log EXIT
    take_lock
    find_manager
    [[ -z $bundle ]] || from_bundle "$bundle" "$@"
    need_tools "$session"
    if venv_ready; then ready=1; else need_python; fi
    install_wanted
    [[ -n $ready ]] || make_venv
    [[ $engine == host ]] || ensure_engine
    if [[ -z $session ]]; then
        printf '%s\n' "This machine is ready. Next, for example:" "  bash setup.sh R620" \
            "  bash setup.sh tests" "  $venv/bin/nox -s matrix"
        return
    fi
    remove_log # exec runs no trap
    exec 9<&-
    unset NOXPYTHON NOXFORCEPYTHON NOXEXTRAPYTHON # they are about other projects' sessions, and would select none here
    export PIKAFORGE_CWD=$PWD # what relative paths among the arguments mean
    cd "$repo"
    exec "$venv/bin/nox" -s "$session" -- "$@"
}

main "$@"
