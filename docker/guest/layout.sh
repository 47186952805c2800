#!/bin/sh
# Copy files of the inputs to the paths that they have in a package, with the modes and times of the package.
#
#   layout.sh LIST INTO
#
# LIST has a line for each path, with tabs between the fields: `file`, `dir` or `link`; mode; absolute path; source
# below $PIKAFORGE_ROOT, or the target of the link. INTO is the folder that stands for /.
#
# environment  PIKAFORGE_ROOT
#              SOURCE_DATE_EPOCH  time of every path. Packers that clamp times only lower them: where the clock of the
#                                 machine is behind, files would keep their own times.
# Exit status: 0 done; 2 the list or the environment is wrong; 65 a source is missing.
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
