package member

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/atomicfile"
	"github.com/warrennet/warren/internal/pki"
)

// A member's certificate is valid for 90 days. It is renewed at each start, and when a third of its validity is left. etcd
// reads the files at every TLS handshake, so that a new certificate needs no restart.
const (
	certValidity = 90 * 24 * time.Hour
	certCheck    = time.Minute
)

// errAuthority ends the member, so that it is restarted: etcd reads the authorities that it trusts only at start.
var errAuthority = errors.New("the authority in Secret warren-etcd-ca has changed; this member must restart to trust it")

func (c Config) certFile(name string) string { return filepath.Join(c.CertDir, name) }

type certificate struct {
	c       Config
	trusted []byte
	renewAt time.Time
}

// make writes the trusted authorities and a new certificate.
func (k *certificate) make() error {
	ca, err := pki.LoadCA(k.c.CADir)
	if err != nil {
		return err
	}
	addrs := []netip.Addr{k.c.HostIP, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	p, err := ca.Sign(pki.Request{Name: PeerName, Addrs: slices.Compact(addrs), DNS: []string{k.c.Name}, Valid: certValidity})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(k.c.CertDir, 0o700); err != nil {
		return err
	}
	if err := atomicfile.Write(k.c.certFile(pki.CAFile), ca.Trusted(), 0o644); err != nil {
		return err
	}
	k.trusted, k.renewAt = ca.Trusted(), ca.RenewAt(p)
	return pki.WritePair(k.c.certFile("tls.crt"), k.c.certFile("tls.key"), p)
}

// keep renews the certificate in time and ends when the authority changes.
func (k *certificate) keep(ctx context.Context) error {
	t := time.NewTicker(certCheck)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		ca, err := pki.LoadCA(k.c.CADir)
		if err != nil {
			k.c.Log.Error("cannot read the certificate authority; keeping the current certificate", "err", err)
			continue
		}
		if !bytes.Equal(ca.Trusted(), k.trusted) {
			return errAuthority
		}
		if time.Now().After(k.renewAt) {
			if err := k.make(); err != nil {
				k.c.Log.Error("cannot renew the certificate of the etcd member", "err", err)
			}
		}
	}
}
