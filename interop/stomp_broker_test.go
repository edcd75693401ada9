package interop

import (
	"net"
	"os/exec"
	"testing"
)

// startRabbitMQ starts a broker whose files are in dir. It takes some seconds.
func startRabbitMQ(t *testing.T, port, dir string) *peer {
	t.Helper()
	epmdPort := freePort(t)
	epmd := exec.Command("epmd", "-port", epmdPort, "-address", "127.0.0.1")
	if err := epmd.Start(); err != nil {
		t.Fatalf("%v; run interop/install.sh", err)
	}
	t.Cleanup(func() { _ = epmd.Process.Kill(); _ = epmd.Wait() })
	return startPeer(t, "sh", "servers/rabbitmq.sh", port, epmdPort, dir)
}

// freePort returns a port of the loopback interface that nothing listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
