package snapshot

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/disk"
	"github.com/warrennet/warren/internal/store/kube"
)

func newTestSource(t *testing.T, dir disk.Dir, conn *kube.Connection) *Source {
	t.Helper()
	s, err := New(Config{Kube: conn, Node: "n1", Disk: dir, Changed: func() {}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The snapshot of the last run is in use until both the store and the API server have answered.
func TestSource_AnswersAfterRestart_FromDiskEnds(t *testing.T) {
	dir := disk.Dir(t.TempDir())
	if newTestSource(t, dir, nil).FromDisk() {
		t.Error("empty disk: from disk")
	}
	if err := dir.SetSnapshot(&model.Snapshot{Revision: 3}); err != nil {
		t.Fatal(err)
	}
	s := newTestSource(t, dir, nil)
	if !s.FromDisk() || !s.ServicesCached() {
		t.Error("no answer of the store: not from disk")
	}
	s.setRecords(&model.Snapshot{Revision: 4})
	if s.FromDisk() || s.ServicesCached() {
		t.Error("the store has answered: from disk")
	}
	s = newTestSource(t, dir, &kube.Connection{})
	s.setRecords(&model.Snapshot{Revision: 4})
	if !s.FromDisk() || !s.ServicesCached() {
		t.Error("no answer of the API server: not from disk")
	}
	s.setObjects(&kube.Objects{})
	if s.FromDisk() || s.ServicesCached() {
		t.Error("both have answered: from disk")
	}
}

func TestSource_NameserversUnreadable_LastRunsAreUsed(t *testing.T) {
	dir := disk.Dir(t.TempDir())
	last := model.Nameservers{Upstreams: []string{"192.0.2.50"}}
	if err := dir.SetNameservers(last); err != nil {
		t.Fatal(err)
	}
	s := newTestSource(t, dir, &kube.Connection{})
	s.setObjects(&kube.Objects{Nameservers: nil}) // the ConfigMap is there and cannot be read
	if n, fresh := s.Nameservers(); fresh || !slices.Equal(n.Upstreams, last.Upstreams) {
		t.Errorf("%v, fresh: %v", n, fresh)
	}
	s.setObjects(&kube.Objects{Nameservers: &model.Nameservers{}})
	if n, fresh := s.Nameservers(); !fresh || len(n.Upstreams) != 0 {
		t.Errorf("%v, fresh: %v", n, fresh)
	}
}

func TestSource_OrderAddresses_NodeObjectsAddressesFirst(t *testing.T) {
	a := netip.MustParseAddr
	s := newTestSource(t, disk.Dir(t.TempDir()), &kube.Connection{})
	s.setObjects(&kube.Objects{Node: kube.Node{Known: true, Addresses: []netip.Addr{a("192.0.2.9"), a("2001:db8::9")}}})
	got := s.OrderAddresses([]netip.Addr{a("10.1.1.1"), a("2001:db8::9"), a("192.0.2.9"), a("10.2.2.2")})
	want := []netip.Addr{a("192.0.2.9"), a("2001:db8::9"), a("10.1.1.1"), a("10.2.2.2")}
	if !slices.Equal(got, want) {
		t.Errorf("%v; expected %v", got, want)
	}
}
