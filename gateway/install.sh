#!/usr/bin/env bash
# usage: gateway/install.sh     nats-server, from the Go module proxy, built into gateway/servers/bin
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/servers"
GOWORK=off go build -o bin/nats-server github.com/nats-io/nats-server/v2
bin/nats-server --version
