#!/bin/sh
# usage: rabbitmq.sh PORT EPMD DIR     RabbitMQ with Web STOMP on 127.0.0.1:PORT, its files in DIR. It needs
# an epmd on port EPMD. The process becomes the broker, so that to kill it ends the broker.
set -e
cat >"$3/rabbitmq.conf" <<END
listeners.tcp = none
stomp.listeners.tcp = none
web_stomp.tcp.ip = 127.0.0.1
web_stomp.tcp.port = $1
web_stomp.ws_frame = binary
default_user = heron
default_pass = h:e\xron
loopback_users = none
log.console = false
log.file = false
END
echo '[rabbitmq_web_stomp].' >"$3/enabled_plugins"
export HOME="$3" RABBITMQ_NODENAME=limpet@localhost RABBITMQ_CONFIG_FILE="$3/rabbitmq.conf" RABBITMQ_MNESIA_BASE="$3" \
	RABBITMQ_LOG_BASE="$3" RABBITMQ_ENABLED_PLUGINS_FILE="$3/enabled_plugins" RABBITMQ_PID_FILE="$3/pid" \
	ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT="$2" RUNNING_UNDER_SYSTEMD=true \
	RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 2:2 -kernel inet_dist_use_interface {127,0,0,1} -eval spawn(fun()->rabbit:await_startup(),io:format(\"listening~c$1~n\",[32])end)."
exec /usr/lib/rabbitmq/bin/rabbitmq-server
