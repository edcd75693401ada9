module github.com/limpet-go/limpet

go 1.25

require (
	github.com/cenkalti/backoff/v4 v4.3.0
	github.com/google/uuid v1.6.0
	nhooyr.io/websocket v1.8.17
)
