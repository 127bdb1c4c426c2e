// Package pki makes the certificate authority of warren's own etcd: ECDSA P-256, one certificate per server, certificates
// for clients. It works on PEM in memory (pem.go, rotate.go) and on the files of one directory (this file). It owns no
// goroutine and never prints a key. Key files have mode 0600.
package pki

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/warrennet/warren/internal/atomicfile"
)

// Names of the files in the directory of an authority, and of the keys of its Secret.
const (
	CAFile      = "ca.crt"
	CAKeyFile   = "ca.key"
	NextKeyFile = "next.key" // only in the middle of a rotation
)

// MemberName is the common name of the certificates of etcd's members. Members accept each other by it, so that no certificate
// of a client may have it.
const MemberName = "warren-etcd-member"

// EnsureCA loads ca.crt and ca.key from dir, making them if neither exists.
func EnsureCA(dir, name string) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, CAFile)); !errors.Is(err, os.ErrNotExist) {
		return LoadCA(dir)
	}
	ca, err := NewCA(name)
	if err != nil {
		return nil, err
	}
	return ca, WritePair(filepath.Join(dir, CAFile), filepath.Join(dir, CAKeyFile), Pair{ca.Trusted(), ca.KeyPEM()})
}

// LoadCA reads the authority of dir.
func LoadCA(dir string) (*CA, error) {
	cert, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, err
	}
	ca, err := ParseCA(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return ca, nil
}

// Issue writes certFile and keyFile for name. With addresses or DNS names it can serve; it can always be a client.
func (ca *CA) Issue(certFile, keyFile, name string, addrs []netip.Addr, dns []string) error {
	p, err := ca.Sign(Request{Name: name, Addrs: addrs, DNS: dns})
	if err != nil {
		return err
	}
	return WritePair(certFile, keyFile, p)
}

// WritePair writes a key (mode 0600) and its certificate. Each file is replaced atomically. Between the two renames they
// do not match: a program that reads them then must retry.
func WritePair(certFile, keyFile string, p Pair) error {
	if err := atomicfile.Write(keyFile, p.Key, 0o600); err != nil {
		return err
	}
	return atomicfile.Write(certFile, p.Cert, 0o644)
}
