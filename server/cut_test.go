package server_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// A connection that ends between two fragments ends its message: what came of
// it is not a message (docs/protocol.md, section 10, trace 1), although the
// library takes EOF there for its end.
func TestCutBetweenFragments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		nc, err := srv.Network.DialContext(context.Background(), "tcp", srv.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		fmt.Fprintf(nc, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: %s\r\n\r\n", srv.Addr(), native.Subprotocol(native.Binary))
		br := bufio.NewReader(nc)
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(resp, err)
		}
		send := func(fin byte, f native.Frame) {
			data, err := native.Append(nil, native.Binary, []native.Frame{f})
			if err != nil {
				t.Fatal(err)
			}
			head := binary.BigEndian.AppendUint16([]byte{fin | 2, 0x80 | 126}, uint16(len(data)))
			nc.Write(append(append(head, 0, 0, 0, 0), data...)) // masked with zeros
		}
		send(0x80, native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: 1}})
		if _, err := br.Peek(2); err != nil { // WELCOME
			t.Fatal(err)
		}
		send(0, native.Frame{Type: native.TypeMsg, Msg: native.Msg{S: 1, ID: wire.ID{1}, Topic: "a", Payload: []byte("half")}})
		nc.(interface{ CloseWrite() error }).CloseWrite()
		io.Copy(io.Discard, br)
		if st := srv.Server.Stats(); st.Accepted != 0 {
			t.Errorf("%d messages were accepted from the first fragment of one that never ended", st.Accepted)
		}
	})
}

// What a client sends together with its upgrade request is read.
func TestFramesBehindTheUpgradeRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		nc, err := srv.Network.DialContext(context.Background(), "tcp", srv.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		data, err := native.Append(nil, native.Binary, []native.Frame{{Type: native.TypeHello, Hello: &native.Hello{CN: 1}}})
		if err != nil {
			t.Fatal(err)
		}
		request := fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: %s\r\n\r\n", srv.Addr(), native.Subprotocol(native.Binary))
		nc.Write(append(append([]byte(request), 0x82, 0x80|byte(len(data)), 0, 0, 0, 0), data...)) // masked with zeros
		br := bufio.NewReader(nc)
		if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(resp, err)
		}
		if first, err := br.Peek(1); err != nil || first[0] != 0x82 {
			t.Fatalf("%x instead of WELCOME: %v", first, err)
		}
		if n := srv.Server.Stats().Sessions; n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}
