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
