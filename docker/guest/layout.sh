#!/bin/sh
# Lay files of the inputs out as a package has them: the same paths, modes and times, whatever the inputs' are.
#
#   layout.sh LIST INTO
#
# LIST has a line for each path: file, dir or link; mode; absolute path; source below $FORGE_ROOT, or the link's
# target; separated by tabs. SOURCE_DATE_EPOCH is every path's time: packers that clamp times only lower them, so where
# the clock is behind, files would bring their own.
set -euf
umask 022
tab=$(printf '\t')

list=$1
into=$2
mkdir -p "$into"
while IFS=$tab read -r kind mode path source; do
    place=$into$path
    case $kind in
    dir) mkdir -p "$place" && chmod "$mode" "$place" ;;
    file)
        if [ ! -f "$FORGE_ROOT/$source" ] || [ -L "$FORGE_ROOT/$source" ]; then
            printf 'layout.sh: %s should come from %s, which is no file\n' "$path" "$source" >&2
            exit 65
        fi
        mkdir -p "${place%/*}"
        cp "$FORGE_ROOT/$source" "$place"
        chmod "$mode" "$place"
        ;;
    link)
        mkdir -p "${place%/*}"
        ln -s "$source" "$place"
        ;;
    *)
        printf 'layout.sh: %s is no kind of entry\n' "$kind" >&2
        exit 2
        ;;
    esac
done <"$list"
find "$into" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
