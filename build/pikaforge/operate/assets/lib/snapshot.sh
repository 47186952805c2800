# shellcheck shell=sh disable=SC2034,SC2154
# Snapshots: taken by the server, kept as backups. To be sourced, after common.sh, resp.sh and info.sh.
# Print how many seconds a snapshot or a count may take.
snapshot_within() {
    row_of snapshot within
}

# Wait until INFO no longer says so: wait_while PORT KIND SECONDS. KIND is a line of snapshot.tsv. Status 1: it still does.
wait_while() {
    wait_row=$(row_of snapshot "$2")
    [ -n "$wait_row" ] || return 0
    wait_until=$(($(date +%s) + $3))
    while :; do
        info_read "$1" || die "instance $1 does not answer any more" "instance.sh $1 logs"
        info_begins "${wait_row%%"$tab"*}" "${wait_row#*"$tab"}" || return 0
        [ "$(date +%s)" -lt "$wait_until" ] || return 1
        sleep 1
    done
}

# Print the sums of the counts of keys, and of those that expire: count_keys PORT SECONDS. Status 1: they are not known.
count_keys() {
    count_scan=$(row_of snapshot scan)
    if [ "$count_scan" != - ]; then
        # shellcheck disable=SC2086 # the words of a command, from the product's entry
        ask "$1" $count_scan >/dev/null || return 1
        wait_while "$1" counting "$2" || return 1
    fi
    # shellcheck disable=SC2046 # the words of a command, from the product's entry
    count_text=$(ask "$1" $(row_of snapshot read)) || return 1
    printf '%s\n' "$count_text" | tr -d '\r' | KEYS=$(row_of snapshot keys) EXPIRES=$(row_of snapshot expires) awk '
        !/^#/ {
            n = split($0, part, /[ ,:]+/)
            for (i = 1; i <= n; i++) {
                at = index(part[i], "=")
                number = substr(part[i], at + 1)
                if (!at || number !~ /^[0-9]+$/ || length(number) > 15) continue
                if (substr(part[i], 1, at - 1) ~ ENVIRON["KEYS"]) keys += number
                if (substr(part[i], 1, at - 1) ~ ENVIRON["EXPIRES"]) expires += number
            }
        }
        END { printf "%.0f %.0f\n", keys, expires }'
}

# Let the server take a snapshot, and set snapshot_place to where it is: snapshot_take PORT SECONDS MARK. MARK is a file
# that is written before, so that an older snapshot under the same name is not taken for this one.
snapshot_take() {
    wait_while "$1" busy "$2" || die "another snapshot has not ended within $2 s" "instance.sh $1 logs"
    : >"$3"
    take_days=$(date +%Y%m%d)
    # shellcheck disable=SC2046 # the words of a command, from the product's entry
    take_reply=$(ask "$1" $(row_of snapshot take)) || die "the server takes no snapshot" "instance.sh $1 logs"
    wait_while "$1" busy "$2" || die "the snapshot has not ended within $2 s" "instance.sh $1 status; --wait SECONDS"
    take_row=$(row_of snapshot result)
    if [ -n "$take_row" ] && ! info_begins "${take_row%%"$tab"*}" "${take_row#*"$tab"}"; then
        die "the server says that the snapshot has failed: $(info_get "${take_row%%"$tab"*}")" \
            "instance.sh $1 logs; is the disk full?"
    fi
    # It has the day on which it was begun, or that on which the server got to it.
    take_complete=$(row_of snapshot complete)
    for take_day in "$take_days" "$(date +%Y%m%d)"; do
        snapshot_place=$(place_of "$(row_of snapshot path)" "$conf" "$take_day")
        take_file=$snapshot_place
        [ "$take_complete" = - ] || take_file=$snapshot_place/$take_complete
        if [ -f "$take_file" ] && [ ! -L "$take_file" ] && [ -s "$take_file" ] &&
            [ -z "$(find "$3" -newer "$take_file")" ]; then
            return 0
        fi
    done
    die "the server has said '$(printf '%s\n' "$take_reply" | head -n 1)', and there is no whole snapshot in $snapshot_place" \
        "instance.sh $1 logs; is the disk full?"
}

# Print size and path of the files of a folder, sorted.
files_of() {
    (cd -P -- "$1" && find . -type f -exec stat -c '%s %n' '{}' + | sort -k 2)
}

# Refuse what is neither file nor folder, and names that do not fit into a list: plain_only FOLDER.
plain_only() {
    plain_odd=$(find "$1" ! -type f ! -type d -print | head -n 1)
    [ -n "$plain_odd" ] || plain_odd=$(cd "$1" && find . -name '*[!A-Za-z0-9._@+=,-]*' -print | head -n 1)
    [ -z "$plain_odd" ] || die "this is not part of a snapshot: $(printable "$plain_odd")"
}

# Go to the folder of a snapshot and print what is to be copied there: `.`, or a file. The service user owns the folders
# above and could put links there: what is not in the instance's folder must have no link in its path.
snapshot_enter() { # PLACE
    enter_data=$(cd -P -- "$data" && pwd -P)
    enter_what=.
    enter_where=$1
    if [ ! -d "$1" ]; then
        enter_what=./${1##*/}
        enter_where=${1%/*}
    fi
    cd -P -- "$enter_where" || die "cannot go to $enter_where"
    case $(pwd -P)/ in
    "$enter_data"/*) ;;
    "$enter_where/") ;;
    *) die "$enter_where leads out of $data, to $(pwd -P)" "give real folders in $conf" ;;
    esac
    [ ! -L "$enter_what" ] || die "$1 is a symbolic link"
}

# Copy a snapshot into a folder, by hard links where that is possible: snapshot_copy PLACE FOLDER COPY. What is linked is
# never changed by the server: it replaces its snapshots. FOLDER is absolute. Prints how.
snapshot_copy() (
    snapshot_enter "$1"
    copy_need=$(du -s -k -- "$enter_what" | awk '{ print $1 }')
    copy_free=$(free_kib "$2")
    if [ "$3" = no ] && [ "$(stat -c %d -- .)" = "$(stat -c %d -- "$2")" ]; then
        if cp -R -p -l -- "$enter_what" "$2/" 2>/dev/null; then
            printf 'linked\n'
            exit 0
        fi
        rm -rf "${2:?}"
        mkdir "$2"
    fi
    [ "$copy_need" -lt "$copy_free" ] ||
        die "$2 has room for $((copy_free / 1024))M, and the snapshot has $((copy_need / 1024))M" \
            "remove something there, or use --to DIR"
    cp -R -p -- "$enter_what" "$2/" || die "cannot copy $1 to $2"
    printf 'copied\n'
)

# Print the value of a backup's facts: backup_fact FOLDER NAME.
backup_fact() {
    sed -n "s/^$2=\([A-Za-z0-9._@+:\/-]*\)\$/\1/p" "$1/backup.info" 2>/dev/null | head -n 1
}

# Refuse a backup that is not whole: backup_whole FOLDER.
backup_whole() {
    [ -d "$1" ] || die "there is no backup $1" "instance.sh $port backup --list"
    if [ ! -s "$1/backup.info" ] || [ ! -f "$1/backup.files" ] || [ ! -d "$1/snapshot" ]; then
        die "$1 is no whole backup: backup.info, backup.files or snapshot/ is missing" "take another one"
    fi
    [ "$(backup_fact "$1" product)" = "$product" ] || die "$1 is no backup of $product"
    plain_only "$1/snapshot"
    files_of "$1/snapshot" | cmp -s - "$1/backup.files" ||
        die "$1 is damaged: its files are not those of backup.files" "take another one"
    [ ! -f "$1/backup.sums" ] || (cd "$1/snapshot" && sha256sum -c --status ../backup.sums) ||
        die "$1 is damaged: its files have other sums than backup.sums" "take another one"
}
