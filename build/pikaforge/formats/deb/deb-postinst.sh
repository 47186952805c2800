#!/bin/sh
# dpkg calls `configure [OLD]`; with another word it takes an attempt back. The count is that of packages, as rpm has it.
case ${1:-} in
configure)
    if [ -n "${2:-}" ]; then
        set -- 2
    else
        set -- 1
    fi
    ;;
*) exit 0 ;;
esac
#@COMMON@
