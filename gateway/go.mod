module github.com/limpet-go/limpet/gateway

go 1.26.0

require (
	github.com/google/uuid v1.6.0
	github.com/limpet-go/limpet v0.0.0
	github.com/redis/go-redis/v9 v9.23.0
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	nhooyr.io/websocket v1.8.17 // indirect
)

replace github.com/limpet-go/limpet => ..
