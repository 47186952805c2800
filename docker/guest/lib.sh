#!/bin/sh
# Functions and settings that the guest scripts share. Each script reads this file before anything else:
#
#   . "${0%/*}/lib.sh"
#
# So a script is always called with a slash in its name. The compiler wrapper (cc) does not read it: it runs in the
# environment of a build and has to start quickly.
set -eu
umask 022
LC_ALL=C
TZ=UTC
export LC_ALL TZ
# Scripts that read lib.sh use these.
# shellcheck disable=SC2034
tab='	' newline='
'

# ---- messages

# All go to standard error: a function may fail while its output is being captured.

# Print a line for the log.
note() { # MESSAGE
    printf 'forge: %s\n' "$1" >&2
}

# Print why the job fails. The caller of the job shows these lines (REASON in host/text.py).
reason() { # MESSAGE
    note "reason: $1"
}

# Print why the job fails, and end it. Several parts of a message make one line.
fail() { # STATUS MESSAGE...
    status=$1
    shift
    IFS=' '
    reason "$*"
    exit "$status"
}

# ---- checks

# Fail with 2 unless all of these variables are set and not empty.
need_set() { # NAME...
    missing=
    for name; do
        # printenv and not eval, so that no text of a value is read as shell.
        [ -n "$(printenv "$name" || :)" ] || missing="$missing $name"
    done
    [ -z "$missing" ] || fail 2 "not set:$missing"
}

# Fail with 66 unless the program is installed.
need_program() { # NAME ADVICE
    command -v "$1" >/dev/null 2>&1 || fail 66 "$1 is not installed: $2"
}

# ---- facts of the system

# Print the list of libraries that the dynamic loader uses, as ldconfig -p does.
loader_list() {
    # Not every user has sbin on PATH.
    PATH=$PATH:/usr/sbin:/sbin ldconfig -p || fail 22 "ldconfig does not list the system's libraries"
}

# Run rpm for a question about the system's packages.
#
# sqlite opens a database in WAL mode only where it can make files beside it (sqlite.org/wal.html, "Read-Only
# Databases"), and a job cannot. So it gets a copy.
rpm_query() { # ARGUMENT...
    for database in /var/lib/rpm /usr/lib/sysimage/rpm; do
        if [ -f "$database/rpmdb.sqlite" ] && ! [ -w "$database" ]; then
            if ! [ -d "$PIKAFORGE_ROOT/rpmdb" ]; then
                mkdir "$PIKAFORGE_ROOT/rpmdb"
                cp "$database"/rpmdb.sqlite* "$PIKAFORGE_ROOT/rpmdb/"
            fi
            set -- --dbpath "$PIKAFORGE_ROOT/rpmdb" "$@"
            break
        fi
    done
    rpm "$@"
}

# ---- archives

# Create a tar archive whose bytes do not depend on owners and clocks.
archive() { # FILE SECONDS OPTION...
    made=$1 seconds=$2
    shift 2
    tar --create --file "$made" --format=gnu --owner=0 --group=0 --numeric-owner --mtime="@$seconds" "$@"
}

# ---- git

# Keep configuration, hooks and credentials of the machine away from git: it reads the file CONFIGURATION only.
seal_git() { # CONFIGURATION HOME
    GIT_CONFIG_GLOBAL=$1 GIT_CONFIG_SYSTEM=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0
    HOME=$2 XDG_CONFIG_HOME=$2/none
    export GIT_CONFIG_GLOBAL GIT_CONFIG_SYSTEM GIT_CONFIG_NOSYSTEM GIT_TERMINAL_PROMPT HOME XDG_CONFIG_HOME
}

# Print a fact for each submodule of the work tree FOLDER: `link`, path, commit and URL, with tabs between. START comes
# before each path.
submodule_links() { # FOLDER START
    [ -f "$1/.gitmodules" ] || return 0
    # Names only: a name may have blanks in it, and a value line ends. A key of `submodule` is never an option.
    git config --file "$1/.gitmodules" --name-only --get-regexp '^submodule\..*\.path$' | while read -r key; do
        path=$(git config --file "$1/.gitmodules" --get "$key")
        commit=$(git --literal-pathspecs -C "$1" ls-files --stage -- "$path" | awk '$1 == "160000" { print $2 }')
        # A path that holds plain files is not a submodule (any more), whatever .gitmodules says.
        [ -n "$commit" ] || continue
        url=$(git config --file "$1/.gitmodules" --get "${key%.path}.url") || url=
        case $path$url$commit in
        *[[:cntrl:]]* | *"$newline"*) fail 21 "the submodule $key has a control character in its path or URL" ;;
        esac
        printf 'link\t%s\t%s\t%s\n' "$2$path" "$commit" "$url"
    done
}
