package pki

import (
	"bytes"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func verify(t *testing.T, trusted, cert []byte, usage x509.ExtKeyUsage) error {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(trusted)
	certs, err := parseCerts(cert)
	if err != nil {
		t.Fatal(err)
	}
	_, err = certs[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestSign_ServerAndClient_HaveTheirUsagesAndRenewal(t *testing.T) {
	ca := must[*CA](t)(NewCA("test"))
	server := must[Pair](t)(ca.Sign(Request{Name: "m", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}))
	client := must[Pair](t)(ca.Sign(Request{Name: "c", Valid: 30 * time.Hour}))
	if err := verify(t, ca.Trusted(), server.Cert, x509.ExtKeyUsageServerAuth); err != nil {
		t.Error(err)
	}
	if verify(t, ca.Trusted(), client.Cert, x509.ExtKeyUsageServerAuth) == nil {
		t.Error("a client's certificate can serve")
	}
	if err := verify(t, ca.Trusted(), client.Cert, x509.ExtKeyUsageClientAuth); err != nil {
		t.Error(err)
	}
	// A third of 31 hours (30 and the one for slow clocks) is left after some 20 hours.
	if left := time.Until(ca.RenewAt(client)); left < 19*time.Hour || left > 20*time.Hour {
		t.Errorf("to be renewed in %s", left)
	}
	other := must[*CA](t)(NewCA("test"))
	if !other.RenewAt(client).IsZero() || !ca.RenewAt(Pair{client.Cert, server.Key}).IsZero() || !ca.RenewAt(Pair{}).IsZero() {
		t.Error("a pair of another authority, with a wrong key or empty is not to be renewed now")
	}
}

// A machine whose clock is up to an hour behind, or weeks ahead, accepts a new certificate.
func TestSign_ClockSkew_IsToleratedForAnHour(t *testing.T) {
	ca := must[*CA](t)(NewCA("test"))
	server := must[Pair](t)(ca.Sign(Request{Name: "m", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}))
	certs, err := parseCerts(server.Cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Trusted())
	for skew, good := range map[time.Duration]bool{-59 * time.Minute: true, -61 * time.Minute: false, 30 * 24 * time.Hour: true} {
		t.Run(skew.String(), func(t *testing.T) {
			_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, CurrentTime: time.Now().Add(skew)})
			if (err == nil) != good {
				t.Errorf("with a clock that is wrong by %s: %v", skew, err)
			}
		})
	}
}

func TestEnsureCA_CalledTwice_LoadsTheSameAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	first := must[*CA](t)(EnsureCA(dir, "test"))
	second := must[*CA](t)(EnsureCA(dir, "another name"))
	if !bytes.Equal(first.Trusted(), second.Trusted()) || !bytes.Equal(first.KeyPEM(), second.KeyPEM()) {
		t.Error("the second call made another authority")
	}
	for file, mode := range map[string]os.FileMode{CAKeyFile: 0o600, CAFile: 0o644} {
		st, err := os.Stat(filepath.Join(dir, file))
		if err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, expected %v", file, st.Mode(), err, mode)
		}
	}
}

// At every step of a rotation, certificates of the preceding step verify with the newest ca.crt, and certificates of this
// step with the ca.crt of the preceding step.
func TestRotate_EachStep_OldAndNewCertificatesVerify(t *testing.T) {
	ca := must[*CA](t)(NewCA("old"))
	a := Authority{Certs: ca.Trusted(), Key: ca.KeyPEM()}
	before := a.Certs
	leaf := must[Pair](t)(ca.Sign(Request{Name: "c"}))
	for step := 1; step <= 3; step++ {
		var err error
		if a, _, err = Rotate(a, "new"); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		ca := must[*CA](t)(ParseCA(a.Certs, a.Key))
		if err := verify(t, a.Certs, leaf.Cert, x509.ExtKeyUsageClientAuth); err != nil {
			t.Errorf("step %d: the certificate of the step before: %v", step, err)
		}
		if leaf.Cert, leaf.Key = nil, nil; ca != nil {
			leaf = must[Pair](t)(ca.Sign(Request{Name: "c"}))
		}
		if err := verify(t, before, leaf.Cert, x509.ExtKeyUsageClientAuth); err != nil {
			t.Errorf("step %d: a new certificate for those with the former ca.crt: %v", step, err)
		}
		before = a.Certs
	}
	if certs := must[[]*x509.Certificate](t)(parseCerts(a.Certs)); len(certs) != 1 || certs[0].Subject.CommonName != "new" ||
		a.Next != nil {
		t.Errorf("after three steps: %d certificates, next %q", len(certs), a.Next)
	}
}

func TestParseCA_InvalidInput_IsRefused(t *testing.T) {
	ca, other := must[*CA](t)(NewCA("a")), must[*CA](t)(NewCA("b"))
	leaf := must[Pair](t)(ca.Sign(Request{Name: "c"}))
	for name, in := range map[string][2][]byte{
		"nothing":        {nil, nil},
		"another key":    {ca.Trusted(), other.KeyPEM()},
		"no authority":   {leaf.Cert, leaf.Key},
		"rubbish behind": {append(ca.Trusted(), "rubbish"...), ca.KeyPEM()},
		"no key":         {ca.Trusted(), ca.Trusted()},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseCA(in[0], in[1]); err == nil {
				t.Errorf("%s was accepted", name)
			}
		})
	}
}

func FuzzParseCA(f *testing.F) {
	ca, err := NewCA("a")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.Trusted(), ca.KeyPEM())
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"), []byte{})
	f.Fuzz(func(t *testing.T, certs, key []byte) {
		if ca, err := ParseCA(certs, key); err == nil && ca.cert == nil {
			t.Error("neither an authority nor an error")
		}
	})
}
