#!/bin/sh
# Take a backup to another host by rsync: a hook for `instance.sh PORT backup --hook`, and an example of one.
#
#   backup-rsync.sh BACKUP
#
# The destination is the one line of /etc/PRODUCT/backup-rsync, which is root's: HOST:FOLDER, HOST::MODULE/FOLDER,
# rsync://HOST/MODULE/FOLDER or a folder. Files that the backup before has, too, are sent once, and are hard links there.
# Keys of ssh and passwords of rsync stand where these programs look for them, never here.
set -eu
LC_ALL=C
export LC_ALL
utils=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
# shellcheck source=/dev/null
. "$utils/lib/product.sh"

die() {
    printf 'backup-rsync: error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  hint: %s\n' "$2" >&2
    exit 1
}

settings=${BACKUP_RSYNC_SETTINGS:-/etc/$product/backup-rsync}
backup=${1:-}
[ -s "$backup/backup.info" ] || die "there is no whole backup '$backup'" "backup-rsync.sh BACKUP"
command -v rsync >/dev/null 2>&1 || die "there is no rsync" "install the package rsync"
[ -f "$settings" ] || die "there is no $settings" "echo HOST:FOLDER >$settings"
[ "$(stat -c %u "$settings")" -eq "$(id -u)" ] || die "$settings is not of the user who runs this"
case $(stat -c %a "$settings") in
*[2367]? | *[2367]) die "$settings can be written by others" "chmod go-w $settings" ;;
esac
destination=$(sed -n '/^[^#]/{p;q;}' "$settings")
case $destination in
'' | -* | *[!A-Za-z0-9/._@:+-]*) die "the first line of $settings is no destination" "HOST:FOLDER" ;;
esac

# The newest one beside it that is older: its files are linked over there. Names sort as their times do.
before=
port=${backup##*/}
port=${port%%-*}
for other in "${backup%/*}/$port"-*; do
    [ "$other" != "$backup" ] || break
    [ ! -s "$other/backup.info" ] || before=${other##*/}
done
# backup.info last: a half copy has none, and restore refuses it.
rsync -a --exclude /backup.info ${before:+"--link-dest=../$before"} "$backup/" "${destination%/}/${backup##*/}/" ||
    die "rsync has failed with status $?" "rsync ends early on a full disk or a lost connection; run it again"
rsync -a "$backup/backup.info" "${destination%/}/${backup##*/}/" || die "rsync has failed with status $?"
