#!/bin/sh
# Tell what an image holds: installed packages with versions, and its compiler.
#
# outputs  out/packages   NAME<TAB>VERSION lines, sorted
#          out/facts      KEY<TAB>VALUE lines: gcc (major.minor.patch or what it says),
#                         os (ID, VERSION_ID and VARIANT_ID of os-release(5))
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
packages=$PIKAFORGE_ROOT/out/packages
: >"$packages"
if command -v dpkg-query >/dev/null 2>&1; then
    # shellcheck disable=SC2016  # dpkg's own variables
    dpkg-query --show --showformat='${Package}:${Architecture}\t${Version}\t${db:Status-Abbrev}\n' |
        awk -F '\t' '$3 ~ /^.i/ { print $1 "\t" $2 }' | sort >"$packages"
fi
# An EL image may have dpkg's tools (EPEL has them), with a database that is empty.
if ! [ -s "$packages" ] && command -v rpm >/dev/null 2>&1; then
    rpm -qa --queryformat '%{NAME}.%{ARCH}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n' |
        grep -v '^gpg-pubkey' | sort >"$packages"
fi
[ -s "$packages" ] || fail 22 "neither dpkg nor rpm knows a package of this image"
{
    if command -v gcc >/dev/null 2>&1; then
        # Before gcc 7, -dumpfullversion is unknown and -dumpversion has all three numbers.
        printf 'gcc\t%s\n' "$(gcc -dumpfullversion 2>/dev/null || gcc -dumpversion)"
    fi
    # shellcheck source=/dev/null
    ( . /etc/os-release && printf 'os\t%s\t%s\t%s\n' "$ID" "${VERSION_ID:-}" "${VARIANT_ID:-}" )
} >"$PIKAFORGE_ROOT/out/facts"
