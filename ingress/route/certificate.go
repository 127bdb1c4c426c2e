package route

import (
	"crypto/tls"
	"fmt"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// certificate is a parsed Secret.
type certificate struct {
	pair *tls.Certificate
	err  error
}

// parseCertificate reads certificate and key. It is done once for each version of a Secret.
func parseCertificate(s *model.TLSSecret) *certificate {
	pair, err := tls.X509KeyPair(s.Certificate, s.Key) // since Go 1.23 it sets Leaf
	if err != nil {
		// The text of the error never has the key.
		return &certificate{err: fmt.Errorf("tls.crt and tls.key: %w", err)}
	}
	return &certificate{pair: &pair}
}

func (k *compilation) certificate(name model.ObjectName) (*certificate, bool) {
	s := k.secretBy[name]
	if s == nil {
		return nil, false
	}
	if c := k.newSecrets[s]; c != nil {
		return c, true
	}
	c := k.secrets[s]
	if c == nil {
		c = parseCertificate(s)
	}
	k.newSecrets[s] = c
	return c, true
}

const usesDefault = "the default certificate is used"

// ingressCertificates adds the certificates of an Ingress. Without hosts an entry is for the hosts of the rules.
func (k *compilation) ingressCertificates(in *model.Ingress) {
	for i, t := range in.TLS {
		if t.Secret == "" {
			continue // the default certificate
		}
		at := fmt.Sprintf("spec.tls[%d].secretName", i)
		name := model.ObjectName{Namespace: in.Namespace, Name: t.Secret}
		c, ok := k.certificate(name)
		if !ok {
			k.problem(in, at, SecretNotFound, fmt.Sprintf("Secret %s of type kubernetes.io/tls does not exist; %s", name, usesDefault))
			continue
		}
		if c.err != nil {
			k.problem(in, at, CertificateInvalid, fmt.Sprintf("Secret %s: %v; %s", name, c.err, usesDefault))
			continue
		}
		hosts := t.Hosts
		if len(hosts) == 0 {
			for _, r := range in.Rules {
				if r.Host != "" {
					hosts = append(hosts, r.Host)
				}
			}
		}
		for j, h := range hosts {
			k.addCertificate(in, fmt.Sprintf("spec.tls[%d].hosts[%d]", i, j), strings.ToLower(h), c.pair)
		}
	}
}

func (k *compilation) addCertificate(in *model.Ingress, field, name string, pair *tls.Certificate) {
	if other := k.claim(name, in.Namespace); other != "" {
		k.problem(in, field, HostConflict, conflictText(name, other))
		return
	}
	probe := name
	at, key := k.table.certificates, name
	if suffix, wildcard := strings.CutPrefix(name, "*."); wildcard {
		at, key, probe = k.table.wildcardCert, suffix, "x."+suffix
	}
	if pair.Leaf != nil && pair.Leaf.VerifyHostname(probe) != nil {
		k.problem(in, field, CertificateMismatch, "the certificate of the Secret is not for "+name+"; clients will refuse it")
	}
	if have := at[key]; have != nil {
		if have != pair {
			k.problem(in, field, HostConflict, fmt.Sprintf("Ingress %s has another certificate for %s, which is used",
				k.certOwner[name].ObjectName, name))
		}
		return
	}
	at[key], k.certOwner[name] = pair, in
}

func (k *compilation) defaultCertificate() {
	k.table.defaultCert = k.cfg.Fallback
	name := k.cfg.DefaultCertificate
	if name == (model.ObjectName{}) {
		return
	}
	c, ok := k.certificate(name)
	bad := Problem{Kind: "Secret", Object: name}
	switch {
	case !ok:
		bad.Reason, bad.Message = SecretNotFound, "the default certificate does not exist; a self-signed one is used"
	case c.err != nil:
		bad.Reason, bad.Message = CertificateInvalid, c.err.Error()+"; a self-signed one is used"
	default:
		k.table.defaultCert = c.pair
		return
	}
	k.table.Problems = append(k.table.Problems, bad)
}

// certificateFor returns the certificate for a server name: for this name, for its wildcard, else the default one. nil without any.
func (t *Table) certificateFor(name string) *tls.Certificate {
	if c := t.certificates[name]; c != nil {
		return c
	}
	if i := strings.IndexByte(name, '.'); i > 0 {
		if c := t.wildcardCert[name[i+1:]]; c != nil {
			return c
		}
	}
	return t.defaultCert
}
