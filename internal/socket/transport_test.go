package socket

import (
	"net"
	"net/http"
	"testing"
)

// The timeout of an attempt grows to a minute. A shorter one of the shared transport
// would end each attempt at a server whose TLS handshake takes long.
func TestSharedTransportHasNoTimeouts(t *testing.T) {
	if sharedTransport.TLSHandshakeTimeout != 0 || sharedTransport.ResponseHeaderTimeout != 0 || defaultDialer.Timeout != 0 {
		t.Errorf("TLS %v, header %v, dial %v", sharedTransport.TLSHandshakeTimeout, sharedTransport.ResponseHeaderTimeout, defaultDialer.Timeout)
	}
}

// The copy of a transport for one attempt tries HTTP/2 where the original does.
func TestOwnTransportKeepsHTTP2(t *testing.T) {
	dial := new(net.Dialer).DialContext
	for _, tc := range []struct {
		transport *http.Transport
		want      bool
	}{
		{new(http.Transport), true}, // the default
		{&http.Transport{DialContext: dial}, false},
		{&http.Transport{DialContext: dial, ForceAttemptHTTP2: true}, true},
	} {
		if own := new(sockets).ownTransport(tc.transport); own.ForceAttemptHTTP2 != tc.want {
			t.Errorf("%+v: ForceAttemptHTTP2 is %v", tc.transport, own.ForceAttemptHTTP2)
		}
	}
}
