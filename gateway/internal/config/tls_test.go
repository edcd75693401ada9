package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pair writes a certificate with a serial number, and its key.
func pair(t *testing.T, cert, key string, serial int64) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A new certificate for the engine is taken with the next connection; a damaged one does not replace the one before.
func TestEngineCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	pair(t, cert, key, 1)
	c, err := load(t, "", "-engine", "redis", "-redis-url", "rediss://a", "-engine-cert", cert, "-engine-key", key, "-engine-name", "b")
	if err != nil {
		t.Fatal(err)
	}
	secure, err := c.EngineTLS()
	if err != nil || secure.ServerName != "b" {
		t.Fatalf("%+v, %v", secure, err)
	}
	check := func(want int64) {
		t.Helper()
		shown, err := secure.GetClientCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := x509.ParseCertificate(shown.Certificate[0]); err != nil || got.SerialNumber.Int64() != want {
			t.Errorf("serial number %v, %v, want %d", got.SerialNumber, err, want)
		}
	}
	check(1)
	pair(t, cert, key, 2)
	check(2)
	if err := os.WriteFile(key, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	check(2)
	pair(t, cert, key, 3)
	check(3)
	if c, err = load(t, ""); err != nil {
		t.Fatal(err)
	}
	if secure, err := c.EngineTLS(); secure != nil || err != nil {
		t.Errorf("without settings: %v, %v", secure, err)
	}
}
