# shellcheck shell=sh disable=SC2034,SC2154
# The verb's part: the instances of this host. To be sourced.
# shellcheck source=/dev/null
. "$utils/lib/verb-status.sh"
verb_about='the instances of this host'

verb_help() {
    cat <<END
usage: instance.sh list [--json]

List the instances of this host, one a line: port, state, role, version, data folder. With --json: an array of what
\`status --json\` shows of each.
END
}

verb_main() {
    list_form=text
    while [ $# -gt 0 ]; do
        case $1 in
        --json) list_form=json ;;
        *) misused "list takes no '$1'" ;;
        esac
        shift
    done
    list_ports=$(instances)
    list_separator=
    [ "$list_form" = text ] || printf '['
    for port in $list_ports; do
        # Each in a shell of its own: one that cannot be read does not hide the others.
        if [ "$list_form" = json ]; then
            printf '%s' "$list_separator"
            list_one=$(load_instance "$port" && now_read && status_json) || list_one="{\"port\": $port}"
            printf '%s' "$list_one"
            list_separator=', '
        else
            (load_instance "$port" && list_line) || printf '%-6s unreadable\n' "$port"
        fi
    done
    [ "$list_form" = text ] || printf ']\n'
    [ "$list_form" = json ] || [ -n "$list_ports" ] || printf 'no instances; deploy.sh sets one up\n'
}

list_line() {
    list_state=stopped
    list_pid=$(service_pid "$port")
    [ -z "$list_pid" ] || list_state=silent
    ! info_read "$port" 2>/dev/null || list_state=serves
    list_role=$(info_named role)
    printf '%-6s %-8s %-8s %-12s %s\n' "$port" "$list_state" "$(printable "${list_role:--}")" \
        "$(fact_of "$tree" version)" "$data"
}
