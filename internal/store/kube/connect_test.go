package kube

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A token that the API server no longer takes is read again at once: the kubelet may have written another one.
func TestConnect_TokenRefused_IsReadAgain(t *testing.T) {
	var good atomic.Value
	good.Store("first")
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+good.Load().(string) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"NamespaceList","apiVersion":"v1","items":[]}`))
	}))
	defer srv.Close()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	conn, err := Connect(Config{TokenFile: write("token", "first"), CAFile: write("ca.crt", string(ca)), ServerName: "example.com"},
		[]string{srv.Listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	list := func() error {
		_, err := conn.Client.CoreV1().Namespaces().List(context.Background(), metav1.ListOptions{})
		return err
	}
	if err := list(); err != nil {
		t.Fatalf("with the first token: %v", err)
	}
	good.Store("second")
	if err := list(); !apierrors.IsUnauthorized(err) {
		t.Errorf("with a token that is void: %v", err)
	}
	write("token", "second")
	if err := list(); err != nil {
		t.Errorf("with the second token: %v", err)
	}
}
