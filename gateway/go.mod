module github.com/limpet-go/limpet/gateway

go 1.26.0

require (
	github.com/limpet-go/limpet v0.0.0
	github.com/nats-io/nats.go v1.55.0
	github.com/nats-io/nuid v1.0.1
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/klauspost/compress v1.20.0 // indirect
	github.com/nats-io/nkeys v0.4.16 // indirect
	golang.org/x/crypto v0.57.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	nhooyr.io/websocket v1.8.17 // indirect
)

replace github.com/limpet-go/limpet => ..
