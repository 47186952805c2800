#!/bin/sh
# Run the server of one instance: what its unit starts, and what hosts without systemd start.
#
#   run.sh PORT             in the foreground; as root it becomes the service user first
#   run.sh PORT --daemon    in the background, started again when it fails; ended by `instance.sh PORT stop`
#
# Before the start it asks the CPU gate, and removes pid files of processes that are gone. Exit status 78: the instance
# cannot run here, and need not be tried again.
set -eu
utils=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
# shellcheck source=lib/common.sh
. "$utils/lib/common.sh"
# shellcheck source=lib/service.sh
. "$utils/lib/service.sh"
never=78    # EX_CONFIG of sysexits.h; the unit does not try again
failures=5  # so many within $span seconds are enough
span=300
pause=2

refuse() { # MESSAGE [HINT]
    printf '%s: error: %s\n' "$tool" "$(printable "$1")" >&2
    [ $# -lt 2 ] || hint "$2"
    exit "$never"
}

# Remove pid files that a killed server has left, unless their process lives: its name is that of the program, and it is
# not of another instance.
remove_stale() {
    [ -f "$utils/operate/stale.tsv" ] || return 0
    while IFS=$tab read -r path program; do
        file=$data/$path
        if [ ! -f "$file" ] || [ -L "$file" ]; then continue; fi
        read -r process _ <"$file" || [ -n "${process:-}" ] || process=
        ! lives "$process" "$program" || continue
        rm -f "$file"
        printf '%s: removed %s: process %s is gone\n' "$tool" "$file" "$(printable "${process:-?}")" >&2
    done <"$utils/operate/stale.tsv"
}

lives() { # PID PROGRAM
    if ! is_number "$1" 10 || ! running "$1"; then return 1; fi
    # The kernel cuts names at 15 bytes.
    [ "$(cat "$proc/$1/comm" 2>/dev/null)" = "$(printf '%.15s' "$2")" ] || return 1
    case $(tr '\000' ' ' <"$proc/$1/cmdline" 2>/dev/null) in
    *"/${product}_$port/"*) return 0 ;;
    */"${product}_"[0-9]*) return 1 ;;
    esac
}

# Whether a process is there, and has not ended (a zombie, until its parent asks for its status).
running() { # PID
    [ -d "$proc/$1" ] && ! grep -q '^State:[[:blank:]]*Z' "$proc/$1/status" 2>/dev/null
}

# Export the operator's lines of the environment file, as systemd does.
# shellcheck disable=SC2094  # it is only read
export_lines() {
    while IFS= read -r line || [ -n "$line" ]; do
        name=${line%%=*}
        case $name in
        "$line" | '' | [0-9]* | *[!A-Z0-9_]* | CONF | DATA | TREE | IFS) continue ;;
        esac
        value=$(env_get "$env" "$name")
        export "$name=$value"
    done <"$env"
}

# Become the server; as root, become the service user first, with the limits that systemd would set.
foreground() {
    load_instance "$port"
    real=$(CDPATH='' cd -- "$tree" 2>/dev/null && pwd -P) || refuse "the program's folder $tree is missing" "see $env"
    if [ "$real" != "$top" ]; then
        [ -x "$real/utils/run.sh" ] || refuse "$real has no utils/run.sh" "see $env: TREE is where the program is"
        trap - EXIT
        exec "$real/utils/run.sh" "$port"
    fi
    by_systemd || export_lines
    if is_root; then
        id "$user" >/dev/null 2>&1 || refuse "there is no user $user" "run deploy.sh again"
        files=$(wanted_files "$conf")
        # shellcheck disable=SC3045  # in all three shells
        [ -z "$files" ] || ulimit -n "$files" 2>/dev/null ||
            warn "the limit of open files, $(ulimit -n), cannot be raised to $files"
        { echo -500 >"$proc/self/oom_score_adj"; } 2>/dev/null || :
        trap - EXIT
        become_user sh "$utils/run.sh" "$port"
    fi
    sh "$utils/cpu-gate.sh" --quiet || exit "$never"
    # Without its data it would begin with none, and its replicas would follow.
    [ ! -f "$etc/$port.restore/had" ] || [ -f "$etc/$port.restore/placed" ] ||
        refuse "a restore of instance $port was interrupted, and not all its data is in place" \
            "instance.sh $port restore $(cat "$etc/$port.restore/from")"
    [ -r "$conf" ] || refuse "$conf cannot be read by $(id -un)" "chown $user: $conf; chmod 640 $conf"
    cd "$data" || refuse "$data cannot be entered by $(id -un)"
    umask 027
    remove_stale
    set -f
    # shellcheck disable=SC2086,SC2154  # its words; none has a blank
    set -- $command
    set +f
    words=$#
    while [ "$words" -gt 0 ]; do
        word=$(filled "$1")
        shift
        set -- "$@" "$word"
        words=$((words - 1))
    done
    program=$top/$1
    shift
    [ -x "$program" ] || refuse "$program is missing" "unpack the package again"
    trap - EXIT
    exec "$program" "$@"
}

# A word of the command with what it holds of {conf}, {data} and {port}.
filled() { # WORD
    rest=$1
    done=
    while :; do
        case $rest in
        *'{'*'}'*) ;;
        *) break ;;
        esac
        name=${rest#*\{}
        name=${name%%\}*}
        done=$done${rest%%\{*}
        rest=${rest#*\}}
        case $name in
        conf) done=$done$conf ;;
        data) done=$done$data ;;
        port) done=$done$port ;;
        *) done="$done{$name}" ;;
        esac
    done
    printf '%s%s\n' "$done" "$rest"
}

# Replace this process by one of the service user, whose process id stays the same where the system can do that.
become_user() { # PROGRAM WORD…
    if command -v setpriv >/dev/null 2>&1; then
        exec setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"
    elif command -v chroot >/dev/null 2>&1 && chroot --userspec "$user:$user" / true 2>/dev/null; then
        exec chroot --userspec "$user:$user" / "$@"
    fi
    exec runuser -u "$user" -- "$@"
}

# Keep the server running: what systemd does elsewhere.
supervise() {
    # Two that were started by runs of which one was killed would not know of each other.
    locked "run-$port"
    file=$(pid_file "$port")
    child=
    stopping=no
    undo() { rm -f "$file" "$file.new"; }
    # shellcheck disable=SC2154  # of product.sh
    trap 'stopping=yes; [ -z "$child" ] || kill -s "$stop_signal" "$child" 2>/dev/null || :' TERM INT HUP
    fails=
    while [ "$stopping" = no ]; do
        # In a session of its own, whose rest is ended with it, as systemd does; the process id stays the same.
        setsid "$utils/run.sh" "$port" &
        child=$!
        printf '%s %s %s\n' "$$" "$(began $$)" "$child" >"$file.new"
        mv -f "$file.new" "$file"
        waited "$child"
        kill -KILL "-$child" 2>/dev/null || :
        [ "$stopping" = no ] || break
        case $status in 0 | "$never") break ;; esac
        printf '%s: the server ended with status %s\n' "$tool" "$status"
        now=$(date +%s)
        recent=$now
        count=1
        for moment in $fails; do
            [ $((now - moment)) -lt "$span" ] || continue
            recent="$recent $moment"
            count=$((count + 1))
        done
        fails=$recent
        if [ "$count" -ge "$failures" ]; then
            printf '%s: it failed %s times within %s seconds, and is not started again\n' "$tool" "$count" "$span"
            break
        fi
        sleep "$pause" &
        wait $! || :
    done
}

# Wait for the end of the server; once it was asked to end, no longer than it has for that.
waited() { # PROCESS
    limit=
    while :; do
        if [ "$stopping" = no ]; then
            status=0
            wait "$1" || status=$?
            # The signal ends `wait`, too.
            [ "$stopping" = yes ] || return 0
        fi
        running "$1" || return 0
        limit=${limit:-$(($(date +%s) + stop_seconds))}
        [ "$(date +%s)" -lt "$limit" ] || kill -KILL "$1" 2>/dev/null || :
        sleep 1
    done
}

# Start the supervisor in a session of its own. Its output and the server's go to a file of root's.
daemon() {
    need_root "$port" --daemon
    load_instance "$port"
    ! service_active "$port" || { say "$tool: instance $port runs already: nothing to do"; return 0; }
    mkdir -p "$logs"
    log=$logs/$port.log
    [ ! -f "$log" ] || [ "$(wc -c <"$log")" -lt 10485760 ] || mv -f "$log" "$log.1"
    rm -f "$(pid_file "$port")"
    setsid "$utils/run.sh" "$port" --supervise </dev/null >>"$log" 2>&1 &
    begun=$!
    tries=0
    # One whose server fails at once, again and again, may have given up before it is looked for.
    until [ -n "$(supervisor "$port")" ] || ! running "$begun"; do
        tries=$((tries + 1))
        [ "$tries" -le 10 ] || die "the supervisor of instance $port did not start" "see $log"
        sleep 1
    done
}

port=${1-}
case $#${2-} in
1) foreground ;;
2--daemon) daemon ;;
2--supervise) supervise ;;
*) misused "usage: run.sh PORT [--daemon]" "for example: run.sh 9000 --daemon" ;;
esac
