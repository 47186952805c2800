# shellcheck shell=sh disable=SC2034,SC2154,SC2317
# The verb's part: a backup becomes the data of an instance. To be sourced.
# shellcheck source=/dev/null
. "$utils/lib/info.sh"
# shellcheck source=/dev/null
. "$utils/lib/snapshot.sh"
verb_about='put a backup in the place of its data'

verb_help() {
    cat <<END
usage: instance.sh PORT restore BACKUP [--no-count] [--wait SECONDS] [--dry-run]

Put a backup in the place of an instance's data, start the instance, and compare its keys with those that were counted
when the backup was made. BACKUP is a folder that \`backup\` has made, of this instance or of another one.
The instance must be stopped, or have no keys. What it had is moved to a folder aside, and comes back if anything fails.
If this command is killed, run it again: it goes on, or begins anew with what the instance had.
END
}

verb_main() {
    restore_from=
    restore_count=yes
    restore_dry=no
    restore_wait=$(snapshot_within)
    while [ $# -gt 0 ]; do
        case $1 in
        --no-count) restore_count=no ;;
        --dry-run) restore_dry=yes ;;
        --wait)
            counted "$1" "${2:-}" 6
            restore_wait=$2
            shift
            ;;
        -*) misused "restore takes no '$1'" ;;
        *)
            [ -z "$restore_from" ] || misused "restore takes one BACKUP"
            restore_from=${1%/}
            ;;
        esac
        shift
    done
    [ -n "$restore_from" ] || misused "restore takes a BACKUP"
    need_root "$port" restore
    [ -f "$utils/operate/snapshot.tsv" ] || die "$product takes no snapshots that are known here"
    case $restore_from in
    /*) ;;
    *) restore_from=$data/backup/$restore_from ;;
    esac
    is_plain_path "$restore_from" || die "BACKUP must be a plain path, not '$restore_from'"
    restore_record=$etc/$port.restore
    restore_new=$data/.restore.new
    restore_late=no
    restore_resumes=no
    locked "$port"
    if [ "$restore_dry" = no ] && restore_take_up; then
        say "the restore was interrupted when its data was in place, and is finished"
        restore_late=yes
        undo() { [ "$1" -eq 0 ] || hint "run it again; what the instance had before is in $restore_aside"; }
        backup_whole "$restore_from"
        restore_finish
        return
    fi
    restore_checks
    if [ "$restore_dry" = yes ]; then
        say "would put $restore_from in the place of $restore_into"
        return
    fi
    restore_do
}

# Refuse what cannot be restored, before anything is changed.
restore_checks() {
    backup_whole "$restore_from"
    restore_into=$(restore_place "$(row_of snapshot into)")
    restore_others=$(rows_of snapshot aside | while read -r template; do restore_place "$template"; done)
    restore_part=$(row_of snapshot data)
    restore_source=$restore_from/snapshot
    if [ "$restore_part" != - ]; then
        restore_source=$restore_source/$restore_part
    elif [ "$(row_of snapshot complete)" = - ]; then
        restore_source=$restore_source/$(cd "$restore_source" && find . -type f | head -n 1)
    fi
    [ -e "$restore_source" ] || die "$restore_from has no $restore_part"
    rows_of snapshot blocked | while IFS=$tab read -r key value; do
        [ "$(conf_get "$conf" "$key")" != "$value" ] ||
            die "$key is $value in $conf: the server would not read what is restored" "set it to another value first"
    done
    for key in slaveof replicaof; do
        [ -z "$(conf_get "$conf" "$key")" ] ||
            die "the instance is a replica ($key in $conf): its master would replace what is restored" "take that line out"
    done
    restore_ran=no
    if [ -n "$(service_pid "$port")" ]; then
        restore_ran=yes
        restore_keys=$(count_keys "$port" "$restore_wait") || die "the keys of the running instance cannot be counted" \
            "instance.sh $port stop"
        [ "${restore_keys% *}" = 0 ] || die "instance $port runs, and has ${restore_keys% *} keys" "instance.sh $port stop"
    fi
    [ "$restore_resumes" = no ] || restore_ran=yes
    restore_need=$(du -s -k -- "$restore_source" | awk '{ print $1 }')
    restore_free=$(free_kib "$data")
    [ "$restore_need" -lt "$restore_free" ] ||
        die "$data has room for $((restore_free / 1024))M, and the backup has $((restore_need / 1024))M"
}

# Print a place of an instance's data, which must be in its folder.
restore_place() {
    restore_there=$(place_of "$1" "$conf" -)
    restore_real=$(cd -P -- "${restore_there%/*}" 2>/dev/null && pwd -P) || die "there is no folder ${restore_there%/*}"
    case $restore_real/ in
    "$(cd -P -- "$data" && pwd -P)"/*) printf '%s/%s\n' "$restore_real" "${restore_there##*/}" ;;
    *) die "$restore_there is not in $data" "give folders of the instance in $conf" ;;
    esac
}

# What a restore changes is noted in a folder of root's, PORT.restore, with one fact in each file: from, aside, ran and
# places; then, when the instance is stopped, had: the numbers of the places where something is; then placed, when the new
# data is there. A run that was killed has left the folder: the next one finishes what is in place, or goes back first.
# Between `had` and `placed` run.sh refuses to start the server.
restore_note() {
    mkdir "$restore_record.new" || die "what is restored cannot be noted in $etc"
    printf '%s\n' "$restore_from" >"$restore_record.new/from"
    printf '%s\n' "$restore_aside" >"$restore_record.new/aside"
    printf '%s\n' "$restore_ran" >"$restore_record.new/ran"
    printf '%s\n' "$restore_into" "$restore_others" | sed '/^$/d' >"$restore_record.new/places"
    mv "$restore_record.new" "$restore_record"
}

restore_note_had() {
    restore_number=0
    while read -r place; do
        restore_number=$((restore_number + 1))
        if [ -e "$place" ] || [ -L "$place" ]; then
            printf '%s\n' "$restore_number"
        fi
    done <"$restore_record/places" >"$restore_record/had.new"
    mv "$restore_record/had.new" "$restore_record/had"
}

# Forget it at once: what is half removed would be taken for one.
restore_forget() {
    mv "$restore_record" "$restore_record.new" && rm -rf "$restore_record.new"
}

# Take up what a killed run has left. Status 1: there is nothing to be finished.
restore_take_up() {
    rm -rf "$restore_record.new"
    [ -d "$restore_record" ] || return 1
    restore_was=$(cat "$restore_record/from")
    restore_aside=$(cat "$restore_record/aside")
    if [ -f "$restore_record/placed" ]; then
        [ "$restore_was" != "$restore_from" ] || return 0
        # It may have been written to since: it is what the instance has now.
        restore_keep
        restore_forget
        say "a restore of $restore_was was interrupted when its data was in place; what was there before is in $restore_aside"
        return 1
    fi
    [ ! -f "$restore_record/had" ] || say "a restore of $restore_was was interrupted; what was there before is put back first"
    restore_resumes=$(cat "$restore_record/ran")
    restore_back || die "what the instance had before cannot be put back; it is in $restore_aside"
    return 1
}

restore_do() {
    restore_aside=$data/aside-$(date -u +%Y%m%d-%H%M%S)
    [ ! -e "$restore_aside" ] || die "$restore_aside is there" "run it again"
    undo() { # STATUS
        if ! restore_back; then
            warn "what the instance had before cannot be put back; it is in $restore_aside: run this again"
        elif [ "$restore_ran" = no ] || service_start "$port"; then
            warn "the instance has its data of before"
        fi
        [ "$1" -eq 0 ] || [ -n "$said" ] || printf '%s: error: not restored (see above)\n' "$tool" >&2
    }
    restore_note
    rm -rf "$restore_new"
    (umask 077 && mkdir "$restore_aside" "$restore_new")
    # Copied, never linked: the server writes to some of these files.
    cp -R -p -- "$restore_source" "$restore_new/new" || die "cannot copy $restore_source"
    rows_of snapshot leave | while read -r path; do
        [ "$restore_part" = - ] || path=${path#"$restore_part"/}
        rm -f -- "$restore_new/new/$path"
    done
    chown -R "$user:" "$restore_new/new"
    [ "$restore_ran" = no ] || service_stop "$port"
    restore_note_had
    restore_number=0
    while read -r place; do
        restore_number=$((restore_number + 1))
        [ ! -L "$place" ] || die "$place is a symbolic link"
        [ ! -e "$place" ] || mv -- "$place" "$restore_aside/$restore_number"
    done <"$restore_record/places"
    mv -- "$restore_new/new" "$restore_into"
    : >"$restore_record/placed"
    restore_finish
}

# Keep what is aside with a list of where it was; remove the folder if it is empty.
restore_keep() {
    if [ -n "$(ls "$restore_aside" 2>/dev/null)" ]; then
        cp "$restore_record/places" "$restore_aside/places"
    else
        rm -rf "$restore_aside"
    fi
}

# Start the instance with the data that is in place.
restore_finish() {
    service_start "$port"
    wait_healthy "$port" "$start_seconds" || die "the instance does not serve with the restored data"
    restore_compare
    rm -rf "$restore_new"
    restore_keep
    undo() { :; }
    restore_forget
    say "instance $port serves the data of $restore_from"
    [ ! -d "$restore_aside" ] || say "what it had before is in $restore_aside: remove that when all is well"
}

# Compare the keys with those of the backup. Some may have expired since; writers may have been at work around it.
restore_compare() {
    [ "$restore_count" = yes ] || return 0
    compare_before=$(number_of "$(backup_fact "$restore_from" keys_before)")
    compare_after=$(number_of "$(backup_fact "$restore_from" keys_after)")
    compare_expires=$(number_of "$(backup_fact "$restore_from" expires_after)")
    if [ -z "$compare_before" ] || [ -z "$compare_after" ]; then
        warn "the backup has no counts of keys, so they are not compared"
        return
    fi
    compare_now=$(count_keys "$port" "$restore_wait") || die "the keys of the restored instance cannot be counted"
    compare_now=${compare_now% *}
    compare_low=$compare_before
    compare_high=$compare_after
    [ "$compare_low" -le "$compare_high" ] || { compare_low=$compare_after && compare_high=$compare_before; }
    compare_low=$((compare_low - ${compare_expires:-0}))
    # It may have served for a while since it was interrupted.
    [ "$restore_late" = no ] || [ "$compare_now" -le "$compare_high" ] || compare_high=$compare_now
    if [ "$compare_now" -lt "$compare_low" ] || [ "$compare_now" -gt "$compare_high" ]; then
        die "the restored instance has $compare_now keys, and the backup had $compare_low to $compare_high" \
            "--no-count accepts that"
    fi
    say "$compare_now keys, as the backup says ($compare_low to $compare_high)"
}

# Put back what the instance had before; it is not started. A place where nothing was, or whose content is aside, holds
# what the restore has put there. Status 1: not all could be put back; what is noted stays.
restore_back() {
    if [ -f "$restore_record/had" ]; then
        service_stop "$port" || return 1
        restore_number=0
        while read -r place; do
            restore_number=$((restore_number + 1))
            if [ -e "$restore_aside/$restore_number" ]; then
                restore_same "$place" && rm -rf -- "$place" && mv -- "$restore_aside/$restore_number" "$place" || return 1
            elif ! grep -qx "$restore_number" "$restore_record/had"; then
                restore_same "$place" && rm -rf -- "$place" || return 1
            fi
        done <"$restore_record/places"
    fi
    rm -rf "$restore_new" "$restore_aside" "$restore_record.new"
    [ ! -d "$restore_record" ] || restore_forget
}

# Whether the folder of a place is still the one that was noted: the service user could put a link there.
restore_same() { # PLACE
    [ "$(cd -P -- "${1%/*}" 2>/dev/null && pwd -P)" = "${1%/*}" ]
}
