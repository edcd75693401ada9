#!/usr/bin/env bash
# usage: interop/install.sh     what the servers of interop need, on Debian: Node.js with the packages of
# servers/package.json, RabbitMQ, and proxies: nginx, HAProxy, tinyproxy, microsocks. What is installed already
# stays. It fails if one cannot be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

packages=()
command -v node >/dev/null && command -v npm >/dev/null || packages+=(nodejs npm)
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || packages+=(rabbitmq-server erlang-base)
for proxy in /usr/sbin/nginx /usr/sbin/haproxy /usr/bin/tinyproxy /usr/bin/microsocks; do
	[ -x "$proxy" ] || packages+=("${proxy##*/}")
done
if [ ${#packages[@]} -gt 0 ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "interop needs ${packages[*]}, and only root may install them: apt-get install ${packages[*]}" >&2
		exit 1
	fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
# A server of Node.js must not run scripts of its packages to be installed.
if ! cmp -s servers/package-lock.json servers/node_modules/installed; then
	(cd servers && npm ci --ignore-scripts --no-audit --no-fund)
	cp servers/package-lock.json servers/node_modules/installed
fi
node --version
