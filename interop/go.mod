module github.com/limpet-go/limpet/interop

go 1.25

require (
	github.com/gorilla/websocket v1.5.3
	github.com/limpet-go/limpet v0.0.0
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	nhooyr.io/websocket v1.8.17 // indirect
)

replace github.com/limpet-go/limpet => ../
