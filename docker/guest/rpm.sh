#!/bin/sh
# Make RPMs from a spec file and a layout, in the tools image, for any target.
#
# inputs   what pack/layout.tsv names as sources
#          pack/layout.tsv   see layout.sh, which the spec file runs
#          pack/package.spec
#          pack/names        names of the files that rpmbuild has to make, one a line
#          pack/features     rpmlib() features that the rpm of the target has, one a line
# environment  SOURCE_DATE_EPOCH
# outputs  out/NAME for each of the names
# Exit status: 0 done; 65 the packages are not those that were asked for; 66 the image lacks something; else that of
# rpmbuild.
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
root=$PIKAFORGE_ROOT
HOME=$root/pack/home
export HOME

need_program rpmbuild 'it comes with the package rpm, as in docker/tools/Dockerfile'
need_set SOURCE_DATE_EPOCH
mkdir -p "$HOME" "$root/out"
rpmbuild -bb --quiet --target x86_64-linux --dbpath "$root/pack/db" \
    --define "_topdir $root/pack/top" --define "_tmppath $root/pack/tmp" "$root/pack/package.spec"

while IFS= read -r name; do
    file=$root/pack/top/RPMS/x86_64/$name
    [ -f "$file" ] || fail 65 "rpmbuild made no $name"
    # Where rpm lacks one of these features, the package cannot be installed.
    rpm --dbpath "$root/pack/db" -qp --requires "$file" >"$root/pack/requires"
    sed -n 's/^rpmlib(\([^)]*\)).*/\1/p' "$root/pack/requires" >"$root/pack/needed"
    while IFS= read -r feature; do
        grep -Fqx "$feature" "$root/pack/features" ||
            fail 65 "$name needs rpmlib($feature), which the rpm of its system does not have"
    done <"$root/pack/needed"
    mv "$file" "$root/out/$name"
done <"$root/pack/names"
left=$(find "$root/pack/top/RPMS" -type f)
[ -z "$left" ] || fail 65 "rpmbuild made more than was asked for: $left"
