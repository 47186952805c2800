#!/bin/sh
# dpkg calls `install [OLD]` and `upgrade OLD` before anything is unpacked; with another word it takes an attempt back.
case ${1:-} in
install | upgrade) ;;
*) exit 0 ;;
esac
#@COMMON@
