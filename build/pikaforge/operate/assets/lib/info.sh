# shellcheck shell=sh disable=SC2034,SC2154
# What is known of an instance: tables of the product, INFO of the server, the kernel. To be sourced, after common.sh.
# Print the lines of a kind in a table, without the kind: rows_of TABLE KIND. Nothing where there is no such table.
rows_of() {
    [ ! -f "$utils/operate/$1.tsv" ] || KIND=$2 awk -F '\t' '$1 == ENVIRON["KIND"] { sub(/^[^\t]*\t/, ""); print }' "$utils/operate/$1.tsv"
}

# Print the first line of a kind: row_of TABLE KIND.
row_of() {
    rows_of "$1" "$2" | head -n 1
}

# Read INFO of an instance into $info: info_read PORT. The status is that of `ask`.
info_read() {
    info=
    info_raw=$(ask "$1" INFO) || return $?
    # No server says more than this; one that does must not fill the memory.
    info=$(printf '%s\n' "$info_raw" | tr -d '\r' | head -c 1048576)
}

# Print the value of an entry of $info; nothing if it is not there.
info_get() {
    printf '%s\n' "$info" | KEY=$1 awk '
        { at = index($0, ":") }
        at && !done && substr($0, 1, at - 1) == ENVIRON["KEY"] { print substr($0, at + 1, 1024); done = 1 }'
}

# Print an entry of $info by the name that status.tsv gives it.
info_named() {
    named_key=$(rows_of status info | NAME=$1 awk -F '\t' '$1 == ENVIRON["NAME"] { print $2 }')
    [ -z "$named_key" ] || info_get "$named_key"
}

# Return whether an entry of $info begins so: info_begins KEY VALUE.
info_begins() {
    case $(info_get "$1") in
    "$2"*) return 0 ;;
    esac
    return 1
}

# Print the replicas of $info, ADDRESS and LAG in each line. LAG is the largest number in `lag=5` or `lag=(db0:5)`.
info_replicas() {
    printf '%s\n' "$info" | awk '
        /^slave[0-9]+:/ {
            ip = port = lag = "-"
            text = $0; sub(/^[^:]*:/, "", text)
            if (match(text, /ip=[^,]*/)) ip = substr(text, RSTART + 3, RLENGTH - 3)
            if (match(text, /port=[0-9]+/)) port = substr(text, RSTART + 5, RLENGTH - 5)
            if (match(text, /lag=.*/)) {
                text = substr(text, RSTART + 4)
                sub(/,[a-z_]+=.*/, "", text)
                gsub(/[A-Za-z_][A-Za-z_0-9]*:/, " ", text)
                gsub(/[^0-9]+/, " ", text)
                n = split(text, number, " ")
                for (i = 1; i <= n; i++)
                    if (length(number[i]) < 16 && (lag == "-" || number[i] + 0 > lag + 0)) lag = number[i]
            }
            gsub(/[^A-Za-z0-9.:-]/, "?", ip)
            print ip ":" port, lag
            if (++seen == 1000) exit
        }'
}

# Print a text if it is a whole number that the shell can compute with; nothing else.
number_of() {
    case $1 in
    '' | *[!0-9]* | ????????????????*) return 0 ;;
    esac
    printf '%s\n' "$1" | sed 's/^0*\(.\)/\1/'
}

# Print what the kernel says of a process in kB, in bytes: kernel_bytes PID VmRSS.
kernel_bytes() {
    [ -z "$1" ] || NAME=$2: awk '$1 == ENVIRON["NAME"] { printf "%.0f\n", $2 * 1024 }' "$proc/$1/status" 2>/dev/null || :
}

# Print size, used and available bytes of the file system of a folder, and how much percent is used.
disk_of() {
    df -P -k -- "$1" 2>/dev/null | awk 'NR == 2 {
        if ($3 + $4 > 0) printf "%.0f %.0f %.0f %d\n", $2 * 1024, $3 * 1024, $4 * 1024, int($3 * 100 / ($3 + $4) + 0.999) }'
}

# Print a path with settings of a configuration in place of braces: place_of TEMPLATE CONF DATE.
place_of() {
    place_rest=$1
    place=
    while :; do
        case $place_rest in
        *'{'*'}'*) ;;
        *) break ;;
        esac
        place=$place${place_rest%%'{'*}
        place_rest=${place_rest#*'{'}
        case ${place_rest%%'}'*} in
        date) place=$place$3 ;;
        *) place=$place$(conf_get "$2" "${place_rest%%'}'*}") ;;
        esac
        place_rest=${place_rest#*'}'}
    done
    place=$(printf '%s\n' "$place$place_rest" | tr -s /)
    place=${place%/}
    is_plain_path "$place" || die "'$place' in $2 is no plain absolute path" "letters, digits, / . _ @ + -"
    printf '%s\n' "$place"
}

# Print path and time (seconds since 1970) of the last good snapshot of an instance; nothing if there is none.
last_snapshot() {
    {
        last_template=$(row_of snapshot path)
        if [ -n "$last_template" ]; then
            last_complete=$(row_of snapshot complete)
            last_place=$(place_of "$last_template" "$conf" @@@@@@@@)
            case $last_place in
            *@@@@@@@@*) set -- "${last_place%%@@@@@@@@*}"[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]"${last_place#*@@@@@@@@}" ;;
            *) set -- "$last_place" ;;
            esac
            for last_one; do
                last_file=$last_one
                [ "$last_complete" = - ] || last_file=$last_one/$last_complete
                [ ! -s "$last_file" ] || printf '%s %s\n' "$(stat -c %Y -- "$last_file" 2>/dev/null)" "$last_one"
            done
        fi
        for last_file in "$data/backup/$port"-*/backup.info; do
            [ ! -s "$last_file" ] || printf '%s %s\n' "$(stat -c %Y -- "$last_file" 2>/dev/null)" "${last_file%/*}"
        done
    } | sort -n | tail -n 1
}

# Find out all there is to know of an instance that was loaded. Sets the variables now_*; empty is unknown.
now_read() {
    # Plain assignments: what they print is checked by number_of, or escaped where it is shown.
    now_pid=$(number_of "$(service_pid "$port")")
    now_answers=no
    now_why=
    ! info_read "$port" 2>/dev/null || now_answers=yes
    now_server=$(info_named version)
    now_uptime=$(number_of "$(info_named uptime)")
    now_reported=$(number_of "$(info_named memory)")
    now_clients=$(number_of "$(info_named clients)")
    now_role=$(info_named role)
    now_link=$(info_named link)
    now_master=$(info_named master_host):$(info_named master_port)
    if [ "$now_role" = master ] || [ "$now_master" = : ]; then
        now_master=
        now_link=
    fi
    now_replicas=$(info_replicas)
    now_lag=$(printf '%s\n' "$now_replicas" | awk '$2 ~ /^[0-9]+$/ && (lag == "" || $2 + 0 > lag + 0) { lag = $2 } END { print lag }')
    [ -z "$now_master" ] || now_lag=$(number_of "$(info_named replica_lag)")
    now_faults=$(rows_of status fault | while IFS=$tab read -r key good; do
        found=$(info_get "$key")
        [ -z "$found" ] || [ "$found" = "$good" ] || printf '%s is %s\n' "$key" "$found"
    done)
    now_resident=$(kernel_bytes "$now_pid" VmRSS)
    now_planned=$(number_of "$(memory_budget "$conf")")
    now_most=
    [ -z "$key_clients" ] || now_most=$(number_of "$(conf_get "$conf" "$key_clients")")
    [ -z "$key_clients" ] || now_most=${now_most:-$default_clients}
    now_files=
    now_files_most=
    if [ -n "$now_pid" ] && [ -r "$proc/$now_pid/fd" ]; then
        now_files=$(find "$proc/$now_pid/fd" 2>/dev/null | wc -l | tr -d ' ')
        now_files_most=$(number_of "$(awk '/^Max open files/ { print $4 }' "$proc/$now_pid/limits" 2>/dev/null)")
    fi
    now_disk=$(disk_of "$data")
    now_data=$(du -s -k -- "$data" 2>/dev/null | awk '{ printf "%.0f\n", $1 * 1024 }')
    now_snapshot=$(last_snapshot)
    now_gate=fail
    ! sh "$tree/utils/cpu-gate.sh" --quiet >/dev/null 2>&1 || now_gate=pass
}
