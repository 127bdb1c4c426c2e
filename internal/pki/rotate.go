package pki

import (
	"bytes"
	"errors"
)

// Authority is an authority as it is stored: in files or in a Secret.
type Authority struct {
	Certs []byte // ca.crt
	Key   []byte // ca.key
	Next  []byte // next.key, in the middle of a rotation
}

// Rotate takes the next of three steps that replace an authority while everything goes on, and says what must happen
// before the step after it. Where the rotation stands is seen from what is stored, so that nothing else is to be kept:
//
//  1. ca.crt gets a second certificate, next.key its key; the old one goes on signing.
//  2. next.key becomes ca.key: the new one signs, both are trusted.
//  3. the old certificate is dropped.
func Rotate(a Authority, name string) (out Authority, todo string, err error) {
	ca, err := ParseCA(a.Certs, a.Key)
	if err != nil {
		return a, "", err
	}
	switch {
	case len(a.Next) > 0:
		next, err := ParseCA(a.Certs, a.Next)
		if err != nil {
			return a, "", err
		}
		return Authority{Certs: next.Trusted(), Key: a.Next},
			"the new authority signs; make every certificate anew, then run this again to drop the old authority", nil
	case len(ca.also) > 0:
		return Authority{Certs: encodeCert(ca.cert.Raw), Key: a.Key},
			"the old authority is gone; restart what still trusts it, and the rotation is done", nil
	}
	next, err := NewCA(name)
	if err != nil {
		return a, "", err
	}
	if name == "" {
		return a, "", errors.New("an authority needs a name")
	}
	return Authority{Certs: bytes.Join([][]byte{ca.Trusted(), next.Trusted()}, nil), Key: a.Key, Next: next.KeyPEM()},
		"a new authority is trusted but signs nothing yet; bring ca.crt to every member and client and restart them, then run this again", nil
}
