package jsonrpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Ethereum returns the options for eth_subscribe of Ethereum nodes, such as Geth:
// https://geth.ethereum.org/docs/interacting-with-geth/rpc/pubsub.
//
// A topic is the name of a subscription, followed by a colon and its argument in JSON if
// it has one:
//
//	newHeads
//	newPendingTransactions
//	logs:{"address":"0x0000000000000000000000000000000000000069","topics":[]}
//
// Messages of newHeads are numbered: Position.Offset is the block number and Position.Tag
// the hash of the block. A hole, also one across a reconnect, is a Gap with the numbers
// that eth_getBlockByNumber can fill. A block that does not follow the last one is a
// Reset (CauseDiverged): the chain was reorganised, and Loss.To.Offset is the last block
// before the branch that the node has now announced. Blocks in a Gap may be part of a
// reorganisation, too: compare parentHash with what you have. Other topics have no
// numbers, so each reconnect is a Reset.
//
// Too many requests postpone a subscription by the data.rate.backoff_seconds of the error,
// or 10 seconds. Its codes are -32005 (limit exceeded, EIP-1474), and -32012, -32016 and
// 429 of providers of nodes. Other errors end it.
func Ethereum() Options {
	return Options{
		Subscribe: func(topic string) (Call, error) {
			name, argument, found := strings.Cut(topic, ":")
			params, err := json.Marshal([]string{name})
			if err != nil || name == "" {
				return Call{}, errors.New(`has no name; use "newHeads", for example`)
			}
			if found {
				if !json.Valid([]byte(argument)) {
					return Call{}, errors.New(`has an argument that is not JSON; use "logs:{}", for example`)
				}
				params = append(append(append(params[:len(params)-1], ','), argument...), ']')
			}
			return Call{"eth_subscribe", params}, nil
		},
		Unsubscribe: func(_ string, id []byte) Call {
			return Call{"eth_unsubscribe", bytes.Join([][]byte{[]byte("["), id, []byte("]")}, nil)}
		},
		Locate: func(topic string, payload []byte) Place {
			if topic != "newHeads" {
				return Place{}
			}
			var head struct{ Number, Hash, ParentHash string }
			if json.Unmarshal(payload, &head) != nil || !strings.HasPrefix(head.Number, "0x") {
				return Place{}
			}
			n, err := strconv.ParseUint(head.Number[2:], 16, 64)
			return Place{Number: n, Numbered: err == nil, ID: head.Hash, Prev: head.ParentHash}
		},
		Retry: func(e Error) time.Duration {
			switch e.Code {
			case -32005, -32012, -32016, 429:
			default:
				return 0
			}
			var data struct {
				Rate struct {
					Seconds float64 `json:"backoff_seconds"`
				}
			}
			if json.Unmarshal(e.Data, &data) == nil && data.Rate.Seconds > 0 {
				return time.Duration(min(data.Rate.Seconds, 900) * float64(time.Second))
			}
			return 10 * time.Second
		},
	}
}
