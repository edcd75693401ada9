module github.com/limpet-go/limpet/codec/proto

go 1.25

require (
	github.com/limpet-go/limpet v0.0.0
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	nhooyr.io/websocket v1.8.17 // indirect
)

replace github.com/limpet-go/limpet => ../..
