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

// Step is the step that Rotate performs next, 1 to 3.
func (a Authority) Step() (int, error) {
	ca, err := ParseCA(a.Certs, a.Key)
	switch {
	case err != nil:
		return 0, err
	case len(a.Next) > 0:
		return 2, nil
	case len(ca.also) > 0:
		return 3, nil
	}
	return 1, nil
}

// Rotate performs the next of three steps that replace an authority without interruption. todo is what the operator must
// do before the following step. The current step is derived from the stored authority:
//
//  1. ca.crt gets a second certificate, next.key its key. The old authority continues to sign.
//  2. next.key becomes ca.key: the new authority signs, both are trusted.
//  3. The old certificate is removed.
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
			"the new authority signs; renew every certificate, then remove the old authority by step 3", nil
	case len(ca.also) > 0:
		return Authority{Certs: encodeCert(ca.cert.Raw), Key: a.Key},
			"the old authority is removed; restart every member and client that still trusts it to finish the rotation", nil
	}
	next, err := NewCA(name)
	if err != nil {
		return a, "", err
	}
	if name == "" {
		return a, "", errors.New("an authority needs a name")
	}
	return Authority{Certs: bytes.Join([][]byte{ca.Trusted(), next.Trusted()}, nil), Key: a.Key, Next: next.KeyPEM()},
		"a new authority is trusted but does not sign yet; copy ca.crt to every member and client and restart them, " +
			"then let the new authority sign by step 2",
		nil
}
