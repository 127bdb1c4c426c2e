package kube

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCandidates_AllOrigins_ListedOnceInOrder(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.43.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "")
	got, err := Candidates{Configured: []string{"192.0.2.1", "https://api.example:6444", "not an address"}, HostIP: "192.0.2.2",
		Cached: []string{"192.0.2.3:6443", "192.0.2.1:6443"}}.List()
	if want := "192.0.2.1:6443 api.example:6444 192.0.2.2:6443 127.0.0.1:6443 192.0.2.3:6443 10.43.0.1:443"; strings.Join(got,
		" ") != want {
		t.Errorf("candidates are %v, want %s", got, want)
	}
	if err == nil || !strings.Contains(err.Error(), `"not an address"`) {
		t.Errorf("error is %v, want one that names the invalid entry", err)
	}
}

func TestFollowFiles_FileAppearsAndChanges_CallsOncePerChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	calls, done := make(chan struct{}, 16), make(chan struct{})
	go func() {
		defer close(done)
		FollowFiles(ctx, []string{filepath.Join(t.TempDir(), "absent"), path}, time.Millisecond, func() { calls <- struct{}{} })
	}()
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	for n := 0; len(calls) == 0; n++ { // until the first reading, which is no change, is over
		write(strings.Repeat("a", n))
		time.Sleep(2 * time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	for len(calls) > 0 {
		<-calls
	}
	write("b")
	select {
	case <-calls:
	case <-time.After(10 * time.Second):
		t.Fatal("no call after the content changed")
	}
	cancel()
	<-done
	if len(calls) != 0 {
		t.Errorf("%d calls without a change", len(calls))
	}
}
