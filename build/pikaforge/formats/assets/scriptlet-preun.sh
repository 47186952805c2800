#!/bin/sh
# With the last package the instances end, cleanly, and do not come back at boot. An upgrade leaves them alone. Their
# data, confs and environment files stay in any case.
set -u
# Metrics that nobody renews would raise alerts for ever.
if [ "$1" -eq 0 ] && [ -f @TOP@/utils/metrics.sh ]; then
    sh @TOP@/utils/metrics.sh --disable >/dev/null 2>&1 || :
fi
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl stop '@PRODUCT@@*.service' @PRODUCT@.target || :
    # By the template's name, the links of all instances.
    systemctl --no-reload --quiet disable @PRODUCT@@.service @PRODUCT@.target || :
fi
exit 0
