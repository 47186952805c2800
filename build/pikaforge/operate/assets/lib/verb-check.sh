# shellcheck shell=sh disable=SC2034,SC2154
# The verb's part: one line and a status for monitoring systems. To be sourced.
#
# Form and statuses are those of the Monitoring Plugins' guidelines (monitoring-plugins.org, "Development Guidelines").
# shellcheck source=/dev/null
. "$utils/lib/memory.sh"
# shellcheck source=/dev/null
. "$utils/lib/info.sh"
verb_about='judge it, as a monitoring plugin does'
verb_without_instance=yes

verb_help() {
    cat <<END
usage: instance.sh PORT check [--NAME WARNING,CRITICAL]…

Judge an instance, as a monitoring plugin does: one line with performance data, and the status 0 (OK), 1 (WARNING),
2 (CRITICAL) or 3 (UNKNOWN). NAME is one of:
END
    rows_of status limit | while IFS=$tab read -r name warning critical; do
        printf '  --%-9s %s (%s,%s unless said otherwise)\n' "$name" "$(check_about "$name")" "$warning" "$critical"
    done
    printf '0 turns a limit off. Critical are also: no answer, a broken link to the master, a fault that the server reports.\n'
}

check_about() {
    case $1 in
    lag) printf 'of replication, in %s' "$(row_of status unit)" ;;
    memory) printf 'resident, percent of what deploy.sh --memory has planned' ;;
    disk) printf 'used, percent of the file system' ;;
    snapshot) printf 'hours since the last snapshot or backup' ;;
    clients) printf 'percent of the most clients' ;;
    files) printf 'percent of the limit of open files' ;;
    esac
}

verb_main() {
    check_state=0
    check_words=
    check_data=
    check_given=
    while [ $# -gt 0 ]; do
        check_name=${1#--}
        if [ "$check_name" = "$1" ] || ! check_known "$check_name"; then
            check_end 3 "check takes no '$(printable "$1")'"
        fi
        case ${2:-} in
        *,*,* | *[!0-9,]* | ,* | *, | ?????????????????????????*) check_end 3 "--$check_name takes WARNING,CRITICAL" ;;
        *,*) ;;
        *) check_end 3 "--$check_name takes WARNING,CRITICAL" ;;
        esac
        check_given="$check_given $check_name=$2"
        shift 2
    done
    # In a shell of its own: what stops in there is unknown, and no other status.
    check_loaded=$( (load_instance "$port") 2>&1) || check_end 3 "$(printf '%s' "$check_loaded" | head -n 1 | printable)"
    load_instance "$port"
    [ -r "$conf" ] || check_end 3 "$conf cannot be read: only root and $user can"
    now_read
    check_all
    check_end "$check_state" "${check_words:-$port ${now_role:+is $now_role, }serves}"
}

check_known() {
    rows_of status limit | NAME=$1 awk -F '\t' '$1 == ENVIRON["NAME"] { found = 1 } END { exit !found }'
}

# Print the line and end: check_end STATUS TEXT.
check_end() {
    case $1 in
    0) check_word=OK ;;
    1) check_word=WARNING ;;
    2) check_word=CRITICAL ;;
    *) check_word=UNKNOWN ;;
    esac
    # A bar would begin the performance data.
    check_text=$(printf '%s' "$2" | tr '|\n' '!;' | printable)
    printf '%s %s - %s%s\n' "$(printf '%s' "$product" | tr '[:lower:]' '[:upper:]')" "$check_word" "$check_text" \
        "${check_data:+ |$check_data}"
    exit "$1"
}

# Take note of a state, and say why: check_note STATE TEXT.
check_note() {
    [ "$1" -le "$check_state" ] || check_state=$1
    check_words="$check_words${check_words:+, }$2"
}

# Judge a figure: check_figure NAME VALUE UNIT TEXT. An unknown value is no fault. The unit is one of performance data.
check_figure() {
    figure_limits=$(rows_of status limit | NAME=$1 awk -F '\t' '$1 == ENVIRON["NAME"] { print $2 "," $3 }')
    case " $check_given" in
    *" $1="*)
        figure_limits=${check_given##*" $1="}
        figure_limits=${figure_limits%% *}
        ;;
    esac
    figure_value=$(number_of "$2")
    [ -n "$figure_value" ] || return 0
    figure_warning=$(number_of "${figure_limits%,*}")
    figure_critical=$(number_of "${figure_limits#*,}")
    figure_warning=${figure_warning:-0}
    figure_critical=${figure_critical:-0}
    if [ "$figure_critical" -gt 0 ] && [ "$figure_value" -ge "$figure_critical" ]; then
        check_note 2 "$4"
    elif [ "$figure_warning" -gt 0 ] && [ "$figure_value" -ge "$figure_warning" ]; then
        check_note 1 "$4"
    fi
    [ "$figure_warning" -gt 0 ] || figure_warning=
    [ "$figure_critical" -gt 0 ] || figure_critical=
    check_data="$check_data $1=$figure_value$3;$figure_warning;$figure_critical;0;"
}

# Print how many percent one number is of another; nothing if one is unknown.
percent_of() {
    [ -n "$1" ] && [ "${2:-0}" -gt 0 ] || return 0
    printf '%s %s\n' "$1" "$2" | awk '{ printf "%.0f\n", int($1 * 100 / $2) }'
}

check_all() {
    if [ "$now_answers" = no ]; then
        if [ -n "$now_pid" ]; then
            check_note 2 "$port runs, and does not answer"
        else
            check_note 2 "$port is stopped"
        fi
    fi
    [ -z "$now_faults" ] || check_note 2 "$port reports $now_faults"
    if [ -n "$now_master" ] && [ "$now_link" != up ]; then
        check_note 2 "the link to the master $now_master is ${now_link:-unknown}"
    fi
    [ "$now_gate" = pass ] || check_note 1 "the CPUs of this host are not those that the program needs"
    check_figure lag "$now_lag" "" "replication lags by $now_lag $(row_of status unit)"
    check_percent=$(percent_of "$now_resident" "$now_planned")
    check_figure memory "$check_percent" % "$check_percent percent of the planned memory"
    # shellcheck disable=SC2086 # four numbers
    set -- $now_disk
    check_figure disk "${4:-}" % "the file system of $data is ${4:-} percent full"
    check_percent=$(percent_of "$now_clients" "$now_most")
    check_figure clients "$check_percent" % "$now_clients of $now_most clients"
    check_percent=$(percent_of "$now_files" "$now_files_most")
    check_figure files "$check_percent" % "$now_files of $now_files_most open files"
    check_snapshot
    [ -z "$now_uptime" ] || check_data="$check_data uptime=${now_uptime}s;;;0;"
    [ -z "$now_resident" ] || check_data="$check_data resident=${now_resident}B;;;0;"
}

# An instance that has never had a snapshot is as old as its configuration.
check_snapshot() {
    [ -f "$utils/operate/snapshot.tsv" ] || return 0
    if [ -n "$now_snapshot" ]; then
        check_hours=$((($(date +%s) - ${now_snapshot%% *}) / 3600))
        check_figure snapshot "$check_hours" "" "the last snapshot is $check_hours hours old"
    else
        check_since=$(stat -c %Y -- "$etc/$port.env" 2>/dev/null) || return 0
        check_hours=$((($(date +%s) - check_since) / 3600))
        check_figure snapshot "$check_hours" "" "there has been no snapshot for $check_hours hours"
    fi
}
