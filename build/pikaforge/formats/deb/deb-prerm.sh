#!/bin/sh
# dpkg calls `remove`; with another word it upgrades, or makes another package wait, and instances go on.
case ${1:-} in
remove) set -- 0 ;;
*) exit 0 ;;
esac
#@COMMON@
