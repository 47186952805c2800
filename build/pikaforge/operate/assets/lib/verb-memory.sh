# shellcheck shell=sh disable=SC2034,SC2154
# The verb's part: what an instance may take of memory, and what it takes. To be sourced.
# shellcheck source=/dev/null
. "$utils/lib/memory.sh"
# shellcheck source=/dev/null
. "$utils/lib/info.sh"
verb_about='what it may take of memory, and what it takes'

verb_help() {
    cat <<END
usage: instance.sh PORT memory [--plan SIZE]

Show what the configuration lets the instance take, term by term, next to what runs: resident memory, what the server
reports, and the allocator's statistics. With --plan SIZE: show the settings that \`deploy.sh --memory SIZE\` would choose;
nothing is changed.
END
}

verb_main() {
    memory_size=
    while [ $# -gt 0 ]; do
        case $1 in
        --plan)
            memory_size=$(memory_bytes "${2:-}") || misused "--plan takes a size such as 8G, not '${2:-}'"
            shift
            ;;
        *) misused "memory takes no '$1'" ;;
        esac
        shift
    done
    [ -f "$utils/operate/memory.tsv" ] || die "$product has no plan of memory"
    if [ -n "$memory_size" ]; then
        memory_plan "$memory_size" "$conf" | memory_table
        return
    fi
    memory_planned=$(memory_budget "$conf")
    memory_text=$(memory_lines show "${memory_planned:-0}" "$conf")
    case $memory_text in
    error"$tab"*) die "$conf: $(printf '%s' "${memory_text#*"$tab"}" | tr '\t' ' ')" ;;
    esac
    printf '%s\n' "$memory_text" | memory_table
    memory_runs "$(printf '%s\n' "$memory_text" | awk -F '\t' '$1 == "total" { print $2 }')"
}

# Print the lines of memory.awk as a table.
memory_table() {
    awk -F '\t' "$awk_human"'
        $1 == "set" { printf "set %s to %s\n", $2, $3 }
        $1 == "term" { printf "%10s  %-14s %s\n", human($3), $2, $4 }
        $1 == "reserve" { printf "%10s  %-14s %s\n", human($2), "reserve", $3 }
        $1 == "total" { printf "%10s  in all\n", human($2) }
        $1 == "budget" { printf "%10s  planned for\n", human($2) }' | printable
}

# Print what the allocator says of itself: figures of tcmalloc as the others, else the lines of the reply. Many servers are
# built with another allocator, and refuse the command.
memory_allocator() {
    rows_of memory ask | while read -r words; do
        # shellcheck disable=SC2086 # the words of a command, from the product's entry
        if ! memory_reply=$(ask "$port" $words 2>&1 </dev/null); then
            memory_reply=$(printf '%s\n' "$memory_reply" | head -n 1)
            say "         -  of the allocator: the server has no $words${memory_reply:+ ($memory_reply)}"
            continue
        fi
        # MALLOC: + NUMBER ( N MiB) TEXT, of gperftools; the server may cut the reply anywhere.
        memory_figures=$(printf '%s\n' "$memory_reply" | tr -d '\r' | awk -v words="$words" "$awk_human"'
            /^MALLOC: *[=+]? *[0-9]+ *\( *[0-9.]+ MiB\) [A-Z]/ {
                bytes = $0; sub(/^[^0-9]*/, "", bytes); sub(/[^0-9].*/, "", bytes)
                sub(/^[^)]*\) */, "")
                if (length(bytes) < 16) printf "%10s  %s of %s\n", human(bytes), $0, words
            }')
        if [ -n "$memory_figures" ]; then
            say "$memory_figures"
        else
            say "$words:"
            printf '%s\n' "$memory_reply" | head -n 40 | sed 's/^/  /' | printable
        fi
    done
}

# Print what runs, next to what it may take: memory_runs TOTAL.
memory_runs() {
    memory_pid=$(service_pid "$port")
    if [ -z "$memory_pid" ] || ! info_read "$port"; then
        say "instance $port does not run, or does not answer: there is nothing to compare with"
        return
    fi
    memory_resident=$(kernel_bytes "$memory_pid" VmRSS)
    say "what runs (process $memory_pid):"
    for memory_name in VmRSS VmHWM VmSwap; do
        memory_value=$(kernel_bytes "$memory_pid" "$memory_name")
        [ -z "$memory_value" ] || printf '%10s  %s\n' "$(memory_human "$memory_value")" "$memory_name of the kernel"
    done
    printf '%s\n' "$info" | awk -F : '/^[a-z_]*(memory|_usage|_rss)[a-z_]*:[0-9]+$/ { print $1, $2 }' | while read -r key value; do
        value=$(number_of "$value")
        [ -z "$value" ] || printf '%10s  %s of INFO\n' "$(memory_human "$value")" "$key"
    done
    memory_allocator
    case $1 in
    '' | *[!0-9]*) return 0 ;;
    esac
    if [ "${memory_resident:-0}" -gt "$1" ]; then
        warn "instance $port has $(memory_human "$memory_resident") resident, above the $(memory_human "$1") that it may take"
    else
        say "resident are $((${memory_resident:-0} / (($1 + 99) / 100))) percent of what it may take"
    fi
}
