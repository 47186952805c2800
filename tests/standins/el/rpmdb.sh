#!/bin/sh
# Add each package that dpkg has installed, and that rpm does not know, to the database of rpm: under its name in EL,
# with its files at the paths of EL, their digests, and what its libraries provide.
#
# rpmbuild reads the files through links to the folders of the root, which serve as its build root. Only the headers of
# the packages that it makes are used.
set -eu
umask 022
hidden=/usr/libexec/standin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Print lines of "EL-NAME EPOCH VERSION RELEASE DEBIAN-NAME", sorted. Versions of rpm have no dashes.
list_debian() {
    # shellcheck disable=SC2016  # variables of dpkg-query
    dpkg-query --show --showformat='${db:Status-Abbrev}\t${binary:Package}\t${Package}\t${Version}\n' |
        awk -F '\t' -v OFS='\t' -v names="$hidden/packages.tsv" '
            BEGIN {
                while ((getline line <names) > 0) {
                    split(line, row, "\t")
                    count = split(row[5], debian, " ")
                    for (i = 1; i <= count; i++) name[debian[i]] = row[1]
                }
            }
            $1 ~ /^.i/ {
                version = $4
                epoch = sub(/^[0-9]+:/, "", version) ? $4 + 0 : 0
                release = 1
                if (match(version, /-[^-]*$/)) {
                    release = substr(version, RSTART + 1)
                    version = substr(version, 1, RSTART - 1)
                }
                gsub(/-/, ".", version)
                print ($3 in name ? name[$3] : $3), epoch, version, release, $2
            }' | sort
}

# Print the files of the package $1 at the paths of EL, without names that rpmbuild would read as patterns.
list_files() {
    dpkg-query --listfiles "$1" |
        sed -E -e 's,^(/usr)?/lib/x86_64-linux-gnu/,\1/lib64/,' -e 's,^/s?bin/,/usr&,' -e 's,^/lib/,/usr&,' |
        grep -v '[][*?{}"%[:space:]]' | sort -u |
        while IFS= read -r path; do
            [ -d "$path" ] || ! { [ -e "$path" ] || [ -L "$path" ]; } || printf '%s\n' "$path"
        done
}

tab=$(printf '\t')
rpm -qa --queryformat '%{NAME}\t%{EPOCHNUM}\t%{VERSION}\t%{RELEASE}\n' >"$work/known"
list_debian | awk -F '\t' -v known="$work/known" '
    BEGIN { while ((getline line <known) > 0) there[line] }
    !($1 FS $2 FS $3 FS $4 in there)' >"$work/wanted"
[ -s "$work/wanted" ] || exit 0
{
    printf '%s\n' 'Name: standin' 'Version: 1' 'Release: 1' 'Summary: Stand-in' 'License: various' \
        '%description' 'Packages of a stand-in.' \
        '%install' "for folder in /*; do ln -s \"\$folder\" \"\$RPM_BUILD_ROOT\$folder\"; done"
    while IFS=$tab read -r name epoch version release debian; do
        list_files "$debian" >"$work/$name.files"
        printf '%%package -n %s\nEpoch: %s\nVersion: %s\nRelease: %s\n' "$name" "$epoch" "$version" "$release"
        printf 'Summary: Debian'\''s %s\nAutoReqProv: no\n' "$debian"
        grep -E '^(/usr)?/lib64/[^/]*[.]so[.]' "$work/$name.files" | /usr/lib/rpm/elfdeps --provides | sort -u |
            sed 's/^/Provides: /'
        # rpm does not find these in EL either: the packages of EL name them.
        case $name in
            bash) printf 'Provides: /bin/sh\n' ;;
            glibc) printf 'Provides: rtld(GNU_HASH)\n' ;;
        esac
        printf '%%description -n %s\nA stand-in.\n%%files -n %s -f %s\n' "$name" "$name" "$work/$name.files"
    done <"$work/wanted"
} >"$work/standin.spec"
# rpmbuild must not change the files or look for others: no compression of manual pages, no strip. To find the kind of
# each file, which nobody needs, would take four fifths of the time.
printf '0\tstring\t\\177ELF\tELF\n' >"$work/magic"
MAGIC=$work/magic rpmbuild -bb --quiet --buildroot "$work/root" --define "_topdir $work" \
    --define '__os_install_post %{nil}' --define '__check_files %{nil}' --define '_build_id_links none' \
    --define '_binary_payload w0.ufdio' \
    --define 'debug_package %{nil}' "$work/standin.spec" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    exit 1
}
rpm -U --force --justdb --nodeps --noscripts "$work"/RPMS/*/*.rpm >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    exit 1
}
