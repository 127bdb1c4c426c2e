package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/pki"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// warren runs a command with stdin and returns its stdout.
func warren(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := root()
	c.SetArgs(args)
	c.SetIn(strings.NewReader(stdin))
	c.SetOut(&out)
	c.SetErr(&bytes.Buffer{})
	err := c.Execute()
	return out.String(), err
}

func mustWarren(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := warren(t, stdin, args...)
	if err != nil {
		t.Fatalf("warren %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func TestPKI_Files_RotateInThreeSteps(t *testing.T) {
	dir := t.TempDir()
	if _, err := warren(t, "", "pki", "client", "--dir", dir); err == nil {
		t.Error("a client's certificate without an authority")
	}
	mustWarren(t, "", "pki", "ca", "--dir", dir)
	mustWarren(t, "", "pki", "client", "--dir", dir, "--name", "node")
	mustWarren(t, "", "pki", "server", "--dir", dir, "--name", "m1", "--addr", "192.0.2.1")
	if _, err := warren(t, "", "pki", "server", "--dir", dir); err == nil {
		t.Error("a server without an address or a name")
	}
	if _, err := warren(t, "", "pki", "client", "--dir", dir, "--name", pki.MemberName); err == nil {
		t.Error("a client with the common name of members")
	}
	for _, f := range []string{"ca.key", "node.key", "m1.key"} {
		if st, err := os.Stat(filepath.Join(dir, f)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, st, err)
		}
	}
	for step := range 3 {
		for _, wrong := range []string{"0", "4", strconv.Itoa((step+1)%3 + 1)} {
			if _, err := warren(t, "", "pki", "rotate", "--dir", dir, "--step", wrong); err == nil || !strings.Contains(err.Error(),
				"expected "+strconv.Itoa(step+1)) {
				t.Errorf("step %s: error %v, expected one that names step %d", wrong, err, step+1)
			}
		}
		mustWarren(t, "", "pki", "rotate", "--dir", dir, "--step", strconv.Itoa(step+1))
		if _, err := pki.LoadCA(dir); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "next*")); left != nil {
		t.Errorf("left after the rotation: %v", left)
	}
}

func TestPKI_Secrets_RotateInThreeSteps(t *testing.T) {
	dir := t.TempDir()
	text := mustWarren(t, "", "pki", "ca", "--dir", dir, "--secret")
	for _, step := range []string{"1", "2", "3"} {
		text = mustWarren(t, text, "pki", "rotate", "--secret", "--step", step)
	}
	var s corev1.Secret
	if err := yaml.UnmarshalStrict([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	if s.Name != "warren-etcd-ca" || len(s.Data) != 2 {
		t.Errorf("Secret %s with %d keys", s.Name, len(s.Data))
	}
	if _, err := pki.ParseCA(s.Data["ca.crt"], s.Data["ca.key"]); err != nil {
		t.Error(err)
	}
	text = mustWarren(t, "", "pki", "client", "--dir", dir, "--secret")
	if err := yaml.UnmarshalStrict([]byte(text), &s); err != nil || s.Type != corev1.SecretTypeTLS || s.Name != "warren-etcd-client" {
		t.Errorf("%v: %s %s", err, s.Name, s.Type)
	}
}

func TestInstallCNI_ChangedPlugin_IsReplaced(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "bin", "warren-cni")
	if err := os.WriteFile(from, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := warren(t, "", "install-cni", "--from", from, "--to", to); err == nil {
		t.Error("installed into a directory that is not there")
	}
	if err := os.Mkdir(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one", "two"} {
		if err := os.WriteFile(from, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := mustWarren(t, "", "install-cni", "--from", from, "--to", to); !strings.HasPrefix(out, "installed") {
			t.Error(out)
		}
		if out := mustWarren(t, "", "install-cni", "--from", from, "--to", to); strings.HasPrefix(out, "installed") {
			t.Error("the same file was installed again")
		}
		got, err := os.ReadFile(to)
		st, serr := os.Stat(to)
		if err != nil || serr != nil || string(got) != want || st.Mode().Perm() != 0o755 {
			t.Errorf("%q %v %v %v", got, err, st.Mode(), serr)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "bin", ".*")); left != nil {
		t.Errorf("left: %v", left)
	}
}
