#!/bin/sh
# List what an image holds: installed packages with their versions, the compiler, the operating system.
#
# outputs  out/packages   lines of NAME<TAB>VERSION, sorted
#          out/facts      lines of KEY<TAB>VALUE…: `gcc` with its version, if there is one; `os` with ID, VERSION_ID
#                         and VARIANT_ID of os-release(5)
# Exit status: 0 done; 22 neither dpkg nor rpm knows a package.
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
packages=$PIKAFORGE_ROOT/out/packages
: >"$packages"
if command -v dpkg-query >/dev/null 2>&1; then
    # shellcheck disable=SC2016  # variables of dpkg-query
    dpkg-query --show --showformat='${Package}:${Architecture}\t${Version}\t${db:Status-Abbrev}\n' |
        awk -F '\t' '$3 ~ /^.i/ { print $1 "\t" $2 }' | sort >"$packages"
fi
# An image of EL may have the tools of dpkg (EPEL has them), with an empty database.
if ! [ -s "$packages" ] && command -v rpm >/dev/null 2>&1; then
    rpm_query -qa --queryformat '%{NAME}.%{ARCH}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n' |
        grep -v '^gpg-pubkey' | sort >"$packages"
fi
[ -s "$packages" ] || fail 22 "neither dpkg nor rpm knows a package of this image"
{
    if command -v gcc >/dev/null 2>&1; then
        # gcc before 7 does not know -dumpfullversion; its -dumpversion prints all three numbers.
        printf 'gcc\t%s\n' "$(gcc -dumpfullversion 2>/dev/null || gcc -dumpversion)"
    fi
    # shellcheck source=/dev/null
    ( . /etc/os-release && printf 'os\t%s\t%s\t%s\n' "$ID" "${VERSION_ID:-}" "${VARIANT_ID:-}" )
} >"$PIKAFORGE_ROOT/out/facts"
