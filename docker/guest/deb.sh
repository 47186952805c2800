#!/bin/sh
# Make DEBs from control files and layouts, in the tools image, for any target.
#
# inputs   what the layouts name as sources
#          pack/names            a line for each package: its name, and the file name that it gets; a tab between
#          pack/NAME/layout.tsv  see layout.sh
#          pack/NAME/control     without Installed-Size's value
#          pack/NAME/summed      paths for md5sums, in order
#          pack/NAME/changelog   if any: its layout finds it as zipped/NAME/changelog.gz
#          pack/NAME/conffiles, preinst, postinst, prerm, postrm   if any
# environment  SOURCE_DATE_EPOCH
# outputs  out/FILE for each of the names
# Exit status: 0 done; 65 an input is missing; 66 the machine lacks something; else dpkg-deb's.
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
root=$PIKAFORGE_ROOT

need_program dpkg-deb 'take a tools image of the Debian family'
# Since 1.21.9. Without it all cores compress, which other jobs want, too; whether their count shows in the bytes is the
# compressor's affair (1.21.22 wrote the same with 1, 2 and 4).
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
    # As dpkg-gencontrol counts: KiB, files rounded up, 1 for anything else.
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
    # Folders inherit the mark of a set-group-id folder above, which chmod 755 leaves as it is.
    find "$into" -type d -exec chmod g-s {} +
    touch -d "@$SOURCE_DATE_EPOCH" "$into" "$into/DEBIAN" "$into/DEBIAN"/*
    # xz, because the dpkg of Debian 11 reads no zstd. Of 152 MB, level 2 makes 45 MB in 24 s, 4 36 in 48, 6 35 in 135.
    dpkg-deb --root-owner-group -Zxz -z2 --threads-max=1 --build "$into" "$root/out/$file"
done <"$root/pack/names"
