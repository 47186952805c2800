# shellcheck shell=sh disable=SC2034,SC2154
# Start, stop and look at the service of an instance: by systemd, or by run.sh where there is none. Sourced after
# common.sh.

unit_of() { printf '%s@%s.service\n' "$product" "$1"; }

# The pid file of run.sh's supervisor: its process, when that began, and the server's process.
pid_file() { printf '%s/%s-%s.pid\n' "$runtime" "$product" "$1"; }

# Print the process of run.sh's supervisor if it lives.
supervisor() ( # PORT
    read -r process start _ 2>/dev/null <"$(pid_file "$1")" || exit 0
    is_number "$process" || exit 0
    [ -n "$start" ] && [ "$(began "$process")" = "$start" ] && printf '%s\n' "$process"
    exit 0
)

# Print the process of the server; nothing if there is none.
service_pid() ( # PORT
    if by_systemd; then
        process=$(systemctl show -p MainPID "$(unit_of "$1")")
        process=${process#MainPID=}
    else
        [ -n "$(supervisor "$1")" ] || exit 0
        read -r _ _ process 2>/dev/null <"$(pid_file "$1")" || exit 0
    fi
    ! is_number "$process" || [ "$process" -eq 0 ] || [ ! -d "$proc/$process" ] || printf '%s\n' "$process"
)

# Whether the service runs or is being started.
service_active() { # PORT
    if by_systemd; then
        case $(systemctl show -p ActiveState "$(unit_of "$1")") in
        *=active | *=activating | *=reloading) return 0 ;;
        *) return 1 ;;
        esac
    fi
    [ -n "$(supervisor "$1")" ]
}

service_start() { # PORT
    if by_systemd; then
        # A service that failed too often could not be started otherwise.
        systemctl reset-failed "$(unit_of "$1")" 2>/dev/null || :
        systemctl start "$(unit_of "$1")"
    else
        service_active "$1" || "$utils/run.sh" "$1" --daemon
    fi
}

service_stop() { # PORT
    if by_systemd; then
        systemctl stop "$(unit_of "$1")"
        return
    fi
    process=$(supervisor "$1")
    [ -n "$process" ] || return 0
    kill -TERM "$process" 2>/dev/null || :
    until=$(($(date +%s) + stop_seconds + 10))
    while [ -n "$(supervisor "$1")" ]; do
        [ "$(date +%s)" -lt "$until" ] || return 1
        sleep 1
    done
}

service_restart() { # PORT
    if by_systemd; then
        # One job of systemd's: it is done even if this process ends meanwhile.
        systemctl reset-failed "$(unit_of "$1")" 2>/dev/null || :
        systemctl restart "$(unit_of "$1")"
        return
    fi
    service_stop "$1" && service_start "$1"
}

# Show the last lines of what the service said to who sees errors.
last_words() { service_log "$1" 12 | printable | sed 's/^/  | /' >&2; } # PORT

# Print the last lines of what the service said.
service_log() { # PORT LINES
    if by_systemd; then
        journalctl --no-pager -o cat -n "$2" -u "$(unit_of "$1")" 2>/dev/null || :
    else
        tail -n "$2" "$logs/$1.log" 2>/dev/null || :
    fi
}
