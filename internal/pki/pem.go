package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"time"
)

// Validity of certificates; that of the authority is longer than that of what it signs.
const (
	caValidity   = 10 * 365 * 24 * time.Hour
	leafValidity = 3 * 365 * 24 * time.Hour
)

// Pair is a certificate and its key, both PEM.
type Pair struct{ Cert, Key []byte }

// CA is a certificate authority that can sign. During a rotation it also has certificates that are only trusted.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	also []*x509.Certificate // trusted, never signing
}

// NewCA makes an authority.
func NewCA(name string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template(name, caValidity)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	if t, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return &CA{cert: t, key: key}, nil
}

// ParseCA reads an authority: certs is one certificate or several, of which the one that belongs to the key signs.
func ParseCA(certs, key []byte) (*CA, error) {
	k, err := parseKey(key)
	if err != nil {
		return nil, err
	}
	all, err := parseCerts(certs)
	if err != nil {
		return nil, err
	}
	ca := &CA{key: k}
	for _, c := range all {
		switch pub, ok := c.PublicKey.(*ecdsa.PublicKey); {
		case ca.cert == nil && ok && k.PublicKey.Equal(pub):
			ca.cert = c
		default:
			ca.also = append(ca.also, c)
		}
	}
	if ca.cert == nil {
		return nil, errors.New("no certificate of the authority belongs to its key")
	}
	if !ca.cert.IsCA {
		return nil, fmt.Errorf("the certificate %q is not one of an authority", ca.cert.Subject.CommonName)
	}
	return ca, nil
}

// Trusted is the PEM file of authorities that peers must trust: the signing one first, then those of a rotation.
func (ca *CA) Trusted() []byte {
	out := encodeCert(ca.cert.Raw)
	for _, c := range ca.also {
		out = append(out, encodeCert(c.Raw)...)
	}
	return out
}

// KeyPEM is the signing key.
func (ca *CA) KeyPEM() []byte { return encodeKey(ca.key) }

// Request describes the certificate to be signed.
type Request struct {
	Name  string
	Addrs []netip.Addr // with addresses or DNS names it can serve; it can always be a client
	DNS   []string
	Valid time.Duration // 0: three years
}

// Sign makes a key and its certificate.
func (ca *CA) Sign(r Request) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	if r.Valid == 0 {
		r.Valid = leafValidity
	}
	t := template(r.Name, r.Valid)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	t.DNSNames = r.DNS
	for _, a := range r.Addrs {
		t.IPAddresses = append(t.IPAddresses, a.AsSlice())
	}
	if len(r.Addrs)+len(r.DNS) > 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{encodeCert(der), encodeKey(key)}, nil
}

// RenewAt is when the certificate of a pair should be renewed: when a third of its validity is left. It is the zero time,
// which means at once, for a pair that this authority did not sign or that is invalid.
func (ca *CA) RenewAt(p Pair) time.Time {
	certs, err := parseCerts(p.Cert)
	if err != nil {
		return time.Time{}
	}
	c := certs[0]
	key, err := parseKey(p.Key)
	if err != nil || !key.PublicKey.Equal(c.PublicKey) || c.CheckSignatureFrom(ca.cert) != nil {
		return time.Time{}
	}
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

func template(name string, valid time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // crypto/rand never fails
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(valid)} // one hour of tolerance for clocks that are behind
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) []byte {
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		panic(err) // only for curves other than P-256, which NewCA and Sign never use
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	b, _ := pem.Decode(text)
	if b == nil {
		return nil, errors.New("the key has no PEM block")
	}
	if k, err := x509.ParseECPrivateKey(b.Bytes); err == nil {
		return k, nil
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes) // as openssl writes them
	if err != nil {
		return nil, fmt.Errorf("the key: %w", err)
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key is a %T; expected an ECDSA key", k)
	}
	return ec, nil
}

func parseCerts(text []byte) (out []*x509.Certificate, err error) {
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return nil, errors.New("the certificate has something that is no PEM block")
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("the certificate has no PEM block")
	}
	return out, nil
}
