#!/bin/sh
# Collect licences and copyright notices, which travel in the tree: those of the product's source, and those of the
# packages and of the allocator whose libraries travel, too.
#
#   licences.sh source      before the recipe, which may change the source
#   licences.sh packages    when the libraries are in the tree
#
# environment  PIKAFORGE_ROOT
#              PIKAFORGE_PRODUCT
#              PIKAFORGE_LICENCES       paths of the licences below src/, separated by spaces. Without any: all files
#                                       with the name of a licence, down to the third level (third/NAME/COPYING), and all
#                                       in a folder LICENSES
#              PIKAFORGE_ALLOCATOR_DIR  optional: the prefix of an allocator that was built, with share/doc/
# inputs       src/, out/facts/bundled.tsv
# outputs      out/tree/licenses/NAME/…   NAME is the product, a package, or a part of the allocator
#              out/tree/licenses/common-licenses/…  texts of Debian that those of its packages only name
#              out/facts/licences.tsv     lines of `file`, NAME, path in the tree; and of `name`, NAME, and what the
#                                         package calls one of its licences (tabs between them)
# Exit status: 0 done; 2 the environment is wrong; 65 a file that PIKAFORGE_LICENCES names is not there.
set -eu
# shellcheck source=toolchain.sh
. "${0%/*}/toolchain.sh"
need_set PIKAFORGE_ROOT PIKAFORGE_PRODUCT
root=$(cd "$PIKAFORGE_ROOT" && pwd -P)
tree=$root/out/tree
facts=$root/out/facts/licences.tsv
common=/usr/share/common-licenses
DEPTH=3
PATTERN='(licen[cs]e|copying|copyright|notice|authors)([._-][^/]*)?'

# Copy the file $1 to the path $2 below the folder $3. Characters that no package can have in a path become dashes.
take() {
    place=$3/$(printf '%s' "$2" | tr -c 'A-Za-z0-9._@+~=,:/-' '-')
    mkdir -p "${place%/*}"
    cp "$1" "$place"
    chmod 644 "$place"
}

# Copy the licences of the source to licences/.
from_source() {
    rm -rf "$root/licences"
    mkdir -p "$root/licences"
    cd "$root/src"
    if [ -n "${PIKAFORGE_LICENCES-}" ]; then
        for name in $PIKAFORGE_LICENCES; do
            [ -f "$name" ] || fail 65 "the source has no file $name, which product.licence_files names"
            case $(readlink -f "$name") in
                "$root/src"/*) ;;
                *) fail 65 "$name, which product.licence_files names, is a link out of the source" ;;
            esac
            take "$name" "$name" "$root/licences"
        done
        return 0
    fi
    # No links: what they lead to may be anywhere.
    find . -maxdepth "$DEPTH" -type f | sed 's|^\./||' | grep -Ei "^(.*/)?($PATTERN|licen[cs]es/[^/]*)\$" | sort |
        while IFS= read -r name; do
            # A name with a line break comes in two parts, which are no files.
            [ ! -f "$name" ] || [ -L "$name" ] || take "$name" "$name" "$root/licences"
        done || :
}

# Copy the file $1 as a licence of $2, under the name $3.
add() {
    take "$1" "$2/$3" "$tree/licenses"
    printf 'file\t%s\t%s\n' "$2" "${place#"$tree/"}" >>"$facts"
}

# Copy the licences of the package $1 of the image, and print what the package calls them, one a line.
from_package() {
    if command -v dpkg-query >/dev/null 2>&1 && [ -f "/usr/share/doc/$1/copyright" ]; then
        add "/usr/share/doc/$1/copyright" "$1" copyright
        # What it says of the texts that every Debian has.
        grep -o "$common/[A-Za-z0-9.+-]*[A-Za-z0-9+-]" "$tree/licenses/$1/copyright" | sort -u |
            while IFS= read -r text; do
                [ ! -f "$text" ] || take "$text" "${text##*/}" "$tree/licenses/common-licenses"
            done
        ! grep -q '^Format: ' "$tree/licenses/$1/copyright" ||
            sed -n 's/^License:[[:space:]]*//p' "$tree/licenses/$1/copyright"
    elif command -v rpm >/dev/null 2>&1 && rpm -q "$1" >/dev/null 2>&1; then
        rpm_licences "$1" >"$root/licences.list"
        while IFS= read -r file; do
            name=${file#/usr/share/licenses/*/}
            name=${name#/usr/share/doc/*/}
            add "$file" "$1" "${name#/}"
        done <"$root/licences.list"
        rpm -q --qf '%{LICENSE}\n' "$1" | sed 1q
    fi
}

# Print the files with licences of the package $1: its own, else those of another package of its source.
rpm_licences() {
    source_of=$(rpm -q --qf '%{SOURCERPM}\n' "$1" | sed 1q)
    rpm -qa --qf '%{SOURCERPM}\t%{NAME}\n' | awk -F '\t' -v source="$source_of" '$1 == source { print $2 }' | sort |
        sed "s/^/1 /; s/^1 $1\$/0 $1/" | sort | while read -r _ package; do
        rpm -ql "$package" | sort >"$root/package.list"
        # EL 7 has most licences among the documents, and that of zlib in its README.
        for pattern in "/usr/share/licenses/.*" ".*/$PATTERN" "/usr/share/doc/.*/readme[^/]*"; do
            grep -Eix "$pattern" "$root/package.list" | while IFS= read -r file; do
                [ ! -f "$file" ] || printf '%s\n' "$file"
            done >"$root/found.list"
            if [ -s "$root/found.list" ]; then
                cat "$root/found.list"
                break 2
            fi
        done
    done
}

from_packages() {
    mkdir -p "$tree" "${facts%/*}"
    : >"$facts"
    (cd "$root/licences" && find . -type f) | sed 's|^\./||' | sort >"$root/licences.own"
    while IFS= read -r name; do
        add "$root/licences/$name" "$PIKAFORGE_PRODUCT" "$name"
    done <"$root/licences.own"
    if [ -n "${PIKAFORGE_ALLOCATOR_DIR-}" ]; then
        for file in "$PIKAFORGE_ALLOCATOR_DIR"/share/doc/*/*; do
            [ ! -f "$file" ] || { part=${file%/*} && add "$file" "${part##*/}" "${file##*/}"; }
        done
    fi
    cut -f 3 "$root/out/facts/bundled.tsv" | sort -u >"$root/licences.packages"
    while IFS= read -r package; do
        from_package "$package" >"$root/licences.names"
        sort -u "$root/licences.names" | sed "s/^/name$tab$package$tab/" >>"$facts"
    done <"$root/licences.packages"
}

case ${1-} in
    source) from_source ;;
    packages) from_packages ;;
    *)
        printf 'usage: licences.sh source|packages\n' >&2
        exit 2
        ;;
esac
