# shellcheck shell=sh disable=SC2034,SC2154
# Memory: what a configuration may take, and values that stay below a budget. To be sourced, after common.sh.
#
# The terms are data (operate/memory.tsv, of the product's entry), the arithmetic is in memory.awk.
# Print a size in bytes, given as BYTES or with K, M, G or T (powers of 1024).
memory_bytes() {
    printf '%s\n' "$1" | awk '
        !/^[0-9]+[kKmMgGtT]?$/ { exit 1 }
        {
            number = $0; sub(/[^0-9]$/, "", number); sub(/^0+/, "", number)
            if (length(number) > 16) exit 1
            at = index("kmgt", tolower(substr($0, length($0))))
            for (by = 1; at > 0 && $0 ~ /[^0-9]$/; at--) by *= 1024
            if (number * by > 1125899906842624 || number * by < 1) exit 1
            printf "%.0f\n", number * by
        }' || return 1
}

# For awk: human(BYTES) is a size for people; `-` stands for one without a bound.
awk_human='
    function human(b, n, u) {
        if (b == "-") return "no bound"
        split("B K M G T", u, " "); for (n = 1; b >= 1024 && n < 5; n++) b /= 1024
        return n == 1 ? sprintf("%.0f", b) : sprintf("%.1f%s", b, u[n])
    }
'

# Print a size for people.
memory_human() {
    printf '%s\n' "$1" | awk "$awk_human"'{ print human($1) }'
}

# Print what memory.awk has to know of a configuration, and the keys that are pinned.
memory_facts() {
    facts_of=$1
    shift
    awk -F '\t' '
        $1 == "set" { print $2 }
        $1 == "term" || $1 == "times" { print $3 }
        $1 == "times" && $5 != "-" { sub(/!?=.*/, "", $5); print $5 }' "$utils/operate/memory.tsv" | sort -u |
        while read -r key; do
            [ "$key" = - ] || printf 'value\t%s\t%s\n' "$key" "$(conf_get "$facts_of" "$key")"
        done
    for key; do
        printf 'pinned\t%s\n' "$key"
    done
}

# Print the lines of memory.awk: memory_lines MODE BUDGET CONF [PINNED…]. They may hold an error.
memory_lines() {
    lines_mode=$1
    lines_budget=$2
    shift 2
    memory_facts "$@" | awk -v mode="$lines_mode" -v budget="$lines_budget" "$awk_human$(cat "$utils/lib/memory.awk")" \
        "$utils/operate/memory.tsv" -
}

# Print a plan: memory_plan BYTES CONF [PINNED…]. Nothing is changed.
memory_plan() {
    plan_lines=$(memory_lines plan "$@")
    case $plan_lines in
    error"$tab"*)
        plan_lines=${plan_lines#*"$tab"}
        die "--memory: ${plan_lines%%"$tab"*}" "${plan_lines#*"$tab"}"
        ;;
    esac
    printf '%s\n' "$plan_lines" | awk -F '\t' '
        $1 == "total" { total = $2 } $1 == "budget" { budget = $2 } END { exit !(total > 0 && total + 0 <= budget + 0) }' ||
        die "--memory: the plan is above its budget" "this is a defect of $utils/lib/memory.awk"
    printf '%s\n' "$plan_lines"
}

# Print a plan as comments of a configuration.
memory_comments() {
    awk -F '\t' "$awk_human"'
        $1 == "budget" { budget = $2 }
        $1 == "term" { lines = lines sprintf("#  %8s  %s: %s\n", human($3), $2, $4) }
        $1 == "reserve" { lines = lines sprintf("#  %8s  reserve: %s\n", human($2), $3) }
        $1 == "total" { lines = lines sprintf("#  %8s  in all\n", human($2)) }
        END {
            printf "# memory plan: begin\n# planned for %.0f bytes (%s):\n%s# memory plan: end\n", budget, human(budget), lines
        }'
}

# Print a configuration with a plan: the settings, and the arithmetic as comments. memory_configured BYTES CONF [PINNED…]
memory_configured() {
    temporary
    configured_plan=$(memory_plan "$@") || exit 1
    (umask 077 && memory_stripped "$2" >"$scratch/planned")
    printf '%s\n' "$configured_plan" | while IFS=$tab read -r kind key value rest; do
        [ "$kind" = set ] || continue
        (umask 077 && printf '%s\n' "$value" | conf_with "$scratch/planned" "$key" >"$scratch/planned.new")
        mv "$scratch/planned.new" "$scratch/planned"
    done
    cat "$scratch/planned"
    printf '%s\n' "$configured_plan" | memory_comments
}

# Print a configuration without the comments of a plan.
memory_stripped() {
    awk '/^# memory plan: begin$/ { skip = 1 } !skip || !/^#/ { print } /^# memory plan: end$/ { skip = 0 }' "$1"
}

# Print the budget that a configuration was planned for; nothing if it was not.
memory_budget() {
    sed -n 's/^# planned for \([0-9]\{1,16\}\) bytes .*/\1/p' "$1" | tail -n 1
}
