package server

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/pki"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/store/etcd/records"
	"github.com/warrennet/warren/internal/testutil"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// connect opens a client of the cluster "c" with that certificate.
func (a *authority) connect(cert, url string) *client.Client {
	a.t.Helper()
	cli, err := client.New(client.Config{Endpoints: []string{url}, Cluster: "c", CAFile: a.file(pki.CAFile),
		CertFile: a.file(cert + ".crt"), KeyFile: a.file(cert + ".key")})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { cli.Close() })
	return cli
}

func denied(err error) bool { return status.Code(err) == codes.PermissionDenied }

// read is one request that succeeds unless the certificate is revoked.
func read(t *testing.T, cli *client.Client) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := cli.Get(ctx, "k")
	return err
}

func TestAccess_NodeRevoked_CertificateIsRefusedAndStreamsEnd(t *testing.T) {
	a := newAuthority(t)
	c := a.member(pki.MemberName)
	for _, n := range []string{"n1", "n3"} {
		a.issue(n, n)
	}
	stop := run(t, c)
	good, bad := a.connect("n1", c.ClientURLs[0]), a.connect("n3", c.ClientURLs[0])
	if err := read(t, bad); err != nil {
		t.Fatal(err)
	}
	lease, err := bad.Grant(t.Context(), 5)
	testutil.Must(t, err)
	renewals, err := bad.KeepAlive(t.Context(), lease.ID)
	testutil.Must(t, err)
	events := bad.Watch(clientv3.WithRequireLeader(t.Context()), "k", clientv3.WithCreatedNotify())
	if got := <-events; got.Err() != nil || !got.Created {
		t.Fatalf("watch: %+v", got)
	}
	if _, err := records.New(good).Revoke(t.Context(), "n3", time.Now()); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "refusal of a request", func() error {
		if err := read(t, bad); !denied(err) {
			return fmt.Errorf("%v, expected PermissionDenied", err)
		}
		return nil
	})
	for resp := range events { // ends with the stream
		if len(resp.Events) > 0 {
			t.Errorf("the watch of a revoked node delivers %+v", resp.Events)
		}
	}
	for range renewals { //nolint:revive // it ends with the stream
	}
	if err := read(t, a.connect("n3", c.ClientURLs[0])); !denied(err) {
		t.Errorf("a new connection: %v, expected PermissionDenied", err)
	}
	if _, err := bad.Delete(t.Context(), "/warren/c/revoked/n3"); !denied(err) {
		t.Errorf("deletion of the revocation: %v, expected PermissionDenied", err)
	}
	if err := read(t, good); err != nil {
		t.Errorf("another node: %v", err)
	}
	stop()
	run(t, c)
	if err := read(t, a.connect("n3", c.ClientURLs[0])); !denied(err) {
		t.Errorf("after a restart of the member: %v, expected PermissionDenied", err)
	}
	if err := read(t, a.connect("n1", c.ClientURLs[0])); err != nil {
		t.Errorf("another node after a restart of the member: %v", err)
	}
}

// A deletion of the record ends no revocation while the member runs, and a certificate that was issued later is accepted.
func TestAccess_CertificateIssuedLater_IsAccepted(t *testing.T) {
	a := newAuthority(t)
	c := a.member(pki.MemberName)
	a.issue("n1", "n1")
	a.issue("n3", "n3")
	run(t, c)
	good := a.connect("n1", c.ClientURLs[0])
	// Certificates begin an hour before they are issued.
	if _, err := records.New(good).Revoke(t.Context(), "n3", time.Now().Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := read(t, a.connect("n3", c.ClientURLs[0])); err != nil {
		t.Errorf("a certificate that was issued after the revocation: %v", err)
	}
	if _, err := records.New(good).Revoke(t.Context(), "n3", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := good.Delete(t.Context(), good.Key("revoked", "n3")); err != nil {
		t.Fatal(err)
	}
	bad := a.connect("n3", c.ClientURLs[0])
	testutil.Eventually(t, "refusal", func() error {
		if err := read(t, bad); !denied(err) {
			return fmt.Errorf("%v, expected PermissionDenied", err)
		}
		return nil
	})
}

func TestAccess_InvalidRevocation_RefusesNobody(t *testing.T) {
	x := newAccess()
	raw, err := model.Encode(1, model.Revocation{Node: "other", Revoked: time.Now()})
	testutil.Must(t, err)
	x.put(kv("/warren/c/revoked/n1", raw))
	x.put(kv("/warren/c/nodes/other", raw))
	x.put(kv("/warren/c/revoked/n1", []byte("{")))
	if len(x.until) != 0 {
		t.Errorf("%v", x.until)
	}
}

func kv(key string, value []byte) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte(key), Value: value}
}

func TestAccess_ListFull_IsReported(t *testing.T) {
	x := newAccess()
	var ignored []string
	x.ignored = func(node string) { ignored = append(ignored, node) }
	for i := range model.MaxRevocations + 1 {
		name := fmt.Sprint("n", i)
		raw, err := model.Encode(1, model.Revocation{Node: name, Revoked: time.Now()})
		testutil.Must(t, err)
		x.put(kv("/warren/c/revoked/"+name, raw))
	}
	if len(ignored) != 1 || len(x.until) != model.MaxRevocations {
		t.Errorf("%q of %d ignored", ignored, len(x.until))
	}
}

func TestAccess_DateInTheFuture_RefusesNobody(t *testing.T) {
	x := newAccess()
	raw, err := model.Encode(1, model.Revocation{Node: "n1", Revoked: time.Now().Add(time.Hour)})
	testutil.Must(t, err)
	x.put(kv("/warren/c/revoked/n1", raw))
	if len(x.until) != 0 {
		t.Errorf("%v", x.until)
	}
}
