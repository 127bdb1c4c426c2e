package kube

import (
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// listener accepts TCP connections and closes them, as a process without the server's key may do.
func listener(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return l
}

// apiServer serves TLS as an API server does: each answer is a failure of the request and a success of the connection.
func apiServer(t *testing.T) (s *httptest.Server, c Config) {
	t.Helper()
	s = httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	dir := t.TempDir()
	c = Config{TokenFile: filepath.Join(dir, "token"), CAFile: filepath.Join(dir, "ca.crt"), ServerName: "example.com"}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := errors.Join(os.WriteFile(c.TokenFile, []byte("t"), 0o600), os.WriteFile(c.CAFile, ca, 0o600)); err != nil {
		t.Fatal(err)
	}
	return s, c
}

// request sends a request and returns the server that is tried first afterwards.
func request(t *testing.T, c *Connection) string {
	t.Helper()
	_, err := c.Client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	t.Log(err)
	return c.Servers()[0]
}

// A process that listens at the address of an API server and has no certificate for it keeps the agent from no other server.
func TestDialer_ListenerWithoutCertificate_TriedLast(t *testing.T) {
	server, c := apiServer(t)
	good := server.Listener.Addr().String()
	impostor := listener(t, "127.0.0.1:0").Addr().String()
	conn, err := Connect(c, []string{impostor, good})
	if err != nil {
		t.Fatal(err)
	}
	if first := request(t, conn); first != good {
		t.Errorf("after a failed TLS handshake %s is tried first, expected %s", first, good)
	}
	if first := request(t, conn); first != good {
		t.Errorf("after a TLS handshake %s is tried first, expected %s", first, good)
	}
	server.Close()
	listener(t, good) // the API server ended, and another process took its port
	other, _ := apiServer(t)
	conn.SetServers([]string{good, other.Listener.Addr().String()})
	for range 3 {
		if first := request(t, conn); first == good {
			t.Errorf("%s is tried first although it was replaced", first)
		}
	}
}

// The dialer stays with the first server that accepts a connection, and reports the errors of all.
func TestDialer_ServerUnreachable_TriesTheNext(t *testing.T) {
	good := listener(t, "127.0.0.1:0")
	gone := listener(t, "127.0.0.1:0")
	gone.Close()
	d := &dialer{}
	if _, err := d.DialContext(t.Context(), "tcp", "ignored:1"); err == nil {
		t.Error("no server is known, yet it connected")
	}
	d.set([]string{gone.Addr().String(), good.Addr().String()})
	conn, err := d.DialContext(t.Context(), "tcp", "ignored:1")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if o := d.order(); len(o) != 2 {
		t.Errorf("order %v, expected both servers", o)
	}
	good.Close()
	var op *net.OpError
	if _, err := d.DialContext(t.Context(), "tcp", "ignored:1"); !errors.As(err, &op) {
		t.Errorf("error %v; expected those of both servers", err)
	}
}
