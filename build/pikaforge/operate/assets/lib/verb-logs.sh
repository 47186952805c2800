# shellcheck shell=sh disable=SC2034,SC2154
# The verb's part: what an instance has logged, and which of its log files go. To be sourced.
# shellcheck source=/dev/null
. "$utils/lib/info.sh"
# shellcheck source=/dev/null
. "$utils/lib/logs.sh"
verb_about='show what it has logged; expire its log files'

verb_help() {
    cat <<END
usage: instance.sh PORT logs [--lines N]
       instance.sh PORT logs --expire [--days N] [--dry-run]

Show the last lines that the service has printed, and the last ones of each current log file.
With --expire: remove log files that have not changed for N days. What is not a log file by its name is never touched,
nor is a current one. Hosts with systemd do this daily by /etc/tmpfiles.d; others call it from cron.
END
}

verb_main() {
    logs_lines=50
    logs_days=
    logs_expire=no
    logs_dry=no
    while [ $# -gt 0 ]; do
        case $1 in
        --lines | --days)
            counted "$1" "${2:-}" 4
            [ "$1" = --lines ] && logs_lines=$2 || logs_days=$2
            shift
            ;;
        --expire) logs_expire=yes ;;
        --dry-run) logs_dry=yes ;;
        *) misused "logs takes no '$1'" ;;
        esac
        shift
    done
    if [ "$logs_expire" = yes ]; then
        logs_expire "$logs_days" "$logs_dry"
        return
    fi
    logs_folder=
    logs_facts || :
    service_log "$port" "$logs_lines" 2>&1 | printable
    [ -n "$logs_folder" ] || return 0
    for link in $logs_links; do
        [ -f "$logs_folder/$link" ] || continue
        printf '== %s\n' "$logs_folder/$link"
        tail -n "$logs_lines" -- "$logs_folder/$link" | printable
    done
}
