package socket

import "testing"

// The timeout of an attempt grows to a minute. A shorter one of the shared transport
// would end each attempt at a server whose TLS handshake takes long.
func TestSharedTransportHasNoTimeouts(t *testing.T) {
	if sharedTransport.TLSHandshakeTimeout != 0 || sharedTransport.ResponseHeaderTimeout != 0 || defaultDialer.Timeout != 0 {
		t.Errorf("TLS %v, header %v, dial %v", sharedTransport.TLSHandshakeTimeout, sharedTransport.ResponseHeaderTimeout, defaultDialer.Timeout)
	}
}
