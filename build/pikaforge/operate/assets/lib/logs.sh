# shellcheck shell=sh disable=SC2034,SC2154
# Log files that expire. To be sourced, after common.sh and info.sh.
#
# Servers with glog make new log files at each start and never remove them. Binlogs are in the same folder. So there is
# no rule for the folder as such: what does not begin with the prefix of the log files is left alone.
# Set logs_folder, logs_prefix, logs_files, logs_links and logs_keep for a loaded instance. Status 1: none are known.
logs_facts() {
    logs_row=$(row_of logs logs)
    [ -n "$logs_row" ] || return 1
    IFS=$tab read -r logs_key logs_prefix logs_files logs_links logs_keep <<END
$logs_row
END
    logs_folder=$(place_of "{$logs_key}" "$conf" -) || exit 1
}

# Remove old log files: logs_expire [DAYS] [DRY]. The current ones, which the links name, stay: the server has them open.
logs_expire() {
    if ! logs_facts; then
        say "nothing to do: $product has no log files that expire"
        return
    fi
    case $logs_folder in
    "$data"/?*) ;;
    *) die "the log folder $logs_folder is not below $data" "set $logs_key in $conf" ;;
    esac
    logs_days=${1:-$logs_keep}
    logs_data=$(cd -P -- "$data" && pwd -P)
    # The service user owns this folder. What is done is done in it, wherever its name leads meanwhile.
    cd -P -- "$logs_folder" || die "cannot go to $logs_folder"
    case $(pwd -P)/ in
    "$logs_data"/?*) ;;
    *) die "the log folder $logs_folder leads out of $data" ;;
    esac
    logs_current=
    for link in $logs_links; do
        [ ! -L "$link" ] || logs_current="$logs_current $(basename -- "$(readlink -- "$link")") "
    done
    logs_count=0
    for file in $logs_files; do
        if [ ! -f "./$file" ] || [ -L "./$file" ]; then
            continue
        fi
        case $logs_current in
        *" $file "*) continue ;;
        esac
        [ -n "$(find "./$file" -prune -type f -mtime +"$((logs_days - 1))" 2>/dev/null)" ] || continue
        logs_count=$((logs_count + 1))
        if [ "${2:-no}" = yes ]; then
            say "would remove $logs_folder/$(printable "$file")"
        else
            rm -f -- "./$file"
        fi
    done
    [ "${2:-no}" = yes ] || say "$logs_count log files older than $logs_days days removed from $logs_folder"
}

# Print rules for systemd-tmpfiles that expire log files of a loaded instance; nothing if there are none to expire.
#
# A line with an age cleans all of a folder, and lines with x take names out of that. These here take out every name that
# does not begin with the prefix: for `log.` [!l]*, l[!o]*, lo[!g]*, log[!.]*, and l, lo and log themselves.
logs_rules() {
    logs_facts || return 0
    case $logs_folder in
    "$data"/?*) ;;
    *)
        warn "the log folder $logs_folder is not below $data: its files do not expire"
        return 0
        ;;
    esac
    printf '# Log files of %s %s expire; nothing else in this folder does. Written by deploy.sh.\n' "$product" "$port"
    printf '%s %s - - - %sd\n' "$(logs_kind)" "$logs_folder" "$logs_keep"
    printf 'x %s/.*\n' "$logs_folder"
    rule_before=
    rule_rest=$logs_prefix
    while [ -n "$rule_rest" ]; do
        rule_letter=${rule_rest%"${rule_rest#?}"}
        printf 'x %s/%s[!%s]*\n' "$logs_folder" "$rule_before" "$rule_letter"
        [ -z "$rule_before" ] || printf 'x %s/%s\n' "$logs_folder" "$rule_before"
        rule_before=$rule_before$rule_letter
        rule_rest=${rule_rest#?}
    done
    for link in $logs_links; do
        printf 'x %s/%s\n' "$logs_folder" "$link"
    done
}

# Print the kind of a line that cleans a folder: e, or d with systemd before 230, which does the same where it is there.
logs_kind() {
    logs_version=$(systemd-tmpfiles --version 2>/dev/null | awk 'NR == 1 { sub(/[^0-9].*/, "", $2); print $2 }')
    logs_version=$(number_of "$logs_version")
    if [ "${logs_version:-230}" -ge 230 ]; then echo e; else echo d; fi
}
