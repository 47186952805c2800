#!/bin/sh
# Put a signature that was made elsewhere into the header of an RPM. The key is not here: the caller has signed the
# header before.
#
# inputs   sign/package.rpm  the RPM
#          sign/header       its main header, which was signed
#          sign/signature    the binary OpenPGP signature of that
#          sign/key          the fingerprint of the key, as its name
# outputs  out/package.rpm
# Exit status: 0 done; 65 rpm wants something else signed; 66 the image lacks rpmsign; else that of rpmsign.
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
root=$PIKAFORGE_ROOT

# rpm calls this script as its gpg: `give OUTPUT [FILE]`. What is to be signed is in FILE or on standard input.
if [ "${1-}" = give ]; then
    cat -- "${3:--}" >"$root/sign/wanted"
    cmp -s "$root/sign/wanted" "$root/sign/header" ||
        fail 65 'rpm wants something else signed than the header that was signed'
    cp "$root/sign/signature" "$2"
    exit 0
fi

need_program rpmsign 'add the package rpm to docker/tools/Dockerfile'
read -r key <"$root/sign/key"
case $0 in
    /*) self=$0 ;;
    *) self=$PWD/$0 ;;
esac
mkdir -p "$root/out"
cp "$root/sign/package.rpm" "$root/out/package.rpm"
# rpm expands this macro, with these names for the files. Its first word is the program, the second is argv[0].
rpmsign --define "_gpg_name $key" --define "_gpg_digest_algo sha256" \
    --define "__gpg_sign_cmd /bin/sh sh $self give %{__signature_filename} %{?__plaintext_filename}" \
    --addsign "$root/out/package.rpm"
