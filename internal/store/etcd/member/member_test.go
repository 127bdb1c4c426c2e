package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/pki"
	"github.com/warrennet/warren/internal/store/etcd/admin"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/store/etcd/etcdtest"
	"github.com/warrennet/warren/internal/store/etcd/registry"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/client-go/kubernetes/fake"
)

// nodes are control-plane nodes on loopback addresses, with one fake API server and real etcd members.
type nodes struct {
	t   *testing.T
	reg registry.Registry
	dir string
	ca  *pki.CA
}

func newNodes(t *testing.T) *nodes {
	t.Helper()
	n := &nodes{t: t, dir: t.TempDir(), reg: registry.Registry{Client: fake.NewClientset(), Namespace: "warren-system"}}
	ca, err := pki.EnsureCA(filepath.Join(n.dir, "ca"), "test")
	if err != nil {
		t.Fatal(err)
	}
	n.ca = ca
	return n
}

// config is that of node number i; its ports stay the same.
func (n *nodes) config(i int) Config {
	name := fmt.Sprintf("n%d", i)
	return Config{Name: name, HostIP: netip.AddrFrom4([4]byte{127, 0, 0, byte(10 + i)}), DataDir: filepath.Join(n.dir, name),
		CADir: filepath.Join(n.dir, "ca"), CertDir: filepath.Join(n.dir, name+"-cert"),
		ClientPort: etcdtest.FreePort(n.t), PeerPort: etcdtest.FreePort(n.t),
		Registry: n.reg, LogLevel: "fatal", Log: slog.New(slog.DiscardHandler)}
}

// run starts a member; stop ends it and returns what Run returned.
func (n *nodes) run(c Config) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	n.t.Cleanup(func() { _ = stop() })
	return stop
}

// client speaks as an agent does: with a certificate that is no member's.
func (n *nodes) client(endpoints ...string) *clientv3.Client {
	n.t.Helper()
	crt, key := filepath.Join(n.dir, "client.crt"), filepath.Join(n.dir, "client.key")
	if err := n.ca.Issue(crt, key, "warren-agent", nil, nil); err != nil {
		n.t.Fatal(err)
	}
	cli, err := client.Dial(client.Config{Endpoints: endpoints, CAFile: filepath.Join(n.dir, "ca", pki.CAFile), CertFile: crt,
		KeyFile: key})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { cli.Close() })
	return cli
}

func (n *nodes) until(what string, f func(context.Context) error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			n.t.Fatalf("not within a minute: %s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// serves waits until the registry names exactly these members with an ID and etcd lists them, all voting.
func (n *nodes) serves(names ...string) registry.Record {
	n.t.Helper()
	var rec registry.Record
	n.until(fmt.Sprint("members ", names), func(ctx context.Context) (err error) {
		if rec, _, err = n.reg.Read(ctx); err != nil {
			return err
		}
		urls := rec.ClientURLs("")
		if len(urls) != len(names) {
			return fmt.Errorf("recorded: %v", rec.Members)
		}
		cli := n.client(urls...)
		defer cli.Close()
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		members, err := admin.Members(ask, cli)
		if err != nil {
			return err
		}
		if len(members) != len(names) {
			return fmt.Errorf("etcd lists %v", members)
		}
		for _, name := range names {
			if m, err := admin.Find(members, name); err != nil || m.Learner {
				return fmt.Errorf("%v is no full member: %w", m, errors.Join(err, errWait))
			}
		}
		return nil
	})
	return rec
}

// Three nodes start at once: one founds, two join it. Then one loses its disk, and comes back under its name.
func TestMember_DiskLost_RejoinsTheCluster(t *testing.T) {
	n := newNodes(t)
	configs := []Config{n.config(1), n.config(2), n.config(3)}
	var stops []func() error
	for _, c := range configs {
		stops = append(stops, n.run(c))
	}
	rec := n.serves("n1", "n2", "n3")
	cli := n.client(rec.ClientURLs("")...)
	if _, err := cli.Put(context.Background(), "/warren/k", "v"); err != nil {
		t.Fatal(err)
	}
	lost := rec.Members["n2"].ID
	if err := stops[1](); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(configs[1].DataDir); err != nil {
		t.Fatal(err)
	}
	n.run(configs[1])
	n.until("n2 has another ID", func(ctx context.Context) error {
		rec, _, err := n.reg.Read(ctx)
		if id := rec.Members["n2"].ID; err != nil || id == lost || id == "" {
			return fmt.Errorf("ID %q, err %w", id, errors.Join(err, errWait))
		}
		return nil
	})
	n.serves("n1", "n2", "n3")
	got, err := n.client(configs[1].url(configs[1].ClientPort)).Get(context.Background(), "/warren/k")
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("the new n2 does not have the key: %v %v", got, err)
	}
}

// A member that was removed does not start again with its former data.
func TestMember_RemovedFromCluster_DoesNotRejoin(t *testing.T) {
	n := newNodes(t)
	c := n.config(1)
	stop := n.run(c)
	n.serves("n1")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := n.reg.Forget(context.Background(), "n1"); err != nil {
		t.Fatal(err)
	}
	if err := Run(context.Background(), c); err == nil || !strings.Contains(err.Error(), "does not name n1") {
		t.Fatalf("it started: %v", err)
	}
}

// The only member without its data fails with an error; it does not start an empty cluster.
func TestMember_OnlyMemberWithoutDisk_RefusesToStart(t *testing.T) {
	n := newNodes(t)
	c := n.config(1)
	stop := n.run(c)
	n.serves("n1")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := Run(context.Background(), c); err == nil || !strings.Contains(err.Error(), "only member") {
		t.Fatalf("it started: %v", err)
	}
}

// A snapshot in the data directory begins a new cluster with what was saved, and later revisions are higher than any
// that a client has seen.
func TestMember_RestoreFile_StartsFromTheSnapshot(t *testing.T) {
	n := newNodes(t)
	ctx := context.Background()
	c := n.config(1)
	stop := n.run(c)
	n.serves("n1")
	cli := n.client(c.url(c.ClientPort))
	put := func(key string) int64 {
		t.Helper()
		r, err := cli.Put(ctx, key, "v")
		if err != nil {
			t.Fatal(err)
		}
		return r.Header.Revision
	}
	put("/warren/before")
	file := filepath.Join(n.dir, "backup.db")
	if _, err := admin.SaveFile(ctx, cli, file); err != nil {
		t.Fatal(err)
	}
	seen := put("/warren/after")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file, filepath.Join(c.DataDir, RestoreFile)); err != nil {
		t.Fatal(err)
	}
	n.run(c)
	n.serves("n1")
	got, err := cli.Get(ctx, "/warren/", clientv3.WithPrefix())
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Key) != "/warren/before" {
		t.Fatalf("restored: %v %v", got, err)
	}
	if got.Header.Revision <= seen {
		t.Errorf("revision %d after the restore, %d was seen before", got.Header.Revision, seen)
	}
	if left, _ := filepath.Glob(filepath.Join(c.DataDir, "*")); len(left) != 3 {
		t.Errorf("in the data directory: %v", left)
	}
}

func TestMember_PortInUse_ErrorNamesTheProcess(t *testing.T) {
	n := newNodes(t)
	c := n.config(1)
	l, err := net.Listen("tcp", c.listens()[1])
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = Run(context.Background(), c)
	want := fmt.Sprintf("%s: process %d (", l.Addr(), os.Getpid())
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v; expected %q in it", err, want)
	}
}

// An agent's certificate opens the clients' port and not the members'.
func TestMember_ClientCertificate_IsRefusedAsPeer(t *testing.T) {
	n := newNodes(t)
	c := n.config(1)
	n.run(c)
	n.serves("n1")
	n.client(c.url(c.ClientPort)) // writes the files
	as := func(cert string) error {
		tc, err := tlsClient(filepath.Join(n.dir, "ca", pki.CAFile), cert)
		if err != nil {
			t.Fatal(err)
		}
		return get(tc, c.url(c.PeerPort)+"/members")
	}
	if err := as(filepath.Join(n.dir, "client")); err == nil {
		t.Error("a client spoke to the members' port")
	}
	if err := as(filepath.Join(c.CertDir, "tls")); err != nil {
		t.Errorf("a member cannot: %v", err)
	}
}
