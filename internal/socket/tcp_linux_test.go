package socket

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/limpet-go/limpet/internal/assert"
)

// The sockets of the shared transport notice a dead path by themselves. Those of a caller's
// transport are as the caller has made them.
func TestSocketsNoticeADeadPath(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NoError(t, err)
	defer ln.Close()
	for _, tc := range []struct {
		transport *http.Transport
		want      [5]int
	}{
		{sharedTransport, [5]int{30_000, 16 << 10, 30, 10, 3}},
		{&http.Transport{DialContext: (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 7e9, Interval: 8e9, Count: 9}}).DialContext}, [5]int{0, 0, 7, 8, 9}},
	} {
		s := &sockets{ctx: context.Background(), dials: new(atomic.Int32), open: make(map[net.Conn]struct{})}
		nc, err := s.ownTransport(tc.transport).DialContext(context.Background(), "tcp", ln.Addr().String())
		assert.NoError(t, err)
		defer nc.Close()
		raw, err := nc.(*net.TCPConn).SyscallConn()
		assert.NoError(t, err)
		var got [5]int
		assert.NoError(t, raw.Control(func(fd uintptr) {
			for i, option := range []int{tcpUserTimeout, tcpNotSentLowat, syscall.TCP_KEEPIDLE, syscall.TCP_KEEPINTVL, syscall.TCP_KEEPCNT} {
				if got[i], err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option); err != nil {
					t.Error(err)
				}
			}
			if on, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE); err != nil || on != 1 {
				t.Errorf("SO_KEEPALIVE is %d: %v", on, err)
			}
		}))
		assert.Equal(t, got, tc.want)
	}
}
