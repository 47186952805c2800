#!/bin/sh
# dpkg calls `remove` when the files are gone but for confs, and `purge` when those are to go, too, which it does
# itself. What deploy.sh made is not the package's: the data, its confs, and what ties them to the units.
case ${1:-} in
remove) set -- 0 ;;
purge)
    if id @PRODUCT@ >/dev/null 2>&1 || [ -d /etc/@PRODUCT@ ]; then
        echo '@PRODUCT@: data of instances, their files in /etc/@PRODUCT@ and the user @PRODUCT@ were left as they are'
    fi
    exit 0
    ;;
*) exit 0 ;;
esac
#@COMMON@
