# shellcheck shell=sh disable=SC2034,SC2154
# What all scripts of an instance share. A script sets $utils, its own folder, and sources this first:
#
#   utils=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
#   . "$utils/lib/common.sh"
#
# Functions whose body is in () change no variable of their caller. What comes from a server, a file of an instance or
# the environment is data: it is never run, and is shown by `printable`.
set -eu
umask 022
# The shell's ranges, lengths and what programs print must not depend on the caller, nor may `cd` look elsewhere.
unset CDPATH
LC_ALL=C
export LC_ALL
# shellcheck source=/dev/null
. "$utils/lib/product.sh"

top=${utils%/*}
tool=${tool:-${0##*/}}
tool=${tool%.sh}
help="${0##*/} --help"  # what wrong arguments are answered with; instance.sh names its verb
# Where things are on a host. Tests put other folders here.
etc=/etc/$product
units=/etc/systemd/system
init=/etc/init.d
tmpfiles=/etc/tmpfiles.d
packaged_units="/usr/lib/systemd/system /lib/systemd/system"
runtime=/run
logs=/var/log/$product
proc=/proc
tab=$(printf '\t')
user=$product           # the service user
held=''                 # locks of this process
said=''                 # whether an error was printed
scratch=''              # its folder for temporary files, made by `temporary`

# Print a text, or what comes in, with control characters as \xNN; line ends and tabs stay. Of what is not ASCII only
# whole characters of UTF-8 stay: the bytes of all else, and of U+0080 to U+009F, are shown so, too.
printable() {
    if [ $# -gt 0 ]; then
        printf '%s\n' "$*" | printable
        return
    fi
    tr '\000' '?' | awk '
        # How many bytes the character at a place has; 0 if it is shown by its bytes. Ranges: The Unicode Standard, 3.9.
        function whole(line, at, first, second, size, i) {
            first = code[substr(line, at, 1)]
            if (first < 128) return first == 9 || (first > 31 && first < 127)
            size = first < 194 || first > 244 ? 0 : first < 224 ? 2 : first < 240 ? 3 : 4
            for (i = 1; i < size; i++) if (int(code[substr(line, at + i, 1)] / 64) != 2) return 0
            second = code[substr(line, at + 1, 1)]
            if ((first == 194 || first == 224) && second < 160 || first == 237 && second > 159) return 0
            if (first == 240 && second < 144 || first == 244 && second > 143) return 0
            return size
        }
        BEGIN { for (i = 1; i < 256; i++) code[sprintf("%c", i)] = i }
        $0 !~ /^[ -~\t]*$/ {
            line = ""
            for (i = 1; i <= length($0); i += size ? size : 1) {
                size = whole($0, i)
                line = line (size ? substr($0, i, size) : sprintf("\\x%02x", code[substr($0, i, 1)]))
            }
            $0 = line
        }
        { print }'
}

say() { printable "$*"; }
warn() { printf '%s: warning: %s\n' "$tool" "$(printable "$1")" >&2; }
hint() { printf '  hint: %s\n' "$(printable "$1")" >&2; }

# Refuse, or give up: what is wrong, and what to do.
die() { # MESSAGE [HINT]
    said=yes
    printf '%s: error: %s\n' "$tool" "$(printable "$1")" >&2
    [ $# -lt 2 ] || [ -z "$2" ] || hint "$2"
    exit 1
}

# The same for wrong arguments.
misused() { # MESSAGE [HINT]
    said=yes
    printf '%s: error: %s\n' "$tool" "$(printable "$1")" >&2
    hint "${2:-$help}"
    exit 2
}

# What a script undoes when it ends; it may have its own, which gets the exit status.
undo() { :; }

leave() {
    status=$?
    trap - EXIT
    set +e
    undo "$status"
    [ -z "$scratch" ] || rm -rf "$scratch"
    for lock in $held; do
        rm -f "$lock"
    done
    exit "$status"
}
trap leave EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

by_systemd() { [ -d "$runtime/systemd/system" ]; }
is_root() { [ "$(id -u)" -eq 0 ]; }
need_root() { is_root || die "only root can do this" "sudo $0 $*"; }
is_number() { # TEXT DIGITS: a whole number without leading zeros, of so many digits at most
    case $1 in
    0) return 0 ;;
    '' | *[!0-9]* | 0*) return 1 ;;
    esac
    [ ${#1} -le "${2:-15}" ]
}
is_port() { is_number "$1" 5 && [ "$1" -gt 0 ] && [ "$1" -le "$highest" ]; }
# Refuse the value of an option that is no number from 1 on.
counted() { # OPTION VALUE DIGITS
    if is_number "$2" "$3" && [ "$2" -gt 0 ]; then return 0; fi
    misused "$1 takes a number from 1 on, of $3 digits at most, not '$2'"
}
# Absolute, and without what units, environment files and confs take for syntax.
is_plain_path() {
    case $1/ in
    / | /*[!A-Za-z0-9/._@+-]* | */./* | */../* | *//*) return 1 ;;
    /*) ;;
    *) return 1 ;;
    esac
}

free_kib() { df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print $4 }'; }

# Print a fact of a tree; nothing is sourced.
fact_of() { # TREE NAME
    sed -n "s/^$2='\([A-Za-z0-9._+~-]*\)'\$/\1/p" "$1/utils/lib/product.sh" 2>/dev/null | head -n 1
}

# Make a folder that only this user can read, for temporary files; its path is in $scratch. In root's place those that
# killed processes have left go: they may hold passwords.
temporary() {
    [ -z "$scratch" ] || return 0
    place=$runtime
    if [ -w "$place" ]; then
        for each in "$place/$product-tmp."*.*; do
            its=${each#"$place/$product-tmp."}
            its=${its%.*}
            [ ! -d "$each" ] || [ "$(began "${its%%-*}")" = "${its#*-}" ] || rm -rf "$each"
        done
    else
        place=${TMPDIR:-/tmp}
    fi
    scratch=$(umask 077 && mktemp -d "$place/$product-tmp.$$-$(began $$).XXXXXX") || die "no temporary folder can be made in $place"
}

# When a process began, in ticks since the boot: with its id, this names it for ever. Nothing if it is gone.
began() { # PID
    sed 's/^.*) //' "$proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
}

# Take a lock until this script ends. That of a process that is gone is taken over.
locked() { # NAME
    lock=$runtime/$product-$1.lock
    mine=$$-$(began $$)
    while ! ln -s "$mine" "$lock" 2>/dev/null; do
        its=$(readlink "$lock") || {
            [ -e "$lock" ] || [ -L "$lock" ] || [ -w "$runtime" ] || die "$lock cannot be made" "only root can do this"
            continue
        }
        case ${its%%-*} in
        "$$" | "$PPID") return 0 ;;
        '' | *[!0-9]*) die "$lock is not one of ours: it leads to $its" "rm $lock" ;;
        esac
        [ "$(began "${its%%-*}")" != "${its#*-}" ] ||
            die "another command (process ${its%%-*}) works on $1 of $product" "wait for its end"
        # Moved away first, which only one of several can do.
        ! mv "$lock" "$lock.$$" 2>/dev/null || rm -f "$lock.$$"
    done
    held="$held $lock"
    # Those that a process has moved away, and was killed.
    rm -f "$lock".*
}

# Ports of the instances that are set up, sorted.
instances() (
    for file in "$etc"/*.env; do
        name=${file##*/}
        name=${name%.env}
        ! is_port "$name" || [ ! -f "$file" ] || printf '%s\n' "$name"
    done | sort -n
)

# What an environment file sets a variable to; the last line counts, as for systemd.
env_get() { # FILE NAME
    sed -n "s/^$2=//p" "$1" | tail -n 1 | sed -e 's/^"\(.*\)"$/\1/' -e "s/^'\(.*\)'\$/\1/"
}

# Set port, env, conf, data and tree of an instance.
load_instance() { # PORT
    is_port "$1" || misused "PORT must be a number from 1 to $highest, not '$1'"
    port=$1
    env=$etc/$port.env
    [ -f "$env" ] || die "there is no instance $port of $product on this host" \
        "instance.sh list; a new one: deploy.sh $port BASE"
    conf=$(env_get "$env" CONF)
    data=$(env_get "$env" DATA)
    tree=$(env_get "$env" TREE)
    # Packages before `operate` wrote the first one alone.
    [ -n "$data" ] || data=${conf%/*}
    data=${data%/conf}
    [ -n "$tree" ] || tree=$top
    for path in "$conf" "$data" "$tree"; do
        is_plain_path "$path" || die "$env has no plain path in CONF, DATA or TREE: '$path'" "mend that file"
    done
}

# Run a program as the service user, by what the system has for that. Root's rights are not used in folders that the
# user may change: it could put links there.
as_user() { # PROGRAM WORD…
    if ! is_root; then
        "$@"
    elif command -v setpriv >/dev/null 2>&1; then
        setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"
    elif command -v runuser >/dev/null 2>&1; then
        runuser -u "$user" -- "$@"
    else
        chroot --userspec "$user:$user" / "$@"
    fi
}

# For awk: key_of(LINE) is the key that a line of a configuration sets, nothing for a comment; value_of(LINE) is what it
# sets that to. $SEPARATOR stands between the two.
conf_keys='
    function key_of(line, at) {
        sub(/^[ \t]+/, "", line)
        if (line ~ /^#/) return ""
        if (mark == "") sub(/[ \t].*/, "", line); else { at = index(line, mark); line = at ? substr(line, 1, at - 1) : "" }
        sub(/[ \t\r]+$/, "", line)
        return line
    }
    function value_of(line) {
        sub(/[ \t\r]+$/, "", line); sub(/^[ \t]+/, "", line)
        line = mark == "" ? substr(line, length(key_of(line)) + 1) : substr(line, index(line, mark) + length(mark))
        sub(/^[ \t]+/, "", line)
        if (line ~ /^".*"$/ && length(line) > 1) line = substr(line, 2, length(line) - 2)
        return line
    }
    BEGIN { mark = ENVIRON["SEPARATOR"]; gsub(/[ \t]/, "", mark) }
'

# What a configuration file sets a key to: the last line of that name that is no comment.
conf_get() { # FILE KEY
    KEY=$2 SEPARATOR=$separator awk "$conf_keys"'
        key_of($0) == ENVIRON["KEY"] { value = value_of($0) }
        END { print value }' "$1"
}

# Print a configuration with a key set: in its first line of that name, the others go; else at the end. The value comes
# on standard input, because it may be a password: what is in arguments or the environment can be seen.
conf_with() { # FILE KEY <VALUE
    KEY=$2 SEPARATOR=$separator awk "$conf_keys"'
        NR == 1 { setting = ENVIRON["KEY"] ENVIRON["SEPARATOR"] $0; next }
        key_of($0) == ENVIRON["KEY"] { if (!done) print setting; done = 1; next }
        { print }
        END { if (!done) print setting }' - "$1"
}

# Set a key of an instance's configuration, by a file beside it that is renamed.
conf_put() { # FILE KEY VALUE
    temporary
    (umask 077 && printf '%s\n' "$3" | conf_with "$1" "$2" >"$scratch/conf") || return 1
    replaced "$1" <"$scratch/conf"
}

# Replace a file in a folder of the service user by what comes in, as that user.
replaced() { # FILE
    # shellcheck disable=SC2016  # the inner shell's
    as_user sh -c 'umask 027
        if cat >"$1.new" && mv -f "$1.new" "$1"; then exit 0; fi
        rm -f "$1.new"
        exit 1' sh "$1"
}

# Print the files that an instance needs open at once; nothing if there is no limit.
wanted_files() { # CONF
    [ -n "$key_clients" ] || return 0
    clients=$(conf_get "$1" "$key_clients")
    is_number "$clients" 7 || clients=$default_clients
    printf '%s\n' $((clients + reserve_files))
}
