#!/bin/sh
# Make DEBs from control files and layouts, in the tools image, for any target.
#
# inputs   what the layouts name as sources
#          pack/names            lines of NAME<TAB>FILE: a package, and the name of its file
#          pack/NAME/layout.tsv  see layout.sh
#          pack/NAME/control     without the value of Installed-Size
#          pack/NAME/summed      paths for md5sums, in order
#          pack/NAME/changelog   optional: the layout finds it as zipped/NAME/changelog.gz
#          pack/NAME/conffiles, preinst, postinst, prerm, postrm   optional
# environment  SOURCE_DATE_EPOCH
# outputs  out/FILE for each package
# Exit status: 0 done; 65 an input is missing; 66 the machine lacks something; else that of dpkg-deb.
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
root=$PIKAFORGE_ROOT

need_program dpkg-deb 'take a tools image of the Debian family'
# --threads-max is there since 1.21.9. Without it all cores compress, while other jobs need them, too. Whether the
# number of threads changes the bytes is up to the compressor (1.21.22 wrote the same bytes with 1, 2 and 4).
dpkg-deb --help | grep -q -e --threads-max || fail 66 'this dpkg-deb is too old: 1.21.9 (Debian 12) is needed'
need_set SOURCE_DATE_EPOCH
export SOURCE_DATE_EPOCH
mkdir -p "$root/out"

while IFS=$tab read -r name file; do
    from=$root/pack/$name
    into=$root/deb/$name
    if [ -f "$from/changelog" ]; then
        mkdir -p "$root/zipped/$name"
        gzip -n -9 <"$from/changelog" >"$root/zipped/$name/changelog.gz"
    fi
    sh "$root/guest/layout.sh" "$from/layout.tsv" "$into"
    # Counted as dpkg-gencontrol does: in KiB, each file rounded up, 1 for anything else.
    find "$into" -mindepth 1 -printf '%y %s\n' >"$root/deb/sizes"
    size=$(awk '{ sum += $1 == "f" ? int(($2 + 1023) / 1024) : 1 } END { print sum + 0 }' "$root/deb/sizes")

    mkdir "$into/DEBIAN"
    sed "s/^Installed-Size: .*/Installed-Size: $size/" "$from/control" >"$into/DEBIAN/control"
    (cd "$into" && xargs -r md5sum --) <"$from/summed" >"$into/DEBIAN/md5sums"
    for part in conffiles preinst postinst prerm postrm; do
        [ ! -f "$from/$part" ] || cp "$from/$part" "$into/DEBIAN/$part"
    done
    for part in "$into/DEBIAN"/*; do
        case $part in
        */control | */md5sums | */conffiles) chmod 644 "$part" ;;
        *) chmod 755 "$part" ;;
        esac
    done
    # Folders inherit set-group-id from the folder above, and chmod 755 does not remove it.
    find "$into" -type d -exec chmod g-s {} +
    touch -d "@$SOURCE_DATE_EPOCH" "$into" "$into/DEBIAN" "$into/DEBIAN"/*
    # xz, because the dpkg of Debian 11 does not read zstd. Level 2 makes 45 MB of 152 MB in 24 s; level 4 makes 36 MB
    # in 48 s, level 6 35 MB in 135 s.
    dpkg-deb --root-owner-group -Zxz -z2 --threads-max=1 --build "$into" "$root/out/$file"
done <"$root/pack/names"
