#!/bin/sh
# Copy this Debian root to a folder in the layout of Enterprise Linux. The folder becomes the image of a stand-in.
#
#   dress.sh RELEASE INTO      RELEASE: 7, 8 or 9
#
# Beside this script: dnf, rpmdb.sh, old, old.tsv, packages.tsv, os-release.
set -eu
release=$1
into=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
inside=/usr/libexec/standin
hidden=$into$inside
libraries=x86_64-linux-gnu

# Once both folders are one, this link of Debian's glibc would have the same path as its target.
dpkg-divert --local --no-rename --divert "/usr/lib/$libraries/.ld-linux.debian" --add /lib64/ld-linux-x86-64.so.2

mkdir -p "$into/usr/lib64" "$into/proc" "$into/sys" "$into/dev" "$into/run" "$into/tmp"
chmod 1777 "$into/tmp"
cp -a /usr /etc /var /root /opt /srv /home "$into/"
for folder in bin sbin lib lib64; do
    # In Debian 11 as mmdebstrap makes it, these are folders of their own.
    [ -L "/$folder" ] || cp -a --remove-destination "/$folder/." "$into/usr/$folder/" # over links to them
    ln -s "usr/$folder" "$into/$folder"
done

# Libraries are in /usr/lib64. Packages of Debian still find them by a link.
rm "$into/usr/lib64/ld-linux-x86-64.so.2"
cp -a "$into/usr/lib/$libraries/." "$into/usr/lib64/"
rm -r "$into/usr/lib/$libraries" "$into"/usr/share/info/* "$into"/usr/share/locale/* "$into"/usr/share/man/*
ln -s ../lib64 "$into/usr/lib/$libraries"
[ -e "$into/usr/lib64/ld-linux-x86-64.so.2" ]
printf '%s\n' /lib64 /usr/lib64 >"$into/etc/ld.so.conf.d/$libraries.conf"
ldconfig -r "$into"
ln -sf bash "$into/usr/bin/sh"
cp "$here/os-release" "$into/usr/lib/os-release"
ln -sf ../usr/lib/os-release "$into/etc/os-release"

# Hide the tools of Debian and their database, so that nobody finds a dpkg.
mkdir -p "$hidden/bin"
mv "$into"/usr/bin/dpkg* "$into"/usr/bin/apt* "$hidden/bin/"
mv "$into/var/lib/dpkg" "$hidden/dpkg"
printf '%s\n' "$release" >"$hidden/release"
cp "$here/packages.tsv" "$here/old.tsv" "$hidden/"
for script in rpmdb.sh old; do
    install -m 755 "$here/$script" "$hidden/$script"
done
printf 'path-exclude=/usr/share/%s/*\n' info locale man >"$into/etc/dpkg/dpkg.cfg.d/standin"
cat >"$hidden/apt.conf" <<END
Dir::Bin::dpkg "$inside/bin/dpkg";
Dir::Bin::apt-key "$inside/bin/apt-key";
DPkg::Path "$inside/bin:/usr/sbin:/usr/bin";
DPkg::Options { "--force-unsafe-io"; "--force-confold"; }
END

# Hide the programs of a package that an image of EL may lack, until it is installed.
hold() { # PACKAGE PROGRAMS
    mkdir -p "$hidden/held/$1"
    for program in $2; do
        mv "$into/usr/bin/$program" "$hidden/held/$1/$program"
        ln -s "../held/$1/$program" "$hidden/bin/$program"
    done
}
hold diffutils 'cmp diff diff3 sdiff'
hold findutils 'find xargs'
hold tar tar
hold which which

if [ "$release" = 7 ]; then
    install -m 755 "$here/dnf" "$into/usr/bin/yum"
else
    install -m 755 "$here/dnf" "$into/usr/bin/dnf"
    ln -s dnf "$into/usr/bin/yum"
fi
mkdir -p "$into/etc/yum.repos.d" "$into/etc/pki/rpm-gpg" "$into/etc/rpm"
case $release in
    7)
        # As in centos:7, whose mirror list does not exist any more.
        for name in base updates extras; do
            printf '[%s]\nmirrorlist=http://mirrorlist.invalid/?repo=%s\ngpgcheck=1\n\n' "$name" "$name"
        done >"$into/etc/yum.repos.d/CentOS-Base.repo"
        printf '[main]\nkeepcache=0\n' >"$into/etc/yum.conf"
        ;;
    8) extra=powertools ;;
    9) extra=crb ;;
esac
if [ "$release" != 7 ]; then
    printf '[%s]\nbaseurl=http://mirror.invalid/%s/\nenabled=%s\n\n' baseos baseos 1 appstream appstream 1 \
        extras extras 1 "$extra" "$extra" 0 >"$into/etc/yum.repos.d/rocky.repo"
fi
: >"$into/etc/pki/rpm-gpg/RPM-GPG-KEY-CentOS-$release"
printf '%%_dbpath /var/lib/rpm\n' >"$into/etc/rpm/macros"

# Add the installed packages to rpm's database. (The database of dpkg is in Debian's place only while it is used.)
ln -s "$inside/dpkg" "$into/var/lib/dpkg"
chroot "$into" env PATH="$inside/bin:$PATH" sh "$inside/rpmdb.sh"
rm "$into/var/lib/dpkg"
