module github.com/limpet-go/limpet/codec/msgpack

go 1.25

require (
	github.com/limpet-go/limpet v0.0.0
	github.com/vmihailenco/msgpack/v5 v5.4.1
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/vmihailenco/tagparser/v2 v2.0.0 // indirect
	nhooyr.io/websocket v1.8.17 // indirect
)

replace github.com/limpet-go/limpet => ../..
