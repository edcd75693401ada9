#!/usr/bin/env bash
# usage: metrics/e2e/install.sh     prometheus and promtool, from Debian. What is installed already stays. The service
# that the package brings is neither started nor enabled. It fails if prometheus cannot be installed.
set -euo pipefail

if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then
	if [ "$(id -u)" != 0 ]; then
		echo "metrics/e2e needs prometheus, and only root may install it: apt-get install prometheus" >&2
		exit 1
	fi
	# While policy-rc.d says 101, no package starts its service.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		trap 'rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >/dev/null
	if [ -d /run/systemd/system ]; then
		systemctl disable --now prometheus.service
	fi
fi
prometheus --version 2>&1 | head -1
promtool --version 2>&1 | head -1
