#!/bin/sh
# Set up one instance of @PRODUCT@ @VERSION@ on this host.
#
#   bash deploy.sh PORT BASE
#
# One instance per port: its conf, data and logs are in BASE/@PRODUCT@_PORT, owned by the service user; the program
# itself is root's. Run again with the same arguments it changes nothing: a conf that is there is kept.
# A host whose CPUs cannot run the program is refused before anything is changed (utils/cpu-gate.sh).
set -eu
umask 022
# The shell's ranges and what programs print must not depend on the caller, nor may `cd` look elsewhere (POSIX, cd).
unset CDPATH
LC_ALL=C
export LC_ALL

die() {
    trap - EXIT
    printf 'deploy: error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  hint: %s\n' "$2" >&2
    exit 1
}

# Print a path without links; its last folders need not be there.
real() {
    at=$1
    rest=
    while [ ! -d "${at:-/}" ]; do
        if [ -e "$at" ] || [ -L "$at" ]; then
            return 1
        fi
        rest=/${at##*/}$rest
        at=${at%/*}
    done
    at=$(cd "${at:-/}" && pwd -P)
    printf '%s%s\n' "${at%/}" "$rest"
}

# Refuse a folder that the service user cannot pass, with those above it.
reachable() {
    at=$1
    while :; do
        at=${at:-/}
        if [ -d "$at" ] && ! passable "$at"; then
            die "the service user $user cannot pass $at (mode $(stat -c %a "$at"))" "chmod o+x $at"
        fi
        [ "$at" != / ] || break
        at=${at%/*}
    done
}

# Return whether the service user may pass a folder: by the bits for others, or by what the user is.
passable() {
    case $(stat -c %a "$1") in
    *[1357]) return 0 ;;
    esac
    if ! id "$user" >/dev/null 2>&1 || ! command -v runuser >/dev/null 2>&1; then
        return 1
    fi
    runuser -u "$user" -- test -x "$1" 2>/dev/null
}

# Refuse a port that another instance uses, too: each has further ones above its own.
no_overlap() {
    for place in /etc/@PRODUCT@/*.env "$base/@PRODUCT@_"*/conf; do
        [ -e "$place" ] || continue
        other=${place%.env}
        other=${other%/conf}
        other=${other##*[/_]}
        case $other in
        "$port" | '' | *[!0-9]* | 0* | ??????*) continue ;;
        esac
        for mine in $offsets; do
            for its in $offsets; do
                [ $((port + mine)) -eq $((other + its)) ] || continue
                words="port $((port + mine)) of this instance is also one of instance $other ($place)"
                # An instance that is there already stays as it is.
                [ ! -e "${conf:-$data}" ] || { printf 'deploy: warning: %s\n' "$words" >&2 && return; }
                die "$words" "take another PORT; each instance uses PORT plus: $offsets"
            done
        done
    done
}

# Return whether a package has brought the unit of this tree. Links in the unit's path are followed, as systemd does.
packaged() {
    theirs=
    for packed in "/usr/lib/systemd/system/@PRODUCT@@.service" "/lib/systemd/system/@PRODUCT@@.service"; do
        [ -f "$packed" ] || continue
        theirs=$packed
        program=$(sed -n 's/^ExecStart=\(\/[^ ]*\).*/\1/p' "$packed")
        program=$(real "${program%/*}") || continue
        case $program/ in
        "$top"/*) return 0 ;;
        esac
    done
    return 1
}

[ $# -eq 2 ] || die "usage: deploy.sh PORT BASE" "for example: deploy.sh @PORT@ /data"
port=$1
base=${2%/}
case $port in
'' | *[!0-9]* | 0* | ??????*) die "PORT must be a number, not '$port'" ;;
esac
highest=@HIGHEST@ # each instance uses further ports above its own
offsets="@OFFSETS@"
[ "$port" -le "$highest" ] || die "PORT must be at most $highest, not $port"
# The path goes into a unit, an environment file and the conf: what any of them takes for syntax is refused.
case $base in
/*) ;;
*) die "BASE must be an absolute path other than /, not '$2'" ;;
esac
case $base/ in
*[!A-Za-z0-9/._@+-]* | */./* | */../* | *//*) die "BASE must be a plain path, not '$2'" "letters, digits, / . _ @ + -" ;;
esac

utils=$(cd -- "$(dirname -- "$0")" && pwd -P)
top=$(dirname "$utils")
case $top in
*[!A-Za-z0-9/._@+-]*) die "the folder of the program must have a plain name, not '$top'" "letters, digits, / . _ @ + -" ;;
esac
where=$(real "$base") || die "BASE must be a folder: '$2' leads through something else"
case $where/ in
"$top"/*) die "BASE must be outside of the program's folder $top, not '$2'" ;;
/usr/local/*) ;;
/bin/* | /boot/* | /dev/* | /etc/* | /lib/* | /lib32/* | /lib64/* | /proc/* | /run/* | /sbin/* | /sys/* | /usr/* | /)
    die "BASE must not be a folder of the system, as ${where:-/} is" "for example: deploy.sh $port /data"
    ;;
esac
[ "$(id -u)" -eq 0 ] || die "only root can set an instance up" "sudo sh $0 $port $base"

shipped="@CONF@" # empty if the server has no configuration file
for name in "systemd/@PRODUCT@@.service" ${shipped:+"$shipped" utils/settings.tsv}; do
    [ -f "$top/$name" ] || die "$top/$name is missing" "unpack the package again"
done
sh "$utils/cpu-gate.sh" --quiet || die "this host's CPUs do not run the program (see above); nothing was changed"

user=@PRODUCT@
data=$base/@PRODUCT@_$port
conf=${shipped:+$data/conf/${shipped##*/}}
tab=$(printf '\t')

# The service user owns these folders and could point them elsewhere.
for folder in "$data" "$data/conf" "$conf"; do
    [ ! -L "$folder" ] || die "$folder is a symbolic link" "move it away; the data folder itself must be here"
done

reachable "$where"
reachable "${top%/*}"
no_overlap
env=/etc/@PRODUCT@/$port.env
mark=${conf:+CONF=$conf}
mark=${mark:-DATA=$data}
if [ -f "$env" ] && grep -q "^${mark%%=*}=" "$env" && ! grep -Fqx "$mark" "$env"; then
    die "instance $port is elsewhere: $(grep "^${mark%%=*}=" "$env")" \
        "take another PORT, or: systemctl disable --now @PRODUCT@@$port; rm $env"
fi

# What is written here is removed when this ends early. The rest stays: run again, this goes on with it.
beside=${conf:-$data/conf/}.new.$$
unit=/etc/systemd/system/@PRODUCT@@.service
ended() {
    status=$?
    rm -f "$beside" "$beside.next" "$env.new.$$" "$unit.new.$$"
    [ "$status" -eq 0 ] ||
        printf 'deploy: error: not finished (see above)\n  hint: mend that, and run it again as before\n' >&2
}
trap ended EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

if ! id "$user" >/dev/null 2>&1; then
    shell=/sbin/nologin
    [ -x "$shell" ] || shell=/usr/sbin/nologin
    # useradd refuses to make a group that is there.
    group=--user-group
    ! getent group "$user" >/dev/null 2>&1 || group=--gid=$user
    useradd --system "$group" --home-dir "$base" --no-create-home --shell "$shell" "$user"
fi
# The program is root's, and the user can read and run it whatever the umask was when it was unpacked. Nothing is done
# where all is well: the folder may be read-only.
wrong=$(find "$top" ! -type l '(' ! -uid 0 -o ! -gid 0 -o -perm -020 -o -perm -002 -o ! -perm -044 -o \
    -perm -100 ! -perm -011 ')' -print 2>&1 | head -n 1)
if [ -n "$wrong" ]; then
    chown -R 0:0 "$top"
    chmod -R go-w,go+rX "$top"
fi

mkdir -p "$data"
[ "$(stat -c %u "$data")" -eq "$(id -u "$user")" ] && known=yes || known=no
mkdir -p "$data/conf" "$data/log" "$data/db" "$data/dump" "$data/dbsync"

# The conf that is shipped, with this instance's settings in place of those of the same name.
if [ -n "$conf" ] && [ ! -f "$conf" ]; then
    cp "$top/$shipped" "$beside"
    while IFS=$tab read -r key value; do
        # By the environment, because awk takes backslashes in -v for escapes.
        KEY=$key VALUE=$value PORT=$port DATA=$data awk -v separator="@SEPARATOR@" '
            BEGIN {
                key = ENVIRON["KEY"]; value = ENVIRON["VALUE"]
                gsub(/[{]port[}]/, ENVIRON["PORT"], value); gsub(/[{]data[}]/, ENVIRON["DATA"], value)
            }
            { line = $0; sub(/^[ \t]+/, "", line); word = line; sub(/[ \t:=].*/, "", word) }
            word == key && line !~ /^#/ { if (!done) print key separator value; done = 1; next }
            { print }
            END { if (!done) print key separator value }' "$beside" >"$beside.next"
        mv "$beside.next" "$beside"
    done <"$utils/settings.tsv"
    mv "$beside" "$conf"
fi
# All of it where the folder is new or came from elsewhere. Else only the folders: a running server removes files.
if [ "$known" = no ]; then
    chown -R "$user:" "$data"
else
    chown -h "$user:" "$data" "$data/conf" "$data/log" "$data/db" "$data/dump" "$data/dbsync" ${conf:+"$conf"}
fi

if [ -d /run/systemd/system ]; then
    mkdir -p "/etc/@PRODUCT@"
    @PRINT@ >"$env.new.$$"
    if [ -f "$env" ]; then
        # Lines of the operator. Status 1 says that there are none; 2, that they cannot be read or written.
        grep -v @OURS@ "$env" >>"$env.new.$$" || [ $? -eq 1 ]
    fi
    # The variable's old name works as well (cpu-gate.sh).
    skip=${PIKAFORGE_SKIP_CPU_GATE:-${FORGE_SKIP_CPU_GATE:-}}
    if [ "$skip" = 1 ] && ! grep -qx -e 'PIKAFORGE_SKIP_CPU_GATE=1' -e 'FORGE_SKIP_CPU_GATE=1' "$env.new.$$"; then
        # Else the unit would refuse what was overridden here.
        echo 'PIKAFORGE_SKIP_CPU_GATE=1' >>"$env.new.$$"
        printf 'deploy: warning: the service overrides the CPU gate too, by %s\n' "$env" >&2
    fi
    mv "$env.new.$$" "$env"
    # Where a package has brought the unit of this tree, one in /etc would hide it, and its later versions, too.
    if ! packaged; then
        sed "s|@TOP@|$top|g" "$top/systemd/@PRODUCT@@.service" >"$unit.new.$$"
        mv "$unit.new.$$" "$unit"
        if [ -n "$theirs" ]; then
            printf 'deploy: warning: %s hides %s of a package: all instances run %s when they start again\n' \
                "$unit" "$theirs" "$top" >&2
            printf '  hint: rm %s to go back to the package; an instance of it is set up by its own deploy.sh\n' "$unit" >&2
        fi
    elif [ -f "$unit" ]; then
        printf 'deploy: warning: %s hides the unit of the package\n' "$unit" >&2
        printf '  hint: rm %s, unless it is meant to\n' "$unit" >&2
    fi
    systemctl daemon-reload
    systemctl enable --now "@PRODUCT@@$port.service"
    printf 'deploy: @PRODUCT@@%s.service is enabled and started\n' "$port"
else
    what=${conf:+conf $conf}
    what=${what:-data $data}
    printf 'deploy: no systemd here; the instance is ready to be started with %s\n' "$what"
fi
