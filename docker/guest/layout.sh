#!/bin/sh
# Lay files of the inputs out as a package has them: the same paths, modes and times, whatever the inputs' are.
#
#   layout.sh LIST INTO
#
# LIST has a line for each path: file, dir or link; mode; absolute path; source below $PIKAFORGE_ROOT, or the link's
# target; separated by tabs. SOURCE_DATE_EPOCH is every path's time: packers that clamp times only lower them, so where
# the clock is behind, files would bring their own.
set -euf
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
need_set PIKAFORGE_ROOT SOURCE_DATE_EPOCH

list=$1
into=$2
mkdir -p "$into"
while IFS=$tab read -r kind mode path source; do
    place=$into$path
    case $kind in
    dir) mkdir -p "$place" && chmod "$mode" "$place" ;;
    file)
        if [ ! -f "$PIKAFORGE_ROOT/$source" ] || [ -L "$PIKAFORGE_ROOT/$source" ]; then
            fail 65 "$path should come from $source, which is no file"
        fi
        mkdir -p "${place%/*}"
        cp "$PIKAFORGE_ROOT/$source" "$place"
        chmod "$mode" "$place"
        ;;
    link)
        mkdir -p "${place%/*}"
        ln -s "$source" "$place"
        ;;
    *) fail 2 "$kind is no kind of entry" ;;
    esac
done <"$list"
find "$into" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
