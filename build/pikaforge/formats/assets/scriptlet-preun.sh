#!/bin/sh
# With the last package the instances end, cleanly, and do not come back at boot. An upgrade leaves them alone. Their
# data, confs and environment files stay in any case.
set -u
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl stop '@PRODUCT@@*.service' @PRODUCT@.target || :
    # By the template's name, the links of all instances.
    systemctl --no-reload --quiet disable @PRODUCT@@.service @PRODUCT@.target || :
fi
exit 0
