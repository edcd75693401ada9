#!/usr/bin/env bash
# usage: gateway/install.sh     what the tests and the chaos runs of gateway need, on Debian: nats-server, from the Go
# module proxy, built into gateway/servers/bin; redis-server 7 or later; HAProxy and nginx. What is installed already
# stays. It fails if one cannot be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

(cd servers && GOWORK=off go build -o bin/nats-server github.com/nats-io/nats-server/v2)
servers/bin/nats-server --version

packages=()
command -v redis-server >/dev/null || packages+=(redis-server)
for proxy in /usr/sbin/haproxy /usr/sbin/nginx; do
	[ -x "$proxy" ] || packages+=("${proxy##*/}")
done
if [ ${#packages[@]} -gt 0 ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "gateway needs ${packages[*]}, and only root may install them: apt-get install ${packages[*]}" >&2
		exit 1
	fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
redis-server --version
