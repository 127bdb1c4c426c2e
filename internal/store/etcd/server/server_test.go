package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/pki"
)

// authority signs the certificates of a test.
type authority struct {
	t   *testing.T
	ca  *pki.CA
	dir string
}

func newAuthority(t *testing.T) *authority {
	dir := t.TempDir()
	ca, err := pki.EnsureCA(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, ca: ca, dir: dir}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issue writes NAME.crt and NAME.key. A certificate with an address can serve.
func (a *authority) issue(file, name string, addrs ...netip.Addr) {
	a.t.Helper()
	if err := a.ca.Issue(a.file(file+".crt"), a.file(file+".key"), name, addrs, nil); err != nil {
		a.t.Fatal(err)
	}
}

func freeURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "https://" + l.Addr().String()
}

// member is the configuration of one member whose certificate has that common name.
func (a *authority) member(name string) Config {
	a.issue("member", name, netip.MustParseAddr("127.0.0.1"))
	return Config{Name: "t", DataDir: a.t.TempDir(), ClientURLs: []string{freeURL(a.t)}, PeerURLs: []string{freeURL(a.t)},
		CAFile: a.file(pki.CAFile), CertFile: a.file("member.crt"), KeyFile: a.file("member.key"), LogLevel: "fatal"}
}

// run runs a member until the returned function is called, or the test ends.
func run(t *testing.T, c Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- Run(ctx, c, func() { close(ready) }) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("etcd: %v", err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("etcd did not start: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("etcd was not ready within a minute")
	}
	return stop
}

func (a *authority) get(cert, url string) error {
	pair, err := tls.LoadX509KeyPair(a.file(cert+".crt"), a.file(cert+".key"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	trusted, err := os.ReadFile(a.file(pki.CAFile))
	if err != nil {
		return err
	}
	roots.AppendCertsFromPEM(trusted)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return nil
}

// Without a configured name, the peer port accepts the common name of the member's own certificate only (E19).
func TestRun_ClientCertificateAtPeerPort_IsRefused(t *testing.T) {
	a := newAuthority(t)
	c := a.member(pki.MemberName)
	a.issue("n3", "n3")
	run(t, c)
	for _, path := range []string{"/members", "/raft/probing"} {
		if err := a.get("member", c.PeerURLs[0]+path); err != nil {
			t.Errorf("a member's certificate: %v", err)
		}
		if err := a.get("n3", c.PeerURLs[0]+path); err == nil {
			t.Errorf("%s answers a node's client certificate", path)
		}
	}
}

func TestRun_CertificateWithoutCommonName_IsRefused(t *testing.T) {
	a := newAuthority(t)
	c := a.member("")
	if err := Run(t.Context(), c, func() {}); err == nil || !strings.Contains(err.Error(), "expected no empty name") {
		t.Errorf("%v, expected a refusal of the empty common name", err)
	}
}
