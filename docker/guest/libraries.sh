#!/bin/sh
# Copy the libraries that the loader finds in an image, and list what the package database says about them.
#
# environment  PIKAFORGE_ARCHIVE  0: the archive is empty, because the caller can read the files itself
# outputs      out/list           the real paths of the libraries
#              out/libraries.tar  the libraries, by these paths
#              out/owned          PACKAGE<TAB>VERSION<TAB>DIGEST<TAB>PATH of each file of a package that is named like a
#                                 library; the digest is the database's: MD5 or SHA-256, in hex
# Exit status: 0 done; 22 ldconfig fails, or the image has neither dpkg nor rpm.
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
loader_list >"$PIKAFORGE_ROOT/cache"
sed -n 's|^.*(libc6,x86-64.*) => \(/.*\)$|\1|p' "$PIKAFORGE_ROOT/cache" | while IFS= read -r path; do
    real=$(readlink -f "$path") && [ -f "$real" ] && printf '%s\n' "$real"
done | sort -u >"$PIKAFORGE_ROOT/out/list"
list=$PIKAFORGE_ROOT/out/list
[ "${PIKAFORGE_ARCHIVE-1}" != 0 ] || list=/dev/null
tar --create --file "$PIKAFORGE_ROOT/out/libraries.tar" --format=gnu \
    --absolute-names --no-recursion --files-from="$list"

if command -v dpkg-query >/dev/null 2>&1; then
    # shellcheck disable=SC2016  # variables of dpkg-query
    dpkg-query --show --showformat='${binary:Package}\t${Version}\n' >"$PIKAFORGE_ROOT/versions"
    folder=$(dirname "$(dpkg-query --control-path dpkg md5sums)")
    # The name of a list of digests is that of its package, with the architecture where there may be several.
    find "$folder" -name '*.md5sums' | while IFS= read -r file; do
        name=${file##*/}
        sed -n "s|^\\([0-9a-f]\\{32\\}\\)  \\(.*\\.so.*\\)\$|${name%.md5sums}$tab\\1$tab/\\2|p" "$file"
    done | awk -F '\t' '
        NR == FNR { version[$1] = $2; split($1, part, ":"); plain[part[1]] = $2; next }
        {
            split($1, part, ":")
            print part[1] "\t" ($1 in version ? version[$1] : plain[part[1]]) "\t" $2 "\t" $3
        }' "$PIKAFORGE_ROOT/versions" - | sort >"$PIKAFORGE_ROOT/out/owned"
elif command -v rpm >/dev/null 2>&1; then
    rpm_query -qa --queryformat '[%{=NAME}\t%{=VERSION}-%{=RELEASE}\t%{FILEDIGESTS}\t%{FILENAMES}\n]' |
        awk -F '\t' '$4 ~ /\.so/ && $3 != ""' | sort >"$PIKAFORGE_ROOT/out/owned"
else
    fail 22 "the image has neither dpkg nor rpm"
fi
