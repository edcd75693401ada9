#!/usr/bin/env bash
# usage: gateway/install.sh     what the tests of gateway need, on Debian: redis-server 7 or later. What is installed
# already stays. It fails if it cannot be installed.
set -euo pipefail

packages=()
command -v redis-server >/dev/null || packages+=(redis-server)
if [ ${#packages[@]} -gt 0 ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "gateway needs ${packages[*]}, and only root may install them: apt-get install ${packages[*]}" >&2
		exit 1
	fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
redis-server --version
