# shellcheck shell=sh disable=SC2034,SC2154
# The verb's part: how an instance is, for people and for scripts. To be sourced.
# shellcheck source=/dev/null
. "$utils/lib/memory.sh"
# shellcheck source=/dev/null
. "$utils/lib/info.sh"
# shellcheck source=/dev/null
. "$utils/lib/json.sh"
verb_about='show how it is: role, replication, memory, disk, last snapshot'

verb_help() {
    cat <<END
usage: instance.sh PORT status [--json]

Show how an instance is: version, model, ports, role, replication, memory, disk, last snapshot, uptime, CPU gate.
With --json: one object for scripts, valid whatever the server replies; what is unknown is null.
The status is 0 when the state was shown, whatever it is; \`check\` judges it.
END
}

verb_main() {
    status_form=text
    while [ $# -gt 0 ]; do
        case $1 in
        --json) status_form=json ;;
        *) misused "status takes no '$1'" ;;
        esac
        shift
    done
    [ -r "$conf" ] || die "$conf cannot be read: only root and $user can" "sudo $0 $port status"
    now_read
    "status_$status_form"
}

status_ports() {
    for offset in $offsets; do
        printf '%s\n' "$((port + offset))"
    done
}

# Print `NAME: VALUE` if there is a value.
status_line() {
    [ -z "$2" ] || printf '%-12s %s\n' "$1" "$(printable "$2")"
}

status_text() {
    if [ "$now_answers" = yes ]; then
        status_state="serves"
    elif [ -n "$now_pid" ]; then
        status_state="runs, and does not answer"
    else
        status_state="stopped"
    fi
    status_line instance "$port, $status_state"
    status_line program "$product $(fact_of "$tree" version) for $(fact_of "$tree" model) ($(fact_of "$tree" target)), in $tree"
    status_line "runs" "${now_server:+version $now_server, }${now_pid:+process $now_pid}${now_uptime:+, up $((now_uptime / 86400))d $((now_uptime % 86400 / 3600))h $((now_uptime % 3600 / 60))m}"
    status_line ports "$(status_ports | tr '\n' ' ')"
    status_line role "$now_role${now_master:+ of $now_master, link ${now_link:-unknown}}"
    status_line replicas "$(printf '%s' "$now_replicas" | awk '{ printf "%s%s (lag %s)", sep, $1, $2; sep = ", " }')"
    status_line memory "${now_resident:+$(memory_human "$now_resident") resident}${now_planned:+, $(memory_human "$now_planned") planned}"
    status_line clients "$now_clients${now_most:+ of $now_most}"
    status_line files "${now_files:+$now_files open of $now_files_most}"
    status_line data "$data${now_data:+, $(memory_human "$now_data")}"
    # shellcheck disable=SC2086 # four numbers
    set -- $now_disk
    status_line disk "${4:+$4 percent used, $(memory_human "$3") free}"
    status_line snapshot "${now_snapshot:+${now_snapshot#* }, $((($(date +%s) - ${now_snapshot%% *}) / 3600)) hours ago}"
    [ -n "$now_snapshot" ] || status_line snapshot none
    status_line gate "$now_gate"
    status_line fault "$now_faults"
}

status_json() {
    printf '{"port": %s, "product": %s, ' "$port" "$(json_string "$product")"
    for fact in version release model target; do
        printf '"%s": %s, ' "$fact" "$(json_string "$(fact_of "$tree" "$fact")")"
    done
    printf '"tree": %s, "conf": %s, "data": %s, ' "$(json_string "$tree")" "$(json_string "$conf")" "$(json_string "$data")"
    printf '"pid": %s, "answers": %s, ' "$(json_number "$now_pid")" "$(json_flag "$now_answers")"
    printf '"server_version": %s, ' "$(json_string "$now_server")"
    printf '"uptime_seconds": %s, ' "$(json_number "$now_uptime")"
    printf '"ports": [%s], ' "$(status_ports | awk '{ printf "%s%s", sep, $1; sep = ", " }')"
    printf '"role": %s, ' "$(json_string "$now_role")"
    printf '"replication": {"master": %s, "link": %s, ' "$(json_string "$now_master")" "$(json_string "$now_link")"
    printf '"lag": %s, "lag_unit": %s, ' "$(json_number "$now_lag")" "$(json_string "$(row_of status unit)")"
    printf '"replicas": [%s]}, ' "$(printf '%s' "$now_replicas" | awk '
        { printf "%s{\"address\": \"%s\", \"lag\": %s}", sep, $1, $2 ~ /^[0-9]+$/ ? $2 + 0 : "null"; sep = ", " }')"
    printf '"memory": {"resident": %s, "planned": %s, "reported": %s}, ' \
        "$(json_number "$now_resident")" "$(json_number "$now_planned")" "$(json_number "$now_reported")"
    printf '"clients": {"now": %s, "most": %s}, ' "$(json_number "$now_clients")" "$(json_number "$now_most")"
    printf '"files": {"open": %s, "most": %s}, ' "$(json_number "$now_files")" "$(json_number "$now_files_most")"
    # shellcheck disable=SC2086 # four numbers
    set -- $now_disk
    printf '"disk": {"data": %s, "size": %s, "available": %s, "used_percent": %s}, ' \
        "$(json_number "$now_data")" "$(json_number "${1:-}")" "$(json_number "${3:-}")" "$(json_number "${4:-}")"
    if [ -n "$now_snapshot" ]; then
        printf '"last_snapshot": {"path": %s, "time": %s, "age_seconds": %s}, ' "$(json_string "${now_snapshot#* }")" \
            "$(json_number "${now_snapshot%% *}")" "$(json_number "$(($(date +%s) - ${now_snapshot%% *}))")"
    else
        printf '"last_snapshot": null, '
    fi
    printf '"faults": %s, ' "$(json_string "$now_faults")"
    printf '"gate": %s}\n' "$(json_string "$now_gate")"
}
