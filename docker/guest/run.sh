#!/bin/sh
# Run the script of a stage, then pack folders of its output as tar archives. The same files give the same bytes,
# whatever the order of the folder, the owner, the umask or the clock.
#
#   run.sh STAGE [FOLDER...]
#
# inputs       guest/STAGE.sh
# environment  PIKAFORGE_ROOT; SOURCE_DATE_EPOCH, the time of every member, if the stage does not leave it in out/epoch
# outputs      packed/FOLDER.tar for each folder; members keep only the executable bit of their modes
# Exit status: 0 done; else that of the stage, or of tar.
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
out=$PIKAFORGE_ROOT/out

stage=$1
shift
# One stream, so that the lines of the log are in order: engines read the two streams separately.
sh "$PIKAFORGE_ROOT/guest/$stage.sh" 2>&1

packed=$PIKAFORGE_ROOT/packed
mkdir -p "$packed"
for name; do
    mkdir -p "$out/$name"
    # A stage that finds the time itself leaves it in out/epoch.
    epoch=${SOURCE_DATE_EPOCH:-0}
    if [ -f "$out/epoch" ]; then
        read -r epoch <"$out/epoch"
    fi
    # Not --sort=name: EL 7 has tar 1.26, which does not know it (1.28 does). Not a pipe, which hides a find that fails.
    (cd "$out/$name" && find . -print0) >"$out/$name.members"
    sort -z -o "$out/$name.members" "$out/$name.members"
    archive "$packed/$name.tar" "$epoch" --directory "$out/$name" --mode=u+rw,go-w,a+rX \
        --no-recursion --null --files-from="$out/$name.members"
done

# What was packed, and the inputs, are needed no more. The fewer files there are at the end, the sooner the engine has
# removed them; here many were not even written to the disk yet. Sealed inputs stay: they belong to root.
for name; do
    rm -rf "${out:?}/$name"
done
find "$PIKAFORGE_ROOT" -mindepth 1 -maxdepth 1 ! -name out ! -name "${packed##*/}" ! -name guest \
    -exec rm -rf {} + 2>/dev/null || :
