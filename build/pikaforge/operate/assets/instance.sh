#!/bin/sh
# Look after the instances of this host.
#
#   instance.sh PORT VERB [OPTION…]
#   instance.sh list
#
# Each verb is in lib/verb-VERB.sh, which defines `verb_main`, `verb_help`, and `verb_about`, one line. With
# `verb_without_instance` it is called for an instance that is not there, too.
set -eu
utils=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
# shellcheck source=lib/common.sh
. "$utils/lib/common.sh"
# shellcheck source=lib/service.sh
. "$utils/lib/service.sh"
# shellcheck source=lib/resp.sh
. "$utils/lib/resp.sh"

verbs() (
    for file in "$utils"/lib/verb-*.sh; do
        name=${file##*/verb-}
        printf '%s\n' "${name%.sh}"
    done
)

usage() {
    printf 'usage: instance.sh PORT VERB [OPTION...]\n       instance.sh list\n\nLook after the instances of %s.\n\n' \
        "$product"
    for name in $(verbs); do
        printf '  %-9s %s\n' "$name" "$(sed -n "s/^verb_about='\(.*\)'\$/\1/p" "$utils/lib/verb-$name.sh")"
    done
    printf '\ninstance.sh PORT VERB --help tells more. Exit status: 0 done; 1 failed; 2 wrong use.\n'
}

if [ $# -eq 0 ]; then
    usage >&2
    exit 2
fi
case $1 in
-h | --help)
    usage
    exit 0
    ;;
list)
    verb=list
    shift
    ;;
*)
    is_port "$1" || misused "PORT must be a number from 1 to $highest, not '$1'"
    port=$1
    verb=${2-}
    [ -n "$verb" ] || misused "what to do with instance $port? VERB is missing" "one of: $(verbs | tr '\n' ' ')"
    shift 2
    ;;
esac
case $verb in
*[!a-z]*) misused "there is no verb '$verb'" "one of: $(verbs | tr '\n' ' ')" ;;
esac
[ -f "$utils/lib/verb-$verb.sh" ] || misused "there is no verb '$verb'" "one of: $(verbs | tr '\n' ' ')"
tool=$verb
help="instance.sh PORT $verb --help"
[ "$verb" != list ] || help='instance.sh list --help'
# shellcheck source=/dev/null
. "$utils/lib/verb-$verb.sh"
for word; do
    case $word in
    -h | --help)
        verb_help
        exit 0
        ;;
    esac
done
if [ "$verb" != list ] && [ -z "${verb_without_instance:-}" ]; then
    load_instance "$port"
fi
verb_main "$@"
