# shellcheck shell=sh disable=SC2015,SC2034,SC2154,SC2317
# The verb's part: a snapshot of an instance, kept under a name with date and time. To be sourced.
# shellcheck source=/dev/null
. "$utils/lib/info.sh"
# shellcheck source=/dev/null
. "$utils/lib/snapshot.sh"
verb_about='take a snapshot and keep it'

verb_help() {
    cat <<END
usage: instance.sh PORT backup [--to DIR] [--keep N] [--copy] [--sums] [--no-count] [--wait SECONDS] [--hook PROGRAM]
       instance.sh PORT backup --list [--to DIR]

Let the server take a snapshot, wait until it is whole, and keep it as DIR/PORT-YYYYMMDD-HHMMSS (UTC); without --to, DIR
is the folder backup of the instance. On one file system the files are hard links, so the backup takes no time, and no
room until the data changes; --copy copies. --sums adds SHA-256 sums. --keep N removes older ones, but for N
($(row_of snapshot keep)). Keys are counted before and after, so that restore can compare; --no-count leaves that out.

--hook PROGRAM is run with the backup's folder when it is whole, to take it to another host; without it,
$etc/backup-hook is run if it is there. utils/backup-rsync.sh is one for rsync. The status is the hook's, too.
END
}

verb_main() {
    backup_to=
    backup_keep=$(row_of snapshot keep)
    backup_copy=no
    backup_sums=no
    backup_count=yes
    backup_list=no
    backup_dry=no
    backup_wait=$(snapshot_within)
    backup_hook=$etc/backup-hook
    [ -x "$backup_hook" ] || backup_hook=
    while [ $# -gt 0 ]; do
        case $1 in
        --copy) backup_copy=yes ;;
        --sums) backup_sums=yes ;;
        --no-count) backup_count=no ;;
        --list) backup_list=yes ;;
        --dry-run) backup_dry=yes ;;
        --to | --keep | --wait | --hook)
            backup_option "$1" "${2:-}"
            shift
            ;;
        *) misused "backup takes no '$1'" ;;
        esac
        shift
    done
    [ -f "$utils/operate/snapshot.tsv" ] || die "$product takes no snapshots that are known here"
    backup_to=${backup_to:-$data/backup}
    if [ "$backup_list" = yes ]; then
        backup_listed
        return
    fi
    need_root "$port" backup
    healthy "$port" || die "instance $port does not answer, so it takes no snapshot" "instance.sh $port status"
    if [ "$backup_dry" = yes ]; then
        say "would take a snapshot of instance $port, keep it in $backup_to, and keep $backup_keep there"
        return
    fi
    locked "$port"
    backup_folder
    backup_make
    backup_expire
    if [ -n "$backup_hook" ]; then
        "$backup_hook" "$backup_to/$backup_name" ||
            die "the backup is in $backup_to/$backup_name, and $backup_hook has failed with status $?" "run it again by hand"
        say "$backup_hook has taken it"
    fi
}

# Check the value of an option.
backup_option() {
    case $1 in
    --keep | --wait)
        counted "$1" "$2" 6
        [ "$1" = --keep ] && backup_keep=$2 || backup_wait=$2
        ;;
    *)
        is_plain_path "${2%/}" || misused "$1 takes a plain absolute path, not '$2'"
        if [ "$1" = --to ]; then
            backup_to=${2%/}
        else
            if [ ! -f "$2" ] || [ ! -x "$2" ]; then
                die "there is no program $2"
            fi
            backup_hook=$2
        fi
        ;;
    esac
}

# Make the folder, and refuse one that others than root can change. Later steps stand in it.
backup_folder() {
    if [ ! -d "$backup_to" ]; then
        # Only the folder itself is closed: those above may be for others, too.
        mkdir -p -- "${backup_to%/*}/" && (umask 077 && mkdir -- "$backup_to") || die "cannot make $backup_to"
    fi
    [ ! -L "$backup_to" ] || die "$backup_to is a symbolic link" "give the folder itself"
    [ "$(stat -c %u -- "$backup_to")" -eq 0 ] || die "$backup_to is not root's" "chown root: $backup_to"
    case $(stat -c %a -- "$backup_to") in
    *[2367]? | *[2367]) die "$backup_to can be written by others than root" "chmod go-w $backup_to" ;;
    esac
    cd -P -- "$backup_to" || die "cannot go to $backup_to"
    # What a killed run has left. The lock says that none is under way.
    rm -rf ."$port"-*.part ".$port.mark"
}

backup_make() {
    backup_name=$port-$(date -u +%Y%m%d-%H%M%S)
    while [ -e "$backup_name" ]; do
        sleep 1
        backup_name=$port-$(date -u +%Y%m%d-%H%M%S)
    done
    backup_part=.$backup_name.part
    undo() { # STATUS
        rm -rf "./$backup_part" ".$port.mark"
        [ "$1" -eq 0 ] || [ -n "$said" ] || printf '%s: error: no backup was made (see above)\n' "$tool" >&2
    }
    backup_before=
    backup_after=
    [ "$backup_count" = no ] || backup_before=$(count_keys "$port" "$backup_wait") ||
        warn "the keys cannot be counted, so restore cannot compare them"
    snapshot_take "$port" "$backup_wait" ".$port.mark"
    [ -z "$backup_before" ] || backup_after=$(count_keys "$port" "$backup_wait") || backup_before=
    (umask 077 && mkdir "$backup_part")
    mkdir "$backup_part/snapshot"
    copy_how=$(snapshot_copy "$snapshot_place" "$(pwd -P)/$backup_part/snapshot" "$backup_copy")
    plain_only "$backup_part/snapshot"
    files_of "$backup_part/snapshot" >"$backup_part/backup.files"
    backup_same
    if [ "$backup_sums" = yes ]; then
        (cd "$backup_part/snapshot" && find . -type f -exec sha256sum '{}' + >../backup.sums)
    fi
    {
        printf 'product=%s\nversion=%s\nmodel=%s\nport=%s\n' "$product" "$(fact_of "$tree" version)" "$(fact_of "$tree" model)" "$port"
        printf 'time=%s\nplace=%s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$snapshot_place"
        printf 'keys_before=%s\nexpires_before=%s\n' "${backup_before% *}" "${backup_before#* }"
        printf 'keys_after=%s\nexpires_after=%s\n' "${backup_after% *}" "${backup_after#* }"
    } >"$backup_part/backup.info"
    mv "$backup_part" "$backup_name"
    rm -f ".$port.mark"
    undo() { :; }
    say "$backup_to/$backup_name: $(awk '{ sum += $1 } END { printf "%d files, %.0f bytes", NR, sum }' "$backup_name/backup.files"), $copy_how${backup_before:+, ${backup_after% *} keys}"
}

# Refuse a snapshot that the server has removed or replaced meanwhile.
backup_same() {
    if [ -d "$snapshot_place" ]; then
        files_of "$snapshot_place" 2>/dev/null | cmp -s - "$backup_part/backup.files" && return 0
    else
        [ "$(stat -c %s -- "$snapshot_place" 2>/dev/null)" = "$(awk '{ print $1 }' "$backup_part/backup.files")" ] && return 0
    fi
    die "$snapshot_place has changed while it was copied" "run it again"
}

# Print the names of whole backups of this instance, the oldest first.
backup_names() {
    for backup_one in "$port"-[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]-[0-9][0-9][0-9][0-9][0-9][0-9]; do
        [ ! -s "$backup_one/backup.info" ] || printf '%s\n' "$backup_one"
    done
}

# Remove all but the last backups.
backup_expire() {
    backup_names | awk -v keep="$backup_keep" '{ name[NR] = $0 } END { for (i = 1; i <= NR - keep; i++) print name[i] }' |
        while read -r backup_old; do
            # Under another name first: what is left of it is never taken for a whole one, and the next run removes it.
            mv "./$backup_old" "./.$backup_old.part"
            rm -rf "./.$backup_old.part"
            say "$backup_to/$backup_old is removed"
        done
}

backup_listed() {
    cd -P -- "$backup_to" 2>/dev/null || { say "no backups in $backup_to" && return 0; }
    backup_names | while read -r backup_one; do
        printf '%s/%s %s keys=%s\n' "$backup_to" "$backup_one" "$(backup_fact "$backup_one" version)" \
            "$(backup_fact "$backup_one" keys_after)"
    done
}
