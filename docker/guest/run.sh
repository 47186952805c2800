#!/bin/sh
# Run one stage's script, then write each named folder of $FORGE_ROOT/out as a normalised tar archive beside it:
# same files, same bytes, whatever the order of the folder, the owner, the umask or the clock.
#
#   run.sh STAGE [FOLDER...]
#
# SOURCE_DATE_EPOCH, when set, is every member's time. Members keep only their executable bit.
set -eu
umask 022
LC_ALL=C
TZ=UTC
export LC_ALL TZ

stage=$1
shift
sh "$FORGE_ROOT/guest/$stage.sh"

for name; do
    mkdir -p "$FORGE_ROOT/out/$name"
    # A stage that finds its epoch out itself leaves it in out/epoch.
    epoch=${SOURCE_DATE_EPOCH:-0}
    if [ -f "$FORGE_ROOT/out/epoch" ]; then
        read -r epoch <"$FORGE_ROOT/out/epoch"
    fi
    # Not --sort=name: EL 7 has tar 1.26, which does not know it (1.28 does). Not as a pipe: that hides a find that fails.
    (cd "$FORGE_ROOT/out/$name" && find . -print0) >"$FORGE_ROOT/out/$name.members"
    sort -z -o "$FORGE_ROOT/out/$name.members" "$FORGE_ROOT/out/$name.members"
    tar --create --file "$FORGE_ROOT/out/$name.tar" --directory "$FORGE_ROOT/out/$name" \
        --format=gnu --owner=0 --group=0 --numeric-owner --mtime="@$epoch" --mode=u+rw,go-w,a+rX \
        --no-recursion --null --files-from="$FORGE_ROOT/out/$name.members"
done
