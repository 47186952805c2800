# shellcheck shell=sh disable=SC2015,SC2034,SC2154
# deploy.sh: all that is checked before anything is changed.

room_kib=65536 # free space without which an instance is not begun

# Print a path without links; its last folders need not be there.
real() (
    at=$1
    rest=
    while [ ! -d "${at:-/}" ]; do
        if [ -e "$at" ] || [ -L "$at" ]; then
            exit 1
        fi
        rest=/${at##*/}$rest
        at=${at%/*}
    done
    at=$(CDPATH='' cd "${at:-/}" && pwd -P)
    printf '%s%s\n' "${at%/}" "$rest"
)

# Print the deepest folder of a path that is there.
existing() (
    at=$1
    while [ ! -d "${at:-/}" ]; do
        at=${at%/*}
    done
    printf '%s\n' "${at:-/}"
)

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

check_arguments() {
    is_number "$port" 5 && [ "$port" -gt 0 ] || wrong "PORT must be a number, not '$port'"
    [ "$port" -le "$highest" ] || wrong "PORT must be at most $highest, not $port"
    given_base=$base
    base=${base%/}
    # The path goes into a unit, an environment file and the conf: what any of them takes for syntax is refused.
    case $base in
    /*) ;;
    *) wrong "BASE must be an absolute path other than /, not '$given_base'" ;;
    esac
    is_plain_path "$base" || wrong "BASE must be a plain path, not '$given_base'" "letters, digits, / . _ @ + -"
    [ ${#base} -le 200 ] || wrong "BASE must have at most 200 letters" "sockets and snapshots lie below it"
    is_plain_path "$top" || die "the folder of the program must have a plain name, not '$top'" \
        "letters, digits, / . _ @ + -"
    where=$(real "$base") || die "BASE must be a folder: '$given_base' leads through something else"
    case $where/ in
    "$top"/*) die "BASE must be outside of the program's folder $top, not '$given_base'" ;;
    /usr/local/*) ;;
    /bin/* | /boot/* | /dev/* | /etc/* | /lib/* | /lib32/* | /lib64/* | /proc/* | /run/* | /sbin/* | /sys/* | /usr/* | / | "${etc%/*}"/* | "$runtime"/*)
        die "BASE must not be a folder of the system, as ${where:-/} is" "for example: deploy.sh $port /data"
        ;;
    esac
    [ -n "$shipped" ] || [ -z "$sets$from$password_file$memory" ] ||
        wrong "$product has no configuration file to change" 'deploy.sh --help'
    check_sets
    check_files
}

# Settings of the command line: of the server, and not those that PORT and BASE decide, or that hold passwords.
check_sets() {
    printf '%s' "$sets" | while IFS= read -r line; do
        key=${line%%=*}
        case $line in
        *=*) ;;
        *) wrong "--set needs KEY=VALUE, not '$line'" ;;
        esac
        case $key in
        [!A-Za-z]* | *[!A-Za-z0-9_.-]* | '') wrong "'$key' is no name of a setting" "letters, digits and _ . -" ;;
        esac
        case ${line#*=} in
        *[!\ -~]* | *[\"\'\\]*) wrong "the value of $key is not plain" "printable ASCII, without quotes and backslashes" ;;
        esac
        for secret in $key_admin $key_user $key_master; do
            [ "$key" != "$secret" ] || wrong "$key is a password, which others could see in a command line" \
                "--password-file FILE"
        done
        ! cut -f 1 "$utils/settings.tsv" | grep -Fqx -e "$key" || wrong "$key is set by PORT and BASE"
        [ "$key" != "$key_clients" ] || is_number "${line#*=}" 7 || wrong "$key must be a number, not '${line#*=}'"
    done || {
        said=yes
        exit 2
    }
}

# Files of the command line.
check_files() {
    if [ -n "$from" ]; then
        [ -f "$from" ] && [ -r "$from" ] || die "--from: $from is no file that can be read"
        [ "$(wc -c <"$from")" -le 1048576 ] || die "--from: $from is larger than a configuration can be"
        ! tr -d '\t\n\r' <"$from" | grep -q '[[:cntrl:]]' || die "--from: $from is no text: it has control characters"
    fi
    [ -n "$password_file" ] || return 0
    [ -n "$key_admin" ] || die "$product has no setting for a password" "leave --password-file out"
    case $password_file in
    /*) ;;
    *) password_file=$PWD/$password_file ;;
    esac
    if [ -e "$password_file" ] || [ -L "$password_file" ]; then
        [ -f "$password_file" ] && [ -r "$password_file" ] || die "--password-file: $password_file is no file that can be read"
        case $(stat -L -c %a "$password_file") in
        *00) ;;
        *) die "--password-file: others can read $password_file" "chmod 600 $password_file" ;;
        esac
        password=
        IFS= read -r password <"$password_file" || :
        is_password "$password" || die "--password-file: the first line of $password_file is no password" \
            "8 to 128 letters, digits and _ . ~ + - = @ % ^"
    else
        [ -d "${password_file%/*}/" ] || die "--password-file: ${password_file%/*} is no folder"
        password=$(LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | head -c 32)
        new_password=yes
    fi
}

# Without what any configuration takes for syntax.
is_password() {
    case $1 in
    *[!A-Za-z0-9_.~+=@%^-]*) return 1 ;;
    esac
    [ ${#1} -ge 8 ] && [ ${#1} -le 128 ]
}

check_host() {
    [ "$(id -u)" -eq 0 ] || die "only root can set an instance up" "sudo sh $0 $port $base"
    for folder in "$etc" "$units" "$where"; do
        case $folder in
        "$units") by_systemd || continue ;;
        esac
        [ -w "$(existing "$folder")" ] || die "$(existing "$folder") cannot be written: is it mounted read-only?" \
            "mount -o remount,rw, or another BASE"
    done
    case $(stat -f -c %T "$(existing "$where")" 2>/dev/null) in
    nfs* | cifs | smb* | afs | ceph | fuse | v9fs | 9p | lustre | panfs | gpfs | ocfs2 | gfs* | coda | ncp)
        die "BASE is on a file system of the network" "its locks and its speed do not serve a database: a local disk"
        ;;
    tmpfs | ramfs) warn "$where is in memory: the data is lost at the next boot" ;;
    esac
    free=$(free_kib "$(existing "$where")")
    ! is_number "$free" || [ "$free" -ge "$room_kib" ] ||
        die "$where has only $free KiB of free space, and needs $room_kib" "make room, or take another BASE"
    ! by_systemd || command -v systemctl >/dev/null 2>&1 || die "systemd runs, and systemctl is missing"
    for program in $programs; do
        command -v "$program" >/dev/null 2>&1 || die "$program is missing, which the server calls" \
            "apt-get install $program, or: yum install $program"
    done
}

check_tree() {
    for name in "systemd/$product@.service" ${shipped:+"$shipped" utils/settings.tsv} ${protocol:+utils/run.sh}; do
        [ -f "$top/$name" ] || die "$top/$name is missing" "unpack the package again"
    done
    sh "$utils/cpu-gate.sh" --quiet || die "this host's CPUs do not run the program (see above); nothing was changed"
    [ -f "$top/manifest.json" ] || return 0
    floor=$(sed -n 's/^ *"GLIBC": "\([0-9.]*\)".*/\1/p' "$top/manifest.json" | head -n 1)
    has=$(getconf GNU_LIBC_VERSION 2>/dev/null) || has=
    has=${has##* }
    if [ -n "$floor" ] && [ -n "$has" ]; then
        [ "$(printf '%s\n%s\n' "$floor" "$has" | sort -t . -k 1,1n -k 2,2n | head -n 1)" = "$floor" ] ||
            die "the program needs glibc $floor, and this host has $has" "take the package for this host's system"
    fi
    wanted=$(awk '/^ *"os": \{/ { inside = 1 } inside && /"(id|version)":/ { gsub(/[",]/, "", $2); found = found $2 " " }
        inside && /\}/ { print found; exit }' "$top/manifest.json")
    runs=$(sed -n -e 's/^ID="\{0,1\}\([a-z]*\)"\{0,1\}$/\1/p' "${etc%/*}/os-release" 2>/dev/null) || runs=
    [ -z "$wanted" ] || [ -z "$runs" ] || [ "${wanted%% *}" = "$runs" ] ||
        warn "the package is for ${wanted% }, and this host is $runs"
}

# What is there of this instance already, and whether another one is in its way.
check_instance() {
    data=$base/${product}_$port
    conf=${shipped:+$data/conf/${shipped##*/}}
    tree=$top
    env=$etc/$port.env
    found=
    [ ! -e "${conf:-$data}" ] || found=yes
    # The service user owns these folders and could point them elsewhere.
    for folder in "$data" "$data/conf" "$data/log" "$data/db" "$data/dump" "$data/dbsync" "$data/backup" "$conf"; do
        [ ! -L "$folder" ] || die "$folder is a symbolic link" "move it away; the data folder itself must be here"
    done
    [ ! -e "$data" ] || [ -d "$data" ] || die "$data is there, and is no folder" "move it away"
    [ ! -e "$conf" ] || [ -f "$conf" ] || [ -z "$conf" ] || die "$conf is there, and is no file" "move it away"
    [ -z "$from" ] || [ -z "$found" ] || die "--from: instance $port has a configuration already, $conf" \
        "--set changes it; to begin anew, move it away"
    user_missing=
    id "$user" >/dev/null 2>&1 || user_missing=yes
    reachable "$where"
    reachable "${top%/*}"
    check_name
    no_overlap
    first=${variables%% *}
    mark=DATA=$data
    [ "$first" = DATA ] || mark=CONF=$conf
    if [ -f "$env" ] && grep -q "^$first=" "$env" && ! grep -Fqx -e "$mark" "$env"; then
        die "instance $port is elsewhere: $(grep "^$first=" "$env")" \
            "take another PORT, or: systemctl disable --now $product@$port; rm $env"
    fi
    [ -f "$env" ] || [ -n "$found" ] || free_ports
}

# Refuse a host that cannot find the address of its own name, where the server looks for that.
check_name() {
    [ -n "$host_name" ] && command -v getent >/dev/null 2>&1 || return 0
    name=$(uname -n)
    [ -z "$(getent hosts "$name" 2>/dev/null)" ] || return 0
    words="this host's own name, $name, does not resolve, and the server needs that"
    # An instance that is there already stays as it is.
    [ -z "$found" ] || { warn "$words" && return; }
    die "$words" "add a line with its address on the network to /etc/hosts: ADDRESS $name"
}

# Refuse a port that another instance uses, too: each has further ones above its own.
no_overlap() {
    for place in "$etc"/*.env "$base/${product}_"*/conf; do
        [ -e "$place" ] || continue
        other=${place%.env}
        other=${other%/conf}
        other=${other##*[/_]}
        is_number "$other" 5 && [ "$other" -ne "$port" ] || continue
        for mine in $offsets; do
            for its in $offsets; do
                [ $((port + mine)) -eq $((other + its)) ] || continue
                words="port $((port + mine)) of this instance is also one of instance $other ($place)"
                # An instance that is there already stays as it is.
                [ -z "$found" ] || { warn "$words" && return; }
                die "$words" "take another PORT; each instance uses PORT plus: $offsets"
            done
        done
    done
}

# Refuse a port on which something listens. The kernel's tables have them in hexadecimal digits; state 0A listens.
free_ports() {
    for offset in $offsets; do
        number=$((port + offset))
        digits=$(printf '%04X' "$number")
        ! cat "$proc/net/tcp" "$proc/net/tcp6" 2>/dev/null |
            awk -v digits="$digits" '$4 == "0A" && $2 ~ ":" digits "$" { found = 1 } END { exit !found }' ||
            die "something listens on port $number already" \
                "ss -ltnp 'sport = :$number' shows what; an instance uses PORT plus: $offsets"
    done
}
